"""Integrity: nulls, wrong types and values the reference never had.

References
----------
Good 1953: the number of categories seen once estimates how often a new one comes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge import Detection, FeatureReference, Reference
from kedge_services.core.measuring import head, numbers
from kedge_services.core.overdispersion import counter_overdispersion
from kedge_services.core.packed import Layout
from kedge_services.core.stacks import Stack

__all__ = [
    "COUNTER_FLOOR",
    "LEAST_LN_P",
    "Z80",
    "Counted",
    "IntegrityJudge",
    "Suspect",
    "ln_hypergeometric",
    "ln_upper_tail",
    "rounded",
    "valid_rows",
]

#: A share that changed by less is not worth an alarm, whatever its p-value.
COUNTER_FLOOR: Final = 0.005
#: One-sided 80 % quantile of the normal distribution.
Z80: Final = 0.8416
#: ln p below this is not told apart; floats end at e**-745.
LEAST_LN_P: Final = -690.0
#: Of these, too few are as suspect as too many.
_BOTH_SIDES: Final = frozenset({"null"})
#: What is written of a counter that is nothing.
_ZERO: Final = b'0.0,"low":0.0,"high":0.0,"n":'
_Ints = NDArray[np.int64]


class _Counter(NamedTuple):
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


class Suspect(NamedTuple):
    """A counter that moved by more than the floor, for sure; ``ln_p`` says how surprising."""

    feature: str
    name: str
    share: float
    before: float
    n: int
    ln_p: float

    def detection(self) -> Detection:
        """Say that it is an alarm."""
        what = self.name.replace("_", " ")
        return Detection(
            kind="integrity",
            detector=f"{self.name}_share",
            feature=self.feature,
            value=self.share,
            threshold=self.before,
            evidence=self.ln_p,
            summary=f"{self.feature}: {what} in {self.share:.1%} of {self.n} rows, "
            f"before {self.before:.1%}",
        )


class Counted(NamedTuple):
    """The counters of a window; ``tests`` is how many were tested."""

    text: bytes
    suspects: list[Suspect]
    tests: int


class IntegrityJudge:
    """Tests the counters of windows against their reference."""

    def __init__(self, reference: Reference) -> None:
        features = {name: f for name, f in reference.features.items() if f.total}
        self._names = list(features)
        self._columns = list(_columns(features, counter_overdispersion(reference)))
        columns = self._columns
        self._of = np.concatenate([c.features for c in columns])
        self._known = np.concatenate([c.known for c in columns])
        self._rows = np.concatenate([c.rows for c in columns])
        self._phi = np.concatenate([c.phi for c in columns])
        sizes = [c.features.size for c in columns]
        self._is_of_valid = np.repeat([c.is_of_valid for c in columns], sizes).astype(np.bool_)
        self._titles = [c.name for c, size in zip(columns, sizes, strict=True) for _ in range(size)]
        self._is_both = np.array([name in _BOTH_SIDES for name in self._titles], dtype=np.bool_)
        self._before = self._known / self._rows
        self._noise = self._phi * self._before * (1 - self._before) / self._rows
        self._heads = [
            head(f"{title}_share", self._names[i]) + b',"value":'
            for title, i in zip(self._titles, self._of.tolist(), strict=True)
        ]
        self._tails = [b',"threshold":' + text for text in numbers(self._before.tolist())]
        # Between two numbers of rows: the end of a measure, and the next one of zero.
        ends = [b"", *(tail + b"}," for tail in self._tails)]
        self._starts = list(map(bytes.__add__, ends, self._heads))
        self._zeros = [start + _ZERO for start in self._starts]
        # Where in a layout they lie; for the last one that was seen.
        self._gathered: tuple[Layout, _Ints, _Ints, _Ints] | None = None

    def test(self, stack: Stack) -> list[Counted]:
        """Measure and test all counters of windows."""
        if not self._heads:
            return [Counted(b"", [], 0)] * len(stack)
        k, n = self._numbers(stack)
        is_fit = n > 0
        total = np.maximum(1, n)
        share = k / total
        variance = self._phi * share * (1 - share) / total
        error = Z80 * np.sqrt(variance + self._noise)
        is_suspect = (np.abs(share - self._before) - error >= COUNTER_FLOOR) & is_fit
        is_suspect &= self._is_both | (share > self._before)
        margin = Z80 * np.sqrt(variance)
        lows, highs = np.maximum(0.0, share - margin), np.minimum(1.0, share + margin)
        # Most counters are nothing, and what is said of nothing is known.
        window, place = np.nonzero(k)
        columns = (column[window, place] for column in (share, lows, highs))
        written = numbers(np.stack(list(columns), axis=1).ravel().tolist())
        texts: list[dict[int, bytes]] = [{} for _ in range(len(stack))]
        for i, (w, at) in enumerate(zip(window.tolist(), place.tolist(), strict=True)):
            value, low, high = written[3 * i : 3 * i + 3]
            texts[w][at] = b'%b,"low":%b,"high":%b,"n":' % (value, low, high)
        suspects = self._suspects(is_suspect, k, n, share)
        counts = numbers(n.ravel().tolist())
        width = self._of.size
        found = []
        for w, (fit, of_zero) in enumerate(zip(is_fit.tolist(), texts, strict=True)):
            mine = counts[w * width : w * width + width]
            text = self._text(of_zero, mine, fit, suspects[w])
            found.append(Counted(text, list(suspects[w].values()), sum(fit)))
        return found

    def _numbers(self, stack: Stack) -> tuple[_Ints, _Ints]:
        """Give the marked values of every counter, and all they are out of."""
        if self._gathered is None or self._gathered[0] is not stack.layout:
            self._gathered = (stack.layout, *self._gather(stack.layout))
        _, features, first, second = self._gathered
        k = stack.counts.take(first, axis=1) + stack.counts.take(second, axis=1)
        start = 0
        for column in self._columns:
            end = start + column.features.size
            if column.gaps is not None:
                k[:, start] = self._in_gaps(stack, column, column.gaps)
            start = end
        valid, bad = stack.valid.take(features, axis=1), stack.bad.take(features, axis=1)
        return k, np.where(self._is_of_valid, valid, valid + bad)

    def _gather(self, layout: Layout) -> tuple[_Ints, _Ints, _Ints]:
        """Give the place of every counter's feature, and of what it is the sum of."""
        nowhere, nothing = len(layout.names), layout.width - 1
        features, first, second = [], [], []
        for column in self._columns:
            for i in column.features.tolist():
                at = layout.places.get(self._names[i], nowhere)
                parts = [layout.counter(part).start + at for part in column.parts]
                one, two = (*parts, nothing, nothing)[:2] if at < nowhere else (nothing, nothing)
                features.append(at)
                first.append(one)
                second.append(two)
        return np.array(features), np.array(first), np.array(second)

    def _in_gaps(self, stack: Stack, column: _Counter, gaps: _Ints) -> _Ints | int:
        at = stack.layout.places.get(self._names[int(column.features[0])])
        if at is None or not stack.layout.sizes[at]:
            return 0
        found: _Ints = stack.counts[:, gaps + stack.layout.starts[at]].sum(axis=1)
        return found

    def _suspects(
        self, is_suspect: NDArray[np.bool_], k: _Ints, n: _Ints, share: NDArray[np.float64]
    ) -> list[dict[int, Suspect]]:
        """Give the suspects of every window by their place."""
        # The exact tail costs most, so it is taken only where the effect is large enough.
        suspects: list[dict[int, Suspect]] = [{} for _ in k]
        for w, i in zip(*(found.tolist() for found in np.nonzero(is_suspect)), strict=True):
            rows, name = int(n[w, i]), self._titles[i]
            ln_p = ln_hypergeometric(
                int(k[w, i]), rows, int(self._known[i]), int(self._rows[i]),
                phi=float(self._phi[i]), is_both_sides=name in _BOTH_SIDES,
            )  # fmt: skip
            suspects[w][i] = Suspect(
                self._names[int(self._of[i])], name, float(share[w, i]), float(self._before[i]),
                rows, ln_p,
            )  # fmt: skip
        return suspects

    def _text(
        self,
        numbers_of: Mapping[int, bytes],
        n: Sequence[bytes],
        fit: Sequence[bool],
        suspects: Mapping[int, Suspect],
    ) -> bytes:
        """Write the counters of one window, given the numbers of those that are not zero."""
        if suspects or not all(fit):
            return b",".join(
                self._heads[i]
                + numbers_of.get(i, _ZERO)
                + n[i]
                + self._tails[i]
                + (_evidence(suspects[i]) if i in suspects else b"")
                + b"}"
                for i in range(len(n))
                if fit[i]
            )
        parts = self._zeros.copy()
        for i, text in numbers_of.items():
            parts[i] = self._starts[i] + text
        if n.count(n[0]) == len(n):
            return n[0].join([*parts, b""]) + self._tails[-1] + b"}"
        both = [b""] * (2 * len(n))
        both[::2], both[1::2] = parts, n
        return b"".join(both) + self._tails[-1] + b"}"


