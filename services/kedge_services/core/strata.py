"""Strata: the counts of a reference by groups of hours of the week.

An hour with at least 500 rows in 3 weeks has counts of its own.  Another is counted
together with the same hour of all weekdays, or of the weekend; where that is too
little, with that hour of every day; else with everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kedge import FeatureReference, Reference
from kedge.panes import SeasonalCounts, Seasons
from kedge_services.core.binning import FeatureBinner, Values
from kedge_services.core.deltas import DriftDelta
from kedge_services.core.integrity import rounded
from kedge_services.core.seasons import EXTRAS, HOURS, distributions, pack, slots, unpack
from kedge_services.core.sketches import FeatureCounts

__all__ = [
    "LEAST_ROWS",
    "LEAST_WEEKS",
    "MOST_BYTES",
    "RowTimes",
    "counted_by_slot",
    "slot_counts",
    "stratified",
]

LEAST_ROWS: Final = 500
LEAST_WEEKS: Final = 3
#: What strata may add to a reference, which has to fit into a record of 8 MB.
MOST_BYTES: Final = 5_000_000
#: Expected rows of a category in an hour of a week, below which it is not compared.
_LEAST_EXPECTED: Final = 5
_DAY: Final = 24
_FRIDAY: Final = 4
_LEVELS: Final = ("own", "weekdays or weekend", "every day", "all hours")

_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowTimes:
    """When the rows of a reference happened, and by whose clocks hours are told.

    ``features_ms`` and ``answers_ms`` are event times of the rows of the feature columns,
    and of predictions, scores and labels; None: the answers' rows are the same.
    """

    timezone: str
    features_ms: Sequence[int] | _Ints
    answers_ms: Sequence[int] | _Ints | None = None


class _Groups:
    """Which hours of the week are counted together.

    Parameters
    ----------
    rows
        int64, shape (168, weeks).
    sizes
        Numbers of bins of all that is counted by these groups.
    """

    def __init__(self, rows: _Ints, sizes: Sequence[int]) -> None:
        finest = 0
        while True:
            self._assign(rows, finest)
            if finest + 1 == len(_LEVELS) or self._bytes(sizes) <= MOST_BYTES:
                return
            finest += 1

    def _assign(self, rows: _Ints, finest: int) -> None:
        hours = np.arange(HOURS)
        weekend = hours // _DAY > _FRIDAY
        keys = [hours, hours % _DAY + _DAY * weekend, hours % _DAY, np.zeros(HOURS, dtype=np.int64)]
        found: dict[tuple[int, int], int] = {}
        self.hours: list[int] = []
        self.members: list[_Ints] = []
        self.levels = dict.fromkeys(_LEVELS, 0)
        self.rows: list[int] = []
        for hour in range(HOURS):
            for level in range(finest, len(_LEVELS)):
                members = np.flatnonzero(keys[level] == keys[level][hour])
                by_week = rows[members].sum(axis=0)
                enough = by_week.sum() >= LEAST_ROWS and (by_week > 0).sum() >= LEAST_WEEKS
                if enough or level + 1 == len(_LEVELS):
                    break
            name = (level, int(keys[level][hour]))
            if name not in found:
                found[name] = len(found)
                self.members.append(members)
                self.rows.append(int(by_week.sum()))
            self.hours.append(found[name])
            self.levels[_LEVELS[level]] += 1

    def _bytes(self, sizes: Sequence[int]) -> float:
        """Estimate what the counts take as text."""
        found = 0.0
        for rows in self.rows:
            found += sum(
                size * (1 + (2 * rows // size).bit_length() // 7) + len(EXTRAS) for size in sizes
            )
        return found * 4 / 3

    def by_week(self, cells: _Ints) -> _Ints:
        """Add up counts of shape (168, weeks, width) to (groups, weeks, width)."""
        return np.stack([cells[members].sum(axis=0) for members in self.members])


class _Cells:
    """Hours of single weeks: where the rows of a table, or the slots of live counts, lie.

    ``at`` gives for each row the place of its cell in an array of shape (168, weeks).
    """

    def __init__(self, row_slots: _Ints) -> None:
        weeks, week = np.unique(row_slots // HOURS, return_inverse=True)
        self.weeks = weeks.size
        self.at = row_slots % HOURS * self.weeks + week

    def rows(self, weights: _Ints | None = None) -> _Ints:
        """Give the number of rows by hour and week; shape (168, weeks)."""
        found = np.bincount(self.at, weights=weights, minlength=HOURS * self.weeks)
        return found.astype(np.int64).reshape(HOURS, self.weeks)

    def counts(self, places: _Ints, width: int) -> _Ints:
        """Count rows by cell and by their place among ``width``; shape (168, weeks, width)."""
        found = np.bincount(self.at * width + places, minlength=HOURS * self.weeks * width)
        return found.reshape(HOURS, self.weeks, width)


# ------------------------------------------------------------------------- from a table


def stratified(
    parts: Mapping[str, Any],
    columns: Mapping[str, Values],
    answers: Mapping[str, Values],
    times: RowTimes,
) -> dict[str, Any]:
    """Give the parts of a reference with strata, made of the rows they were counted from.

    Parameters
    ----------
    parts
        ``features`` and, as far as there are any, ``prediction``, ``score``, ``label``.
    columns, answers
        What they were counted from, in any order of time; at least one row.

    Returns
    -------
    dict
        The parts that change, with ``seasons`` and, for people, ``lineage``.
    """
    features: Mapping[str, FeatureReference] = parts["features"]
    mine = there = _Cells(slots(times.features_ms, times.timezone))
    if times.answers_ms is not None and answers:
        there = _Cells(slots(times.answers_ms, times.timezone))
    groups = _Groups(mine.rows(), [len(feature.counts) for feature in features.values()])
    beside = _Groups(there.rows(), [len(parts[name].counts) for name in answers])
    made = _Made()
    for name, feature in features.items():
        made.add(name, feature, groups.by_week(mine.counts(*_places(feature, columns[name]))))
    for name, values in answers.items():
        answer: FeatureReference = parts[name]
        made.add(
            name, answer, beside.by_week(there.counts(*_places(answer, values))), is_answer=True
        )
    return {
        **made.take(),
        "seasons": Seasons(timezone=times.timezone, hours=groups.hours, answers=beside.hours),
        "lineage": {"hours_of_week": groups.levels},
    }


def _places(reference: FeatureReference, values: Values) -> tuple[_Ints, int]:
    """Give the place of every value among bins and extras, and the number of places."""
    return FeatureBinner(reference).places(values), len(reference.counts) + len(EXTRAS)


# ---------------------------------------------------------------------- from live counts


def slot_counts(delta: DriftDelta, reference: Reference) -> _Ints:
    """Give all that :func:`stratified` needs of a pane: rows, then bins and extras of each."""
    parts = [np.array([delta.rows], dtype=np.int64)]
    for name, feature, is_answer in distributions(reference):
        counts = getattr(delta, name, None) if is_answer else delta.features.get(name)
        counts = counts or FeatureCounts.zero(len(feature.counts))
        parts += [counts.bins, np.array([getattr(counts, extra) for extra in EXTRAS])]
    return np.concatenate(parts)


def counted_by_slot(reference: Reference, counted: Mapping[int, str], timezone: str) -> Reference:
    """Give a learnt reference its strata.

    Parameters
    ----------
    reference
        With its counts.
    counted
        Packed :func:`slot_counts` by slot (see :func:`kedge_services.core.seasons.slots`).
    """
    order = sorted(counted)
    cells = _Cells(np.array(order, dtype=np.int64))
    table = np.stack([unpack(counted[slot]).astype(np.int32) for slot in order])
    named = list(distributions(reference))
    groups = _Groups(
        cells.rows(table[:, 0].astype(np.int64)), [len(part.counts) for _, part, _ in named]
    )
    made, start = _Made(), 1
    for name, feature, is_answer in named:
        end = start + len(feature.counts) + len(EXTRAS)
        found = np.zeros((HOURS * cells.weeks, end - start), dtype=np.int64)
        found[cells.at] = table[:, start:end]
        by_week = groups.by_week(found.reshape(HOURS, cells.weeks, end - start))
        made.add(name, feature, by_week, is_answer=is_answer)
        start = end
    changes = made.take()
    return reference.model_copy(
        update={
            **changes,
            "features": {**reference.features, **changes["features"]},
            "seasons": Seasons(timezone=timezone, hours=groups.hours, answers=groups.hours),
            "lineage": {**reference.lineage, "hours_of_week": groups.levels},
        }
    )


# ------------------------------------------------------------------------- overdispersion


class _Made:
    """Collects the strata of distributions, and shrinks what they vary towards their pool."""

    def __init__(self) -> None:
        self._found: list[tuple[str, FeatureReference, bool, str, float | None]] = []

    def add(
        self, name: str, feature: FeatureReference, by_week: _Ints, *, is_answer: bool = False
    ) -> None:
        """Take counts of shape (groups, weeks, bins and extras)."""
        bins = by_week[:, :, : len(feature.counts)]
        if feature.kind == "categorical":
            bins = bins.copy()
            bins[:, :, -1] += by_week[:, :, len(feature.counts) + EXTRAS.index("unseen")]
        raw = _raw(feature.kind, bins)
        packed = pack(by_week.sum(axis=1))
        self._found.append((name, feature, is_answer, packed, raw))

    def take(self) -> dict[str, Any]:
        """Give ``features`` and the answers, each with its strata."""
        features: dict[str, FeatureReference] = {}
        answers: dict[str, FeatureReference] = {}
        for name, feature, is_answer, packed, raw in self._found:
            pool = self._pool(feature.kind)
            own = raw if raw is not None else pool
            mean = pool if pool is not None else own
            dispersion = None
            if _is_constant(feature):
                dispersion = 1.0
            elif own is not None and mean is not None:
                dispersion = rounded(max(1.0, 0.5 * own + 0.5 * mean))
            seasonal = SeasonalCounts(counts=packed, dispersion=dispersion)
            made = feature.model_copy(update={"seasonal": seasonal})
            (answers if is_answer else features)[name] = made
        return {"features": features, **answers}

    def _pool(self, kind: str) -> float | None:
        found = [
            raw
            for _, feature, is_answer, _, raw in self._found
            if raw is not None and not is_answer and feature.kind == kind
            and not _is_constant(feature)
        ]  # fmt: skip
        return sum(found) / len(found) if found else None


def _is_constant(feature: FeatureReference) -> bool:
    return sum(count > 0 for count in feature.counts) <= 1


def _raw(kind: str, bins: _Ints) -> float | None:
    """Give how many times more the shares vary from week to week than independent rows would.

    Parameters
    ----------
    bins
        Shape (groups, weeks, bins).

    Notes
    -----
    The mean over groups and cuts (for categories: over categories with at least 5 expected)
    of sum_w n_w (F_w - F)**2 / ((W - 1) F (1 - F)), which is 1 for independent rows.
    """
    n = bins.sum(axis=2)
    weeks = (n > 0).sum(axis=1)
    counts = np.cumsum(bins, axis=2)[:, :, :-1] if kind == "numeric" else bins
    total, rows = counts.sum(axis=1), n.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = total / rows[:, None]
        shares = np.where(n[:, :, None] > 0, counts / n[:, :, None], 0.0)
        spread = (n[:, :, None] * (shares - pooled[:, None, :]) ** 2).sum(axis=1)
        raw = spread / ((weeks - 1)[:, None] * pooled * (1 - pooled))
        if kind == "numeric":
            used = (pooled >= 0.1) & (pooled <= 0.9)
        else:
            used = (total / weeks[:, None] >= _LEAST_EXPECTED) & (pooled < 1)
    used &= (weeks > 1)[:, None]
    return float(raw[used].mean()) if used.any() else None
