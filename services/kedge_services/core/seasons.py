"""Seasons: windows are held to what the same hours of the week were like.

The reference keeps counts by *strata*, groups of hours of the week; a window
is compared with the mixture of them that its own rows come from::

    rows of the window      Mon 8h: 300        Mon 9h: 100
    expected shares         3/4 F(Mon 8h)   +  1/4 F(Mon 9h)
    standing for N_eff = 1 / ((3/4)**2 / N(Mon 8h) + (1/4)**2 / N(Mon 9h)) rows

:mod:`kedge_services.core.strata` makes the counts.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from kedge import FeatureReference, Monitor, Reference

__all__ = [
    "ANSWERS",
    "EXTRAS",
    "HOURS",
    "SeasonalReferences",
    "distributions",
    "hour_of_week",
    "pack",
    "seasonal_reference",
    "slots",
    "unpack",
]

#: Hours of a week; Monday 0h is 0.
HOURS: Final = 168
#: What is counted beside the bins; all but the last two have no bin.
EXTRAS: Final = ("null", "nan", "inf", "type_error", "unseen", "below", "above")
#: The distributions of a reference beside its features.
ANSWERS: Final = ("prediction", "score", "label")
#: Offsets of time zones change at full quarters of an hour.
_QUARTER_MS: Final = 900_000
_HOUR_MS: Final = 3_600_000
#: 1970-01-01 was a Thursday, 72 hours after a Monday began.
_MONDAY_HOURS: Final = 72
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: References whose strata are kept unpacked, and of each the mixtures made last.
_MOST_REFERENCES: Final = 50
_MOST_MIXTURES: Final = 4

_Ints = NDArray[np.int64]


# ------------------------------------------------------------------ hours of the week


def slots(times_ms: Sequence[int] | _Ints, timezone: str) -> _Ints:
    """Give the hour of every time by a zone's clocks, counted from a Monday: 168 to the week.

    When clocks go back, two hours are one slot; when they go forward, one slot stays empty.

    Parameters
    ----------
    times_ms
        Event times, UTC.

    Returns
    -------
    int64, the shape of ``times_ms``
    """
    times = np.asarray(times_ms, dtype=np.int64)
    quarters, at = np.unique(times // _QUARTER_MS, return_inverse=True)
    hours = [_slot(int(quarter) * _QUARTER_MS, timezone) for quarter in quarters]
    return np.asarray(hours, dtype=np.int64)[at] if hours else times


def hour_of_week(time_ms: int, timezone: str) -> int:
    """Give the hour of the week of one time.

    >>> hour_of_week(1_774_746_000_000, "UTC"), hour_of_week(1_774_746_000_000, "Europe/Oslo")
    (145, 147)
    """
    return _slot(time_ms, timezone) % HOURS


@lru_cache(maxsize=1 << 16)
def _slot(time_ms: int, timezone: str) -> int:
    offset = (_EPOCH + timedelta(milliseconds=time_ms)).astimezone(ZoneInfo(timezone)).utcoffset()
    local_ms = time_ms + (offset or timedelta()) // timedelta(milliseconds=1)
    return local_ms // _HOUR_MS + _MONDAY_HOURS


# --------------------------------------------------------------------- counts as text


def pack(counts: _Ints) -> str:
    """Write counts, none of them negative, as the base64 of varints.

    >>> pack(np.array([5, 0, 300])), unpack("BQCsAg==").tolist()
    ('BQCsAg==', [5, 0, 300])
    """
    rest = counts.astype(np.uint64).ravel()
    columns, more = [], np.ones(rest.size, dtype=np.bool_)
    while more.any():
        byte = (rest & np.uint64(127)).astype(np.int16)
        rest = rest >> np.uint64(7)
        is_last = rest == 0
        columns.append(np.where(more, byte + 128 * ~is_last, -1))
        more = more & ~is_last
    table = np.stack(columns, axis=1) if columns else np.zeros((0, 1), dtype=np.int16)
    return base64.b64encode(table[table >= 0].astype(np.uint8).tobytes()).decode()


def unpack(text: str) -> _Ints:
    """Read what :func:`pack` gave, flat."""
    data = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    ends = np.flatnonzero(data < 128)
    if not ends.size:
        return np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(data.size) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((data & 127).astype(np.int64) << (7 * place), starts)


# ----------------------------------------------------------------------- the mixture


def distributions(reference: Reference) -> Iterator[tuple[str, FeatureReference, bool]]:
    """Give name, counts, and whether it is an answer, of everything a reference counts."""
    for name, feature in reference.features.items():
        yield name, feature, False
    for name in ANSWERS:
        if (answer := getattr(reference, name)) is not None:
            yield name, answer, True


@dataclass(frozen=True, slots=True)
class _Part:
    """Distributions side by side that share their groups of hours.

    Attributes
    ----------
    groups
        int64, shape (168,): the group of each hour.
    counts
        int64, shape (groups, width): bins and extras of one distribution after the other.
    totals
        float64, shape (groups, distributions): values of any kind.
    spans
        Where in ``counts`` each distribution lies: name, start and number of bins.
    owner
        int64, shape (width,): which distribution a column belongs to.
    """

    groups: _Ints
    counts: _Ints
    totals: NDArray[np.float64]
    spans: Sequence[tuple[str, int, int]]
    owner: _Ints

    @classmethod
    def of(cls, groups: Sequence[int], features: Iterable[tuple[str, FeatureReference]]) -> _Part:
        number = max(groups) + 1
        blocks, totals, spans, at = [], [], [], 0
        for name, feature in features:
            if feature.seasonal is None:
                continue
            bins = len(feature.counts)
            block = unpack(feature.seasonal.counts).reshape(number, bins + len(EXTRAS))
            blocks.append(block.astype(np.int32))
            totals.append(block[:, : bins + 5].sum(axis=1).astype(np.float64))
            spans.append((name, at, bins))
            at += bins + len(EXTRAS)
        owner = np.repeat(np.arange(len(blocks)), [block.shape[1] for block in blocks])
        return cls(
            np.asarray(groups),
            np.concatenate(blocks, axis=1) if blocks else np.zeros((number, 0), dtype=np.int32),
            np.stack(totals, axis=1) if totals else np.zeros((number, 0)),
            spans,
            owner,
        )

    def rows_by_group(self, rows_by_stratum: Mapping[int, int]) -> dict[int, int]:
        """Add up a window's rows by group, ascending."""
        found: dict[int, int] = {}
        for hour, rows in rows_by_stratum.items():
            if rows > 0:
                group = int(self.groups[hour])
                found[group] = found.get(group, 0) + rows
        return dict(sorted(found.items()))

    def mixture(self, rows_by_group: Mapping[int, int]) -> _Ints:
        """Give the expected counts of N_eff values; shape (width,).

        A group in which a distribution has no value says nothing about it.  Groups are
        added in their order, element by element, so that the last bits are always the same.
        """
        weight = np.zeros(self.totals.shape[1])
        variance = np.zeros(self.totals.shape[1])
        shares = np.zeros(self.counts.shape[1])
        for group, rows in rows_by_group.items():
            total = self.totals[group]
            has_values = total > 0
            safe = np.where(has_values, total, 1.0)
            weight += np.where(has_values, float(rows), 0.0)
            variance += np.where(has_values, float(rows) * rows / safe, 0.0)
            shares += self.counts[group] * (float(rows) / safe)[self.owner]
        # sum(n_h F_h) / n * N_eff, with N_eff = n**2 / sum(n_h**2 / N_h)
        scale = np.divide(weight, variance, out=np.zeros_like(weight), where=variance > 0)
        return np.rint(shares * scale[self.owner]).astype(np.int64)


