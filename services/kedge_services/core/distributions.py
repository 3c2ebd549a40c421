"""What is tested of a reference: features, the prediction and its score, side by side.

References
----------
Effect floor w = .10: Cohen 1988, "small".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge import FeatureReference
from kedge.base import AlertKind
from kedge_services.core import packed
from kedge_services.core.counters import valid_rows
from kedge_services.core.measuring import as_json, head, numbers
from kedge_services.core.overdispersion import PREDICTION, SCORE
from kedge_services.core.packed import Layout
from kedge_services.core.shifts import Shifts, categorical_shifts, distances, numeric_shifts
from kedge_services.core.stacks import Stack

__all__ = [
    "CATEGORICAL_FLOOR",
    "FEATURES",
    "MIN_REFERENCE",
    "MIN_WINDOW",
    "NUMERIC_FLOOR",
    "TESTS",
    "Distribution",
    "Found",
    "Group",
    "distribution_of",
    "try_groups",
]

NUMERIC_FLOOR: Final = 0.05
CATEGORICAL_FLOOR: Final = 0.10
FEATURES: Final = "data-drift"
#: By kind: the test and its floor.
TESTS: Final[Mapping[str, tuple[str, float]]] = {
    "numeric": ("kolmogorov_smirnov", NUMERIC_FLOOR),
    "categorical": ("effect_w", CATEGORICAL_FLOOR),
}
#: Half of w bounds the total variation, which is to shares what the distance of Kolmogorov
#: and Smirnov is to distribution functions.
_SHARES: Final = {"numeric": 1.0, "categorical": 0.5}
#: How numpy adds up a row: so many lanes, and so many numbers before it halves the row.
_LANES, _ONE_ROUND = 8, 128
MIN_WINDOW: Final = 100
MIN_REFERENCE: Final = 1_000
#: What is no feature, by its name in a layout.
_NAMES: Final = {PREDICTION: packed.PREDICTION, SCORE: packed.SCORE}
_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]


class Distribution(NamedTuple):
    """Something that is tested: a feature, the prediction or its score."""

    kind: AlertKind
    prefix: str
    feature: str | None
    reference: FeatureReference

    @property
    def key(self) -> str:
        """Its name in :func:`kedge_services.core.overdispersion.distributions`."""
        return self.feature if self.feature is not None else self.prefix


@dataclass(frozen=True, slots=True)
class Found:
    """What the tests of one kind found in windows of several series side by side.

    Attributes
    ----------
    rows
        Of each window and distribution; shape (series, windows, members), like all arrays.
    is_found
        Whether there is a row on both sides; without one the other numbers mean nothing.
    is_tested
        Whether there are rows enough.
    values, counts
        PSI, Jensen-Shannon, effect, its bound and ln p of each, and the rows, as text.
    """

    rows: _Ints
    is_found: _Bools
    is_tested: _Bools
    shifts: Shifts
    values: Sequence[bytes]
    counts: Sequence[bytes]


class Group:
    """The distributions of one kind, their counts side by side.

    Categorical rows begin with what has no category of its own.
    """

    def __init__(
        self, members: Sequence[Distribution], phi: Mapping[str, float], unevenly: float
    ) -> None:
        self.members = members
        self.is_numeric = members[0].reference.kind == "numeric"
        self._first = 0 if self.is_numeric else 1
        self.unevenness = unevenly
        width = max(len(d.reference.counts) for d in members)
        self.reference = np.zeros((len(members), width), dtype=np.int64)
        for row, d in zip(self.reference, members, strict=True):
            bins = np.array(d.reference.counts, dtype=np.int64)
            row[: bins.size] = np.roll(bins, self._first)
            row[0] += valid_rows(d.reference) - int(row.sum())
        self.blocks = _blocks(
            [len(d.reference.counts) for d in members], is_numeric=self.is_numeric
        )
        self.phi = np.array([phi[d.key] for d in members])
        self.known = self.reference.sum(axis=1)
        self._gathered: tuple[Layout, _Ints, _Ints] | None = None
        self.is_known = self.known > 0
        self.is_enough = self.known >= MIN_REFERENCE
        self.floor = TESTS[members[0].reference.kind][1]
        #: Of what an effect bounds, the share that is a share of the rows.
        self.share = _SHARES[members[0].reference.kind]
        self.is_feature = np.array([d.feature is not None for d in members])
        self._texts = _Texts(members)

    def current(self, stack: Stack) -> _Ints:
        """Give the windows' counts, as those of the reference lie; (windows, members, bins)."""
        if self._gathered is None or self._gathered[0] is not stack.layout:
            self._gathered = (stack.layout, *self._gather(stack.layout))
        _, places, unseen = self._gathered
        # In the order of bins also in memory, which is the order of all sums to come.
        found = stack.counts.take(places, axis=1)
        if self._first:
            found[:, :, 0] += stack.counts.take(unseen, axis=1)
        return found

    def _gather(self, layout: Layout) -> tuple[_Ints, _Ints]:
        """Give where in a layout the bins of each member lie, and its unseen; else a zero."""
        places = np.full(self.reference.shape, layout.width - 1, dtype=np.int64)
        unseen = np.full(len(self.members), layout.width - 1, dtype=np.int64)
        start = layout.counter("unseen").start
        for i, d in enumerate(self.members):
            at = layout.places.get(_NAMES.get(d.prefix, d.feature or ""))
            if at is not None:
                span = layout.span(at)
                places[i, : layout.sizes[at]] = np.roll(
                    np.arange(span.start, span.stop), self._first
                )
                unseen[i] = start + at
        return places, unseen

    def texts(self, found: Found, series: int) -> list[bytes]:
        """Give the measures of every window of a series."""
        return self._texts.of(found, series, self.known.tolist())