def _evidence(suspect: Suspect) -> bytes:
    return b',"evidence":' + numbers([suspect.ln_p])[0]


def _columns(
    features: Mapping[str, FeatureReference], phi: Mapping[str, Mapping[str, float]]
) -> Iterator[_Counter]:
    numbered = list(enumerate(features.items()))

    def column(
        name: str,
        known: Mapping[int, int],
        parts: Sequence[str] = (),
        *,
        is_of_valid: bool = True,
        gaps: _Ints | None = None,
    ) -> _Counter:
        mine = [item for i, item in numbered if i in known]
        rows = [valid_rows(f) if is_of_valid else f.total for _, f in mine]
        return _Counter(
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


def rounded(ln_p: float) -> float:
    """Round to 9 digits, so that the last bits of a library do not decide."""
    return float(f"{ln_p:.9g}")


def ln_hypergeometric(
    k: int, n: int, known: int, rows: int, *, phi: float = 1.0, is_both_sides: bool = False
) -> float:
    """Give ln p of so many (or so few) of the k + known marked rows falling into the window.

    Parameters
    ----------
    k, n
        Marked and all rows of the window.
    known, rows
        The same of the reference.
    phi
        Overdispersion: rows count for 1 / phi each, rounded against an alarm.
    is_both_sides
        Whether more and fewer were looked for.
    """
    fewer_n, fewer_rows = math.floor(n / phi), math.floor(rows / phi)
    if k * rows > known * n:
        ln_p = _ln_share(math.floor(k / phi), fewer_n, math.ceil(known / phi), fewer_rows)
    else:
        # As few marked rows are as many rows without the mark.
        few, before = math.ceil(k / phi), math.floor(known / phi)
        ln_p = _ln_share(fewer_n - few, fewer_n, fewer_rows - before, fewer_rows)
    if is_both_sides:
        ln_p += math.log(2)
    return rounded(min(0.0, max(ln_p, LEAST_LN_P)))


def _ln_share(k: int, n: int, known: int, rows: int) -> float:
    k, known = max(0, min(k, n)), max(0, min(known, rows))
    return ln_upper_tail(k, n, k + known, n + rows)


def ln_upper_tail(k: int, n: int, marked: int, total: int) -> float:
    """Give ln P(at least k of n rows drawn from ``total`` are among the ``marked``).

    The first term from log factorials, the others by their ratio to the one
    before; beyond the mode, where this is used, they fall fast.

    >>> round(ln_upper_tail(7, 500, 7, 5_500), 6)
    -16.82363
    """
    if k <= max(0, n + marked - total):
        return 0.0
    first = _ln_choose(marked, k) + _ln_choose(total - marked, n - k) - _ln_choose(total, n)
    rest, term = 1.0, 1.0
    for i in range(k, min(n, marked)):
        term *= (marked - i) * (n - i) / ((i + 1) * (total - marked - n + i + 1))
        rest += term
        if term < rest * 1e-17:
            break
    return min(0.0, first + math.log(rest))


def _ln_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _gaps(feature: FeatureReference) -> NDArray[np.int64] | None:
    """Give the inner gap bins of a few-valued feature; None for any other."""
    cuts: Sequence[float] = feature.cuts
    if not cuts or len(cuts) % 2 or any(feature.counts[::2]):
        return None
    pairs = zip(cuts[::2], cuts[1::2], strict=True)
    if any(math.nextafter(atom, -math.inf) != gap for gap, atom in pairs):
        return None
    return np.arange(2, len(cuts), 2)
