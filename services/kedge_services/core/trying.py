"""Tests that are asked for on the way, so that those of many series are made together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

from kedge_services.core.detectors import DriftJudge, Trial, try_together
from kedge_services.core.stacks import Stack

__all__ = ["Question", "Steps", "Tried", "answers", "tried_by_scale"]


class Question(NamedTuple):
    """Windows of a series that are to be tested, and their scales."""

    judge: DriftJudge
    stack: Stack
    scales: list[int]


Steps = Generator[Sequence[Question], Sequence[Sequence[Trial]], None]
"""Work that asks for tests on its way, so that those of many series are made together."""


def answers(questions: Sequence[Question]) -> list[list[Trial]]:
    """Make the tests that are asked for."""
    return try_together([(one.judge, one.stack) for one in questions])


class Tried(NamedTuple):
    """A window that was tested: where its counts are, and what was found."""

    stack: Stack
    window: int
    trial: Trial


def tried_by_scale(
    questions: Sequence[Question], trials: Sequence[Sequence[Trial]]
) -> dict[int, Tried]:
    """Give what was found by scale."""
    return {
        scale: Tried(one.stack, i, trial)
        for one, mine in zip(questions, trials, strict=True)
        for i, (scale, trial) in enumerate(zip(one.scales, mine, strict=True))
    }
