"""What a record has to be to be counted, and what the join keeps of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress, count
from operator import ne

import numpy as np
from msgspec import Raw
from msgspec.json import Encoder
from numpy.typing import NDArray

from kedge.base import label_text
from kedge.errors import DeadLetter
from kedge.topics import request_id
from kedge_services.core.decoding import OutputRow, PredictionRow
from kedge_services.core.entries import NOTHING, Held
from kedge_services.core.id_texts import IdTexts
from kedge_services.core.plans import Plan

__all__ = [
    "answer",
    "find_misplaced",
    "hold",
    "output_refusal",
    "score_of",
]

_encode = Encoder().encode


def find_misplaced(
    names: Sequence[str],
    times_ms: NDArray[np.int64],
    *,
    keys: Sequence[bytes | None],
    timestamps_ms: NDArray[np.int64],
    partition: int,
    partitions: int,
    max_skew_ms: int,
    texts: IdTexts | None = None,
) -> dict[int, DeadLetter]:
    """Find the records whose key, partition or time is wrong, all given as columns.

    Parameters
    ----------
    names
        Prediction ids.
    times_ms
        Event times.
    keys, timestamps_ms
        Of the same records; the time is that of their append.
    partition, partitions
        Where they lie, and how many partitions there are.
    max_skew_ms
        How far event time may lie ahead of append time.
    texts
        The names, where they have been laid out before.

    Returns
    -------
    dict
        Dead letters by position.
    """
    refused: dict[int, DeadLetter] = {}
    for k in np.flatnonzero(times_ms > timestamps_ms + max_skew_ms).tolist():
        time_ms, appended_ms = int(times_ms[k]), int(timestamps_ms[k])
        refused[k] = DeadLetter(
            "bad-time",
            f"event_time_ms {time_ms} is {time_ms - appended_ms} ms ahead of the "
            f"record's append time; at most {max_skew_ms} ms are allowed",
        )
    if texts is None:
        texts = IdTexts.of(names)
    # With one partition no record can be on the wrong one.
    if partitions > 1 and names:
        actual = texts.partitions(partitions)
        for k in np.flatnonzero(actual != partition).tolist():
            detail = (
                f"request id {request_id(names[k])!r} belongs to partition "
                f"{int(actual[k])}; set partitioner=murmur2_random"
            )
            refused[k] = DeadLetter("misrouted", detail)
    if not texts.are(keys):
        for k in compress(count(), map(ne, keys, texts.request_ids(names))):
            key, wanted = keys[k], request_id(names[k])
            shown = "none" if key is None else repr(key)
            detail = f"the key should be the request id {wanted!r}, it is {shown}"
            refused[k] = DeadLetter("bad-key", detail)
    return refused


def output_refusal(plan: Plan, output: OutputRow | None) -> DeadLetter | None:
    """Refuse an answer whose label is none of the declared classes."""
    if output is None or output.label is None or plan.regression or plan.accepts(output.label):
        return None
    return DeadLetter("bad-value", "output." + plan.refusal(output.label))


def answer(plan: Plan, output: OutputRow | None) -> str | float | None:
    """Give what performance compares with the label: a label's text, or a finite value.

    Without a label that is the class with the highest score (the first
    declared of equals), or the positive class from a score of one half.
    """
    if output is None:
        return None
    if plan.regression:
        value = output.value
        return value if value is not None and math.isfinite(value) else None
    if output.label is not None:
        return label_text(output.label)
    if output.scores:
        known = [text for text in plan.classes if text in output.scores]
        return max(known, key=output.scores.__getitem__, default=None)
    if output.score is None or plan.positive is None or math.isnan(output.score):
        return None
    negative = next(text for text in plan.classes if text != plan.positive)
    return plan.positive if output.score >= 0.5 else negative


def score_of(plan: Plan, output: OutputRow | None) -> float | None:
    """Give the score that labels are compared with: of the positive class, or of the top class."""
    if output is None or plan.regression:
        return None
    score = output.score
    if score is None and output.scores:
        score = (
            max(output.scores.values())
            if plan.positive is None
            else output.scores.get(plan.positive)
        )
    return score if score is not None and math.isfinite(score) else None


def hold(
    plan: Plan, row: PredictionRow, *, offset: int, reference_id: str, for_examples: bool = True
) -> Held:
    """Give what the join keeps of a prediction.

    Features and output are kept only ``for_examples``.
    """
    return Held(
        plan.model,
        row.version,
        row.role == "champion",
        row.event_time_ms,
        offset,
        plan.horizon_ms,
        plan.wait_ms,
        plan.performance_pane_ms,
        plan.cell_ms,
        reference_id,
        answer(plan, row.output),
        NOTHING if row.output is None or not for_examples else Raw(_encode(row.output)),
        Raw(_encode(row.features)) if for_examples else NOTHING,
        {name: row.segments[name] for name in plan.segments if name in row.segments}
        if plan.segments
        else {},
        score_of(plan, row.output),
        plan.positive or "",
    )