class _Strata:
    """The strata of one reference, unpacked."""

    __slots__ = ("_answers", "_features", "_plain", "reference")

    def __init__(self, reference: Reference) -> None:
        seasons = reference.seasons
        if seasons is None:
            raise ValueError(f"reference {reference.reference_id} has no strata")
        self.reference = reference
        named = list(distributions(reference))
        self._features = _Part.of(seasons.hours, ((n, f) for n, f, answer in named if not answer))
        self._answers = _Part.of(seasons.answers, ((n, f) for n, f, answer in named if answer))
        self._plain: dict[tuple[int, ...], Reference] = {}

    def held_to(self, rows_by_stratum: Mapping[int, int]) -> Reference:
        """Give what these rows are held to; of rows of one group each it is made once."""
        features = self._features.rows_by_group(rows_by_stratum)
        answers = self._answers.rows_by_group(rows_by_stratum)
        if not features:
            return self.reference
        if len(features) > 1 or len(answers) > 1:
            return self._mixed(features, answers)
        key = (*features, *answers)
        if key not in self._plain:
            while len(self._plain) >= _MOST_MIXTURES:
                del self._plain[next(iter(self._plain))]
            self._plain[key] = self._mixed(features, answers)
        return self._plain[key]

    def _mixed(self, features: Mapping[int, int], answers: Mapping[int, int]) -> Reference:
        known = self.reference
        expected = dict(_expected(self._features, known.features, features))
        beside = {name: getattr(known, name) for name in ANSWERS}
        changed: dict[str, Any] = dict(_expected(self._answers, beside, answers))
        # Under an id of its own: who keeps something by id does not take it for the whole.
        name = f"{known.reference_id}/mixture"
        changed = {"features": {**known.features, **expected}, **changed}
        # How features go together is known of all hours at once only, which is no measure.
        changed |= {"reference_id": name, "projection": None}
        return known.model_copy(update=changed)


