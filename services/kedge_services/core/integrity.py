"""Integrity: nulls, wrong types and values the reference never had.

References
----------
Good 1953: the number of categories seen once estimates how often a new one comes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge import Detection, Reference
from kedge_services.core.counters import Counter, counters
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
    "try_counters",
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
        self._columns = list(counters(features, counter_overdispersion(reference)))
        columns = self._columns
        self._of = np.concatenate([c.features for c in columns])
        self.known = np.concatenate([c.known for c in columns])
        self.rows = np.concatenate([c.rows for c in columns])
        self.phi = np.concatenate([c.phi for c in columns])
        sizes = [c.features.size for c in columns]
        self._is_of_valid = np.repeat([c.is_of_valid for c in columns], sizes).astype(np.bool_)
        self._titles = [c.name for c, size in zip(columns, sizes, strict=True) for _ in range(size)]
        self.is_both = np.array([name in _BOTH_SIDES for name in self._titles], dtype=np.bool_)
        self.before = self.known / self.rows
        self.noise = self.phi * self.before * (1 - self.before) / self.rows
        self._heads = [
            head(f"{title}_share", self._names[i]) + b',"value":'
            for title, i in zip(self._titles, self._of.tolist(), strict=True)
        ]
        self._tails = [b',"threshold":' + text for text in numbers(self.before.tolist())]
        # Between two numbers of rows: the end of a measure, and the next one of zero.
        ends = [b"", *(tail + b"}," for tail in self._tails)]
        self._starts = list(map(bytes.__add__, ends, self._heads))
        self._zeros = [start + _ZERO for start in self._starts]
        # Where in a layout they lie; for the last one that was seen.
        self._gathered: tuple[Layout, _Ints, _Ints, _Ints] | None = None

    def numbers(self, stack: Stack) -> tuple[_Ints, _Ints]:
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

    def _in_gaps(self, stack: Stack, column: Counter, gaps: _Ints) -> _Ints | int:
        at = stack.layout.places.get(self._names[int(column.features[0])])
        if at is None or not stack.layout.sizes[at]:
            return 0
        found: _Ints = stack.counts[:, gaps + stack.layout.starts[at]].sum(axis=1)
        return found

    @property
    def width(self) -> int:
        """Number of counters."""
        return len(self._heads)

    def suspects(
        self, is_suspect: NDArray[np.bool_], k: _Ints, n: _Ints, share: NDArray[np.float64]
    ) -> list[dict[int, Suspect]]:
        """Give the suspects of every window by their place."""
        # The exact tail costs most, so it is taken only where the effect is large enough.
        suspects: list[dict[int, Suspect]] = [{} for _ in k]
        for w, i in zip(*(found.tolist() for found in np.nonzero(is_suspect)), strict=True):
            rows, name = int(n[w, i]), self._titles[i]
            ln_p = ln_hypergeometric(
                int(k[w, i]), rows, int(self.known[i]), int(self.rows[i]),
                phi=float(self.phi[i]), is_both_sides=name in _BOTH_SIDES,
            )  # fmt: skip
            suspects[w][i] = Suspect(
                self._names[int(self._of[i])], name, float(share[w, i]), float(self.before[i]),
                rows, ln_p,
            )  # fmt: skip
        return suspects

    def text(
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


def try_counters(judges: Sequence[IntegrityJudge], stacks: Sequence[Stack]) -> list[list[Counted]]:
    """Measure and test all counters of the windows of several series.

    All have as many counters and windows; one comes out as if it were tested alone.
    """
    width = judges[0].width
    if not width:
        return [[Counted(b"", [], 0)] * len(stack) for stack in stacks]
    pairs = [judge.numbers(stack) for judge, stack in zip(judges, stacks, strict=True)]
    k, n = np.array([k for k, _ in pairs]), np.array([n for _, n in pairs])
    phi, before, noise, is_both = (
        np.array([getattr(judge, name) for judge in judges])[:, None]
        for name in ("phi", "before", "noise", "is_both")
    )
    is_fit = n > 0
    total = np.maximum(1, n)
    share = k / total
    variance = phi * share * (1 - share) / total
    error = Z80 * np.sqrt(variance + noise)
    is_suspect = (np.abs(share - before) - error >= COUNTER_FLOOR) & is_fit
    is_suspect &= is_both | (share > before)
    margin = Z80 * np.sqrt(variance)
    lows, highs = np.maximum(0.0, share - margin), np.minimum(1.0, share + margin)
    # Most counters are nothing, and what is said of nothing is known.
    places = np.nonzero(k)
    columns = (column[places] for column in (share, lows, highs))
    written = numbers(np.stack(list(columns), axis=1).ravel().tolist())
    texts: list[list[dict[int, bytes]]] = [[{} for _ in range(len(stack))] for stack in stacks]
    for i, (one, w, at) in enumerate(zip(*(place.tolist() for place in places), strict=True)):
        value, low, high = written[3 * i : 3 * i + 3]
        texts[one][w][at] = b'%b,"low":%b,"high":%b,"n":' % (value, low, high)
    counts, fits = numbers(n.ravel().tolist()), is_fit.tolist()
    found, start = [], 0
    for one, judge in enumerate(judges):
        suspects = judge.suspects(is_suspect[one], k[one], n[one], share[one])
        mine = []
        for fit, of_some, suspected in zip(fits[one], texts[one], suspects, strict=True):
            text = judge.text(of_some, counts[start : start + width], fit, suspected)
            mine.append(Counted(text, list(suspected.values()), sum(fit)))
            start += width
        found.append(mine)
    return found


def _evidence(suspect: Suspect) -> bytes:
    return b',"evidence":' + numbers([suspect.ln_p])[0]


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
