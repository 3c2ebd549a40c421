"""Tests that are asked for on the way, so that those of many series are made together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

from kedge import Reference
from kedge_services.core.detectors import DriftJudge, Trial, try_together
from kedge_services.core.pane_counts import PaneCounts
from kedge_services.core.stacks import Stack

__all__ = ["Question", "Steps", "Tried", "answers", "questions_of", "tried_by_scale"]


class Question(NamedTuple):
    """Windows of a series that are to be tested, and their scales."""

    judge: DriftJudge
    stack: Stack
    scales: list[int]


Steps = Generator[Sequence[Question], Sequence[Sequence[Trial]], None]
"""Work that asks for tests on its way, so that those of many series are made together."""


def questions_of(
    panes: Sequence[PaneCounts],
    sizes: Mapping[int, tuple[int, Reference]],
    judge_of: Callable[[Reference], DriftJudge],
) -> list[Question]:
    """Ask for the tests of windows that end with the same pane, by what they are held to.

    Parameters
    ----------
    panes
        Those with rows, the newest first.
    sizes
        How many of them each window has, and what it is held to, by scale.
    judge_of
        Gives who tests against a reference.
    """
    together: dict[int, dict[int, int]] = {}
    held_to: dict[int, Reference] = {}
    for scale, (size, reference) in sizes.items():
        together.setdefault(id(reference), {})[scale] = size
        held_to[id(reference)] = reference
    return [
        Question(
            judge_of(held_to[same]),
            Stack(panes[: max(mine.values())], list(mine.values())),
            list(mine),
        )
        for same, mine in together.items()
    ]


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
