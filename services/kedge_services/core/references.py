"""References: what features, predictions, scores and labels looked like when all was well.

A reference is made of a table whose rows are in event-time order
(:func:`build_reference`), or learnt from a version's first live rows:
:func:`learn_cuts` fixes the bins from a sample, :func:`learn_counts` adds the
counts of the rows that followed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar, label_text
from kedge.panes import Calibrator, FeatureReference, Reference
from kedge_services.core.binning import (
    FeatureBinner,
    Values,
    finite_numbers,
    output_label,
    output_score,
)
from kedge_services.core.blocks import BLOCKS, counter_blocks
from kedge_services.core.class_losses import class_losses
from kedge_services.core.deltas import DriftDelta, LearningDelta
from kedge_services.core.projecting import project
from kedge_services.core.sketches import FeatureCounts
from kedge_services.core.strata import RowTimes, stratified

__all__ = [
    "BINS",
    "BLOCKS",
    "SCORE_CUTS",
    "TOP_CATEGORIES",
    "build_reference",
    "describe",
    "learn_counts",
    "learn_cuts",
    "numeric_cuts",
]

Kind = Literal["numeric", "categorical"]
Origin = Literal["training", "held-out", "learnt", "file"]

#: Numeric bins aimed at; a feature with at most as many values gets a bin for each.
BINS = 32
_BINARY = 2
TOP_CATEGORIES = 64
#: The 99 inner edges of [0, 1].
SCORE_CUTS = [i / 100 for i in range(1, 100)]
#: Known categories beyond the top ones that are listed; rarer ones count as unseen.
_LISTED_CATEGORIES = 20_000


def numeric_cuts(values: NDArray[np.float64]) -> list[float]:
    """Give the cuts of a numeric feature: quantiles, and both sides of every atom.

    Parameters
    ----------
    values
        Sorted, finite.

    Notes
    -----
    A value that holds at least 1/64 of the rows (or any value when there are at
    most 32) is an *atom*: the largest float below it is a cut too, so that it
    has a bin of its own and what lies between two atoms falls into a gap.
    """
    if not values.size:
        return []
    distinct, counts = np.unique(values, return_counts=True)
    if distinct.size <= BINS:
        candidates, atoms = distinct, distinct
    else:
        # x[ceil(N k / B)] for k = 1..31, counted from one.
        ranks = -(-values.size * np.arange(1, BINS) // BINS) - 1
        candidates = np.unique(values[ranks])
        share = counts[np.searchsorted(distinct, candidates)]
        atoms = candidates[share * 2 * BINS >= values.size]
    # -0.0 == 0.0 is one value; adding 0.0 gives it one spelling, so one reference id.
    with np.errstate(over="ignore", under="ignore"):  # nothing lies below the lowest float
        gaps = np.nextafter(atoms, -np.inf)
    cuts = np.unique(np.concatenate([candidates, gaps])) + 0.0
    return [float(cut) for cut in cuts if math.isfinite(cut)]


def describe(
    kind: Kind, values: Values, *, cuts: Sequence[float] | None = None
) -> FeatureReference:
    """Count a column of the reference on bins made from itself.

    Parameters
    ----------
    kind
        How it is declared.
    values
        Rows in event-time order, so that the blocks are contiguous in time.
    cuts
        Numeric only: cuts to take instead of quantiles.
    """
    shape = _numeric_shape(values, cuts) if kind == "numeric" else _categorical_shape(values)
    binner = FeatureBinner(shape.bins)
    rows = len(values)
    edges = [k * rows // BLOCKS for k in range(BLOCKS + 1)]
    blocks = [binner.count(values[a:b]) for a, b in itertools.pairwise(edges)]
    whole = binner.zero()
    for block in blocks:
        whole.add(block)
    return _counted(shape.bins, whole).model_copy(
        update={
            "f1": shape.once,
            "blocks": [block.bins.tolist() for block in blocks],
            "counter_blocks": counter_blocks(blocks),
        }
    )


def build_reference(  # noqa: PLR0913 -- every argument is named by its caller
    *,
    model: str,
    version: str,
    columns: Mapping[str, Values],
    kinds: Mapping[str, Kind],
    predictions: Sequence[Scalar | None] | None = None,
    scores: Sequence[float | None] | None = None,
    labels: Sequence[Scalar | None] | None = None,
    losses: Sequence[float] | None = None,
    calibrator: Calibrator | None = None,
    effective_ms: int = 0,
    origin: Origin = "held-out",
    lineage: Mapping[str, Any] | None = None,
    regression: bool | None = None,
    times: RowTimes | None = None,
) -> Reference:
    """Make the reference of a version from a table in event-time order.

    Parameters
    ----------
    columns, kinds
        The rows by feature, and how each feature is declared; all columns have
        the same length.
    predictions, labels
        Classes, or for regression numbers.
    scores
        The score of the positive class, or of the top class of several.
    losses
        Of labelled rows that the model was not fitted on: 0 or 1 for
        classification, the absolute error for regression.
    calibrator
        Fitted on the same rows' scores and labels; None where they have none.
    regression
        Whether predictions and labels are numbers; None: they are when there
        are no scores and every prediction (or label) is a float.
    times
        Event times of the rows, when the hours of the week are to be told apart.

    Raises
    ------
    ValueError
        The columns differ in length, or there is none.
    """
    lengths = {len(columns[name]) for name in kinds}
    if len(lengths) != 1:
        raise ValueError(f"the columns of a reference differ in length: {sorted(lengths)}")
    if regression is None:
        regression = scores is None and _all_floats(predictions or labels)
    answers: Kind = "numeric" if regression else "categorical"
    loss = None if losses is None else _loss(losses, regression=regression)
    if loss and not regression and predictions and len({*(labels or ())}) == _BINARY:
        loss |= class_losses(predictions, labels or (), errors=loss["errors"])
    features = {name: describe(kind, columns[name]) for name, kind in kinds.items()}
    parts: dict[str, Any] = {
        "model": model,
        "version": version,
        "rows": lengths.pop(),
        "features": features,
        # Strata have counts of their own, but nothing is kept of how features go together.
        "projection": project(features, columns, blocks=BLOCKS) if times is None else None,
        "prediction": describe(answers, predictions) if predictions else None,
        "score": describe("numeric", scores, cuts=SCORE_CUTS) if scores else None,
        "label": describe(answers, labels) if labels else None,
        "loss": loss,
        "calibrator": calibrator,
        **_loss_bins(losses if regression else None),
    }
    told = dict(lineage or {})
    if times is not None and parts["rows"]:
        beside = {"prediction": predictions, "score": scores, "label": labels}
        found = stratified(parts, columns, {n: v for n, v in beside.items() if v}, times)
        told |= found.pop("lineage")
        parts |= found
    return _reference(parts, effective_ms=effective_ms, origin=origin, lineage=told)


def learn_cuts(
    delta: LearningDelta,
    *,
    model: str,
    version: str,
    kinds: Mapping[str, Kind],
    regression: bool,
    effective_ms: int,
) -> Reference:
    """Fix the bins of a version nobody registered from a sample of its rows; counts are zero.

    The id is that of the bins: it stays when :func:`learn_counts` fills them.
    """
    rows = [delta.sample[key] for key in sorted(delta.sample)]
    features = [row[0] for row in rows]
    outputs = [row[1] if len(row) > 1 else None for row in rows]
    predictions = [output_label(output) for output in outputs]
    scores = [output_score(output) for output in outputs]
    answers: Kind = "numeric" if regression else "categorical"
    some_score = any(score is not None for score in scores)
    parts: dict[str, Any] = {
        "model": model,
        "version": version,
        "rows": 0,
        "features": {
            name: _empty(kind, [row.get(name) for row in features]) for name, kind in kinds.items()
        },
        "prediction": (
            _empty(answers, predictions) if any(p is not None for p in predictions) else None
        ),
        "score": _empty("numeric", scores, cuts=SCORE_CUTS) if some_score else None,
    }
    return _reference(
        parts, effective_ms=effective_ms, origin="learnt", lineage={"sample": len(rows)}
    )


def learn_counts(reference: Reference, counted: DriftDelta) -> Reference:
    """Fill the bins of a learnt reference with the rows counted on them."""

    def filled(mine: FeatureReference | None, counts: FeatureCounts | None) -> Any:
        if mine is None or counts is None:
            return mine
        # Seen in rows that the bins were not made from, so `unseen` is itself the
        # estimate that the number of categories seen once is elsewhere.
        return _counted(mine, counts).model_copy(update={"f1": counts.unseen})

    return reference.model_copy(
        update={
            "rows": counted.rows,
            "outside": counted.outside,
            "features": {
                name: filled(feature, counted.features.get(name))
                for name, feature in reference.features.items()
            },
            "prediction": filled(reference.prediction, counted.prediction),
            "score": filled(reference.score, counted.score),
        }
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    """Bins without counts, and how many values (or rows) they will not know again."""

    bins: FeatureReference
    once: int


def _numeric_shape(values: Values, cuts: Sequence[float] | None) -> _Shape:
    finite = finite_numbers(values)
    made = list(cuts) if cuts is not None else numeric_cuts(finite)
    _, counts = np.unique(finite, return_counts=True)
    centre, step = _units(finite)
    bins = FeatureReference(
        kind="numeric",
        cuts=made,
        counts=[0] * (len(made) + 1),
        total=0,
        min=float(finite[0]) if finite.size else None,
        max=float(finite[-1]) if finite.size else None,
        centre=centre,
        step=step,
    )
    few = cuts is None and counts.size <= BINS
    return _Shape(bins, once=int((counts == 1).sum()) if few else 0)


def _units(finite: NDArray[np.float64]) -> tuple[float, float]:
    """Give the units moments are kept in: the median, and about 1/1024 of the quartiles' distance.

    The step is a power of two, so that dividing by it is exact; of values that are all
    but equal it comes from their range.
    """
    n = finite.size
    if not n:
        return 0.0, 1.0
    at = [-(-n * quarter // 4) - 1 for quarter in (1, 2, 3)]
    low, centre, high = (float(x) for x in finite[at])
    spread = high - low or float(finite[-1]) - float(finite[0])
    if not spread or not math.isfinite(spread):
        return centre, 1.0
    exponent = math.ceil(math.log2(spread)) - 10
    return centre, math.ldexp(1.0, min(1000, max(-1000, exponent)))


def _categorical_shape(values: Values) -> _Shape:
    tally = Counter(
        label_text(v)
        for v in (values.tolist() if isinstance(values, np.ndarray) else values)
        if v is not None and not (isinstance(v, float) and not math.isfinite(v))
    )
    ranked = sorted(tally, key=lambda name: (-tally[name], name.encode()))
    listed = ranked[: TOP_CATEGORIES + _LISTED_CATEGORIES]
    bins = FeatureReference(
        kind="categorical",
        categories=listed[:TOP_CATEGORIES],
        others=listed[TOP_CATEGORIES:],
        counts=[0] * (min(len(listed), TOP_CATEGORIES) + 1),
        total=0,
    )
    once = sum(1 for name in listed if tally[name] == 1)
    return _Shape(bins, once=once + sum(tally[name] for name in ranked[len(listed) :]))


def _empty(kind: Kind, values: Values, cuts: Sequence[float] | None = None) -> FeatureReference:
    return (_numeric_shape(values, cuts) if kind == "numeric" else _categorical_shape(values)).bins


def _counted(bins: FeatureReference, counts: FeatureCounts) -> FeatureReference:
    return bins.model_copy(
        update={
            "counts": counts.bins.tolist(),
            "total": counts.total,
            "null": counts.null,
            "nan": counts.nan,
            "inf": counts.inf,
            "type_error": counts.type_error,
            "below": counts.below,
            "above": counts.above,
            "total_z": counts.total_z,
            "squares_z": counts.squares_z,
            "clipped": counts.clipped,
        }
    )


def _reference(parts: Mapping[str, Any], **rest: Any) -> Reference:
    made = Reference(reference_id="-", **parts, **rest)
    counted = made.model_dump(mode="json", include=set(parts), exclude_none=True)
    # Model and version belong to the id: references are kept by (model, id), so two
    # versions with the same rows must not share one.
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return made.model_copy(update={"reference_id": hashlib.sha256(text.encode()).hexdigest()})


def _loss(losses: Sequence[float], *, regression: bool) -> dict[str, float]:
    if not regression:
        return {"n": float(len(losses)), "errors": math.fsum(losses)}
    return {
        "n": float(len(losses)),
        "sum": math.fsum(losses),
        "sum_of_squares": math.fsum(loss * loss for loss in losses),
    }


def _loss_bins(losses: Sequence[float] | None) -> dict[str, Any]:
    if not losses:
        return {}
    ordered = finite_numbers(np.array(losses, dtype=np.float64))
    cuts = numeric_cuts(ordered)
    at_most = np.searchsorted(ordered, cuts, side="right")
    return {
        "loss_cuts": cuts,
        "loss_counts": np.diff(at_most, prepend=0, append=ordered.size).tolist(),
    }


def _all_floats(values: Iterable[Scalar | None] | None) -> bool:
    kinds = {type(value) for value in values or () if value is not None}
    return kinds == {float}
