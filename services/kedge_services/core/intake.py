"""What a record has to be to be counted, and what the join keeps of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Raw
from msgspec.json import Encoder

from kedge.base import label_text
from kedge.errors import DeadLetter
from kedge.topics import request_id
from kedge_services.core.decoding import OutcomeRow, OutputRow, PredictionRow
from kedge_services.core.entries import NOTHING, UNLABELLED, Held
from kedge_services.core.partitioning import key_partitions
from kedge_services.core.plans import Plan

__all__ = ["answer", "hold", "output_refusal", "refuse_misplaced", "score_of"]

_encode = Encoder().encode


def refuse_misplaced(
    rows: Sequence[PredictionRow | OutcomeRow | DeadLetter],
    *,
    keys: Sequence[bytes | None],
    timestamps_ms: Sequence[int],
    partition: int,
    partitions: int,
    max_skew_ms: int,
) -> list[tuple[int, DeadLetter]]:
    """Find the records whose key, partition or time is wrong.

    Parameters
    ----------
    rows
        Decoded records; what is a dead letter already is left alone.
    keys, timestamps_ms
        Of the same records; the time is that of their append.
    partition, partitions
        Where they lie, and how many partitions there are.
    max_skew_ms
        How far event time may lie ahead of append time.

    Returns
    -------
    list
        Position and dead letter.
    """
    refused: list[tuple[int, DeadLetter]] = []
    good = [i for i, row in enumerate(rows) if not isinstance(row, DeadLetter)]
    names = [rows[i].prediction_id for i in good]  # type: ignore[union-attr]
    wanted = [(request_id(name) if "#" in name else name).encode() for name in names]
    # With one partition no record can be on the wrong one.
    actual = key_partitions(wanted, partitions) if partitions > 1 else np.zeros(len(wanted))
    misrouted = dict.fromkeys(np.flatnonzero(actual != partition).tolist())
    for k, (i, key) in enumerate(zip(good, wanted, strict=True)):
        time_ms = rows[i].event_time_ms  # type: ignore[union-attr]
        if keys[i] != key:
            shown = "none" if keys[i] is None else repr(keys[i])
            detail = f"the key should be the request id {key.decode()!r}, it is {shown}"
            refused.append((i, DeadLetter("bad-key", detail)))
        elif k in misrouted:
            detail = (
                f"request id {key.decode()!r} belongs to partition {int(actual[k])}; "
                "set partitioner=murmur2_random"
            )
            refused.append((i, DeadLetter("misrouted", detail)))
        elif time_ms > timestamps_ms[i] + max_skew_ms:
            detail = (
                f"event_time_ms {time_ms} is {time_ms - timestamps_ms[i]} ms ahead of the "
                f"record's append time; at most {max_skew_ms} ms are allowed"
            )
            refused.append((i, DeadLetter("bad-time", detail)))
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
    """Give what the join keeps of a prediction; of a model without labels only the id.

    Features and output are kept only ``for_examples``.
    """
    if not plan.labelled:
        return Held(
            plan.model, row.version, row.role == "champion", row.event_time_ms, offset,
            UNLABELLED, plan.grace_ms, plan.pane_ms, plan.cell_ms,
        )  # fmt: skip
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