def _blocks(sizes: Sequence[int], *, is_numeric: bool) -> list[tuple[slice, int]]:
    """Cut members and bins so that few members with many bins do not cost them all as many.

    Sums of floats must not change: numpy adds up to 128 of them in eight lanes, element i
    in lane i mod 8 and what is left over after the lanes.  Zeros change no lane, so narrow
    members can do with fewer whole rounds.
    """
    width, number = max(sizes), len(sizes)
    if is_numeric and number > 1 and width <= _ONE_ROUND and sizes[-1] == width:
        narrow = -(-max(sizes[:-1]) // _LANES) * _LANES
        if narrow <= width - width % _LANES:
            return [(slice(number - 1), narrow), (slice(number - 1, number), width)]
    return [(slice(number), width)]


def try_groups(groups: Sequence[Group], stacks: Sequence[Stack]) -> Found:
    """Test the windows of several series, each against its own group; all of one shape."""
    current = np.array([group.current(stack) for group, stack in zip(groups, stacks, strict=True)])
    reference, phi, is_known, is_enough = (
        np.array([getattr(group, name) for group in groups])[:, None]
        for name in ("reference", "phi", "is_known", "is_enough")
    )
    parts = []
    for members, width in groups[0].blocks:
        before, now = reference[..., members, :width], current[..., members, :width]
        if groups[0].is_numeric:
            part = numeric_shifts(before, now, phi[..., members])
        else:
            uneven = np.array([group.unevenness for group in groups])[:, None, None]
            part = categorical_shifts(before, now, phi, uneven)
        parts.append([*distances(before, now), part.effect, part.low, part.ln_p])
    columns = (
        parts[0] if len(parts) == 1 else [np.concatenate(c, -1) for c in zip(*parts, strict=True)]
    )
    shifts = Shifts(*columns[2:])
    rows = current.sum(axis=-1)
    values = np.stack(columns, axis=-1)
    return Found(
        rows,
        (rows > 0) & is_known,
        (rows >= MIN_WINDOW) & is_enough,
        shifts,
        numbers(values.ravel().tolist()),
        numbers(rows.ravel().tolist()),
    )


class _Texts:
    """Writes the three measures of every member of a group."""

    def __init__(self, members: Sequence[Distribution]) -> None:
        self._members = members
        self._between: list[bytes] = []
        for d in members:
            name, floor = TESTS[d.reference.kind]
            psi, js, test = (
                head(d.prefix + what, d.feature) + b',"value":'
                for what in ("psi", "jensen_shannon", name)
            )
            self._between += [
                psi, b',"n":', b"}," + js, b',"n":', b"}," + test, b',"low":', b',"n":',
                b',"threshold":%s,"evidence":' % numbers([floor])[0],
            ]  # fmt: skip
            self._between.append(b"},")

    def of(self, found: Found, series: int, known: Sequence[int]) -> list[bytes]:
        """Give the text of every window of a series."""
        _, windows, members = found.rows.shape
        tested = found.is_tested[series].tolist()
        texts = []
        for window in range(windows):
            start = (series * windows + window) * members
            end = start + members
            mine, n = found.values[5 * start : 5 * end], found.counts[start:end]
            if all(tested[window]):
                texts.append(self._plain(mine, n))
            else:
                rows = found.rows[series, window].tolist()
                is_found = found.is_found[series, window].tolist()
                texts.append(self._lacking(mine, n, rows, known, is_found))
        return texts

    def _plain(self, values: Sequence[bytes], n: Sequence[bytes]) -> bytes:
        between = self._between
        parts = [b""] * (17 * len(self._members))
        for i in range(9):
            parts[2 * i :: 17] = between[i::9]
        for place in (3, 7, 13):
            parts[place::17] = n
        for i, place in enumerate((1, 5, 9, 11, 15)):
            parts[place::17] = values[i::5]
        return b"".join(parts)[:-1]

    def _lacking(
        self,
        values: Sequence[bytes],
        n: Sequence[bytes],
        rows: Sequence[int],
        known: Sequence[int],
        is_found: Sequence[bool],
    ) -> bytes:
        """Write a window some of whose tests were not made, or had nothing to test."""
        texts, nothing = [], []
        for i, d in enumerate(self._members):
            name, floor = TESTS[d.reference.kind]
            note = _lack(rows[i], known[i])
            if not is_found[i]:
                nothing.append(
                    head(d.prefix + name, d.feature)
                    + b',"n":%s,"threshold":%s' % (n[i], numbers([floor])[0])
                    + (b"}" if note is None else b',"note":' + as_json(note) + b"}")
                )
                continue
            psi, js, effect, low, ln_p = values[5 * i : 5 * i + 5]
            (
                one, two, three, four, five, six, seven, eight, _,
            ) = self._between[9 * i : 9 * i + 9]  # fmt: skip
            text = one + psi + two + n[i] + three + js + four + n[i] + five + effect
            text += six + low + seven + n[i]
            if note is None:
                texts.append(text + eight + ln_p + b"}")
            else:
                text += b',"threshold":' + numbers([floor])[0]
                texts.append(text + b',"note":' + as_json(note) + b"}")
        return b",".join(texts + nothing)


def _lack(rows: int, known: int) -> str | None:
    """Say what is missing for a test; None when nothing is."""
    if rows < MIN_WINDOW:
        return f"not enough data: {rows} values in the window, a test takes {MIN_WINDOW}"
    if known < MIN_REFERENCE:
        return f"not enough data: {known} values in the reference, a test takes {MIN_REFERENCE}"
    return None


def distribution_of(name: str, reference: FeatureReference) -> Distribution:
    """Give what goes by a name of :func:`kedge_services.core.overdispersion.distributions`."""
    if name in {PREDICTION, SCORE}:
        return Distribution("prediction-drift", name, None, reference)
    return Distribution(FEATURES, "", name, reference)