def _expected(
    part: _Part, known: Mapping[str, FeatureReference], rows_by_group: Mapping[int, int]
) -> Iterator[tuple[str, FeatureReference]]:
    counts = part.mixture(rows_by_group).tolist()
    for name, start, bins in part.spans:
        feature, end = known[name], start + bins
        null, nan, inf, type_error, unseen, below, above = counts[end : end + len(EXTRAS)]
        expected = counts[start:end]
        valid = sum(expected) + unseen
        before = feature.total - feature.null - feature.nan - feature.inf - feature.type_error
        dispersion = feature.seasonal.dispersion if feature.seasonal is not None else None
        update = {
            "counts": expected,
            "total": valid + null + nan + inf + type_error,
            "null": null,
            "nan": nan,
            "inf": inf,
            "type_error": type_error,
            "below": below,
            "above": above,
            # Rounded against an alarm: fewer rows stand for the same rare categories.
            "f1": -(-feature.f1 * valid // before) if before else 0,
            "seasonal": None,
        }
        if dispersion is not None:
            update |= {"dispersion": dispersion, "blocks": [], "counter_blocks": {}}
        yield name, feature.model_copy(update=update)


def seasonal_reference(reference: Reference, rows_by_stratum: Mapping[int, int]) -> Reference:
    """Give the reference that a window of these rows is held to.

    Parameters
    ----------
    reference
        With strata.
    rows_by_stratum
        Rows of the window by hour of the week, 0 to 167.

    Returns
    -------
    Reference
        Ordinary: ``counts`` are the expected shares times N_eff, rounded, and
        ``dispersion`` is that of the strata.  The whole reference when there are no rows.

    Raises
    ------
    ValueError
        The reference has no strata.
    """
    return _Strata(reference).held_to(rows_by_stratum)


class SeasonalReferences:
    """Gives what windows are held to, and keeps the strata of references unpacked."""

    def __init__(self) -> None:
        self._strata: dict[str, _Strata] = {}

    def of(
        self, reference: Reference, monitor: Monitor, rows_by_pane: Mapping[int, int]
    ) -> Reference:
        """Give the reference itself, or of a seasonal monitor the mixture for these panes.

        Parameters
        ----------
        rows_by_pane
            Rows of the window by start of their pane, in ms.
        """
        seasons = reference.seasons
        if monitor.timezone is None or seasons is None:
            return reference
        known = self._strata.get(reference.reference_id)
        if known is None or known.reference is not reference:
            if len(self._strata) >= _MOST_REFERENCES:
                self._strata.clear()
            known = self._strata[reference.reference_id] = _Strata(reference)
        rows: dict[int, int] = {}
        for start_ms, number in rows_by_pane.items():
            hour = hour_of_week(start_ms, seasons.timezone)
            rows[hour] = rows.get(hour, 0) + number
        return known.held_to(rows)
