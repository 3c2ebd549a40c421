"""Which counters of a reference are tested, and what they are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge import FeatureReference

__all__ = ["Counter", "counters", "valid_rows"]

_Ints = NDArray[np.int64]


class Counter(NamedTuple):
    """One counter of all features that have it: what does not depend on the window.

    Attributes
    ----------
    features
        Their numbers.
    is_of_valid
        Whether the values that could be judged are counted against, or all values.
    known, rows
        Of the reference: marked values, and all they are out of.
    phi
        Overdispersion.
    parts
        Counters of a window whose sum it is.
    gaps
        Or the bins, of the one feature it is of.
    """

    name: str
    features: _Ints
    is_of_valid: bool
    known: _Ints
    rows: _Ints
    phi: NDArray[np.float64]
    parts: Sequence[str] = ()
    gaps: _Ints | None = None


def counters(
    features: Mapping[str, FeatureReference], phi: Mapping[str, Mapping[str, float]]
) -> Iterator[Counter]:
    """Give the counters of these features, with the overdispersion of each."""
    numbered = list(enumerate(features.items()))

    def column(
        name: str,
        known: Mapping[int, int],
        parts: Sequence[str] = (),
        *,
        is_of_valid: bool = True,
        gaps: _Ints | None = None,
    ) -> Counter:
        mine = [item for i, item in numbered if i in known]
        rows = [valid_rows(f) if is_of_valid else f.total for _, f in mine]
        return Counter(
            name,
            np.array(list(known), dtype=np.int64),
            is_of_valid,
            np.array(list(known.values()), dtype=np.int64),
            np.array(rows, dtype=np.int64),
            np.array([phi[feature][name] for feature, _ in mine], dtype=np.float64),
            parts,
            gaps,
        )

    everything = [(i, f) for i, (_, f) in numbered]
    judged = [(i, f) for i, f in everything if valid_rows(f)]
    numeric = [(i, f) for i, f in judged if f.kind == "numeric"]
    yield column("null", {i: f.null for i, f in everything}, ["null"], is_of_valid=False)
    yield column(
        "type_error", {i: f.type_error for i, f in everything}, ["type_error"], is_of_valid=False
    )
    yield column(
        "not_finite",
        {i: f.nan + f.inf for i, f in everything},
        ["nan", "inf"],
        is_of_valid=False,
    )
    unseen = {i: f.f1 for i, f in judged if f.kind == "categorical"}
    yield column("unseen", unseen, ["unseen"])
    yield column("below", {i: f.below for i, f in numeric}, ["below"])
    yield column("above", {i: f.above for i, f in numeric}, ["above"])
    for i, f in numeric:
        if (gaps := _gaps(f)) is not None:
            yield column("unseen", {i: f.f1}, gaps=gaps)


def valid_rows(reference: FeatureReference) -> int:
    """Give N: the reference's values that could be judged."""
    bad = reference.null + reference.nan + reference.inf + reference.type_error
    return reference.total - bad


def _gaps(feature: FeatureReference) -> NDArray[np.int64] | None:
    """Give the inner gap bins of a few-valued feature; None for any other."""
    cuts: Sequence[float] = feature.cuts
    if not cuts or len(cuts) % 2 or any(feature.counts[::2]):
        return None
    pairs = zip(cuts[::2], cuts[1::2], strict=True)
    if any(math.nextafter(atom, -math.inf) != gap for gap, atom in pairs):
        return None
    return np.arange(2, len(cuts), 2)
