"""The running mean and deviation of columns: River's scaler, from a state and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from river.preprocessing import StandardScaler

from kedge_services.runtime.formats.river_json import Z_BOUND, Moments

__all__ = ["learning_rate", "moments_of", "scaler_of", "z_scores"]


def scaler_of(state: Mapping[str, Moments]) -> Any:
    """Give a scaler that knows these moments."""
    scaler = StandardScaler()
    for name, moments in state.items():
        scaler.counts[name] = moments.count
        scaler.means[name] = moments.mean
        scaler.vars[name] = moments.variance
    return scaler


def moments_of(scaler: Any) -> dict[str, Moments]:
    """Give what a scaler knows."""
    return {
        name: Moments(int(count), float(scaler.means[name]), float(scaler.vars[name]))
        for name, count in scaler.counts.items()
    }


def z_scores(scaler: Any, numbers: Mapping[str, float]) -> dict[str, float]:
    """Scale the numbers that are there, each within its bound."""
    found: Mapping[str, float] = scaler.transform_one(numbers)
    return {name: min(max(score, -Z_BOUND), Z_BOUND) for name, score in found.items()}


def learning_rate(columns: int) -> float:
    """Give the rate of gradient descent on a squared error over so many z-scores.

    A step multiplies the error of its row by 1 - 2 · rate · |z|², and |z|² is
    about the number of columns: with 100 of them River's 0.01 would diverge.
    """
    return min(0.01, 0.25 / (columns + 1))
