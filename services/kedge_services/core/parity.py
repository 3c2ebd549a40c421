"""Parity: what Evidently's and NannyML's defaults say of two columns, from raw values.

For tests and for those who come from there: the figures to hold Kedge's own
beside.  Nothing here decides in the services, and nothing could: Evidently's
numeric bins depend on the window under test, so that no counts made beforehand
give them.

====================  ==========================================================
Evidently 0.7         the method follows from the kind of the column, the number
                      of reference rows and of distinct values; fixed thresholds
NannyML 0.13          the method is Jensen-Shannon unless named; the threshold is
                      the mean + 3 standard deviations over ten parts of the
                      reference, held against the whole (KS and Wasserstein are
                      exact here, and there below 10,000 reference rows)
====================  ==========================================================

References
----------
Sources of Evidently 0.7.23 and NannyML 0.13.1, whose golden values the tests hold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from scipy.spatial.distance import jensenshannon

from kedge.base import Scalar

__all__ = [
    "ColumnDrift",
    "Kind",
    "Parity",
    "column_drift",
    "dataset_drift",
    "kind_of",
    "nannyml_threshold",
    "statistic",
    "z_of_proportions",
]

Parity = Literal["evidently", "nannyml"]
Kind = Literal["numeric", "categorical", "text"]
Column = Sequence[Scalar | None] | NDArray[Any]
_Floats = NDArray[np.float64]

#: Share of drifted columns from which Evidently says that the dataset drifted.
DATASET_SHARE: Final = 0.5
#: Evidently: up to so many reference rows it tests, beyond it measures.
_TESTED_ROWS: Final = 1_000
#: Evidently: whole numbers with at most so many values are categories.
_INTEGER_CATEGORIES: Final = 10
#: Evidently: numbers with at most so many values are compared by value, not by test of shape.
_FEW_NUMBERS: Final = 5
#: Evidently: numbers with more values than that are binned.
_BINNED_FROM: Final = 20
#: Evidently: fills empty bins of PSI and KL.
_FILL: Final = 1e-4
#: NannyML: parts of the reference that its thresholds come from.
_PARTS: Final = 10
_P_VALUES: Final = frozenset({"ks", "chisquare", "z", "chi2"})


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """A verdict on one column.

    ``value`` is a p-value or a distance, by ``method``; None where there is
    nothing to compare, and then ``note`` says why and nothing drifted.
    """

    kind: Kind
    method: str
    value: float | None
    threshold: float | None
    is_drift: bool
    note: str = ""


def column_drift(
    reference: Column,
    current: Column,
    *,
    parity: Parity,
    method: str | None = None,
    threshold: float | None = None,
) -> ColumnDrift:
    """Say what the library would say of a column.

    Parameters
    ----------
    reference, current
        Raw values in order of time; None, NaN and infinite values are left out.
    method
        Instead of the default; see :func:`statistic`.
    threshold
        Instead of the default.

    Raises
    ------
    ValueError
        There is no such method.
    """
    kind = kind_of(reference, parity)
    if kind == "text":
        return ColumnDrift(kind, "text", None, None, is_drift=False, note="text is not compared")
    old, new = _present(reference, kind), _present(current, kind)
    if method is None:
        method = _evidently_method(old, new, kind) if parity == "evidently" else "jensenshannon"
    if not len(old) or not len(new):
        return ColumnDrift(kind, method, None, None, is_drift=False, note="no values")
    value = _method(parity, kind, method)(old, new)
    if threshold is None:
        threshold = _threshold(parity, kind, method, old)
    return ColumnDrift(kind, method, value, threshold, _drifted(parity, method, value, threshold))


def dataset_drift(columns: Sequence[ColumnDrift], share: float = DATASET_SHARE) -> bool:
    """Say whether at least a ``share`` of the columns drifted (Evidently's dataset drift)."""
    return bool(columns) and sum(column.is_drift for column in columns) >= share * len(columns)


def statistic(reference: Column, current: Column, *, parity: Parity, method: str) -> float | None:
    """Give a p-value or a distance; None when either side has no values.

    Parameters
    ----------
    method
        Evidently, numeric: ``ks``, ``wasserstein``, ``jensenshannon``, ``psi``,
        ``kl_div``; categorical: ``chisquare``, ``z``, ``jensenshannon``, ``psi``,
        ``kl_div``.  NannyML, numeric: ``jensenshannon``, ``hellinger``,
        ``kolmogorov_smirnov``, ``wasserstein``; categorical: ``jensenshannon``,
        ``hellinger``, ``l_infinity``, ``chi2``.

    Raises
    ------
    ValueError
        There is no such method for columns of this kind.
    """
    kind = _compared_as(reference, parity)
    old, new = _present(reference, kind), _present(current, kind)
    if not len(old) or not len(new):
        return None
    return _method(parity, kind, method)(old, new)


def nannyml_threshold(reference: Column, method: str, *, rows: int | None = None) -> float:
    """Give NannyML's upper threshold: mean + 3 standard deviations over parts of the reference.

    The parts are held against the whole reference they are part of, which makes
    the threshold lower than fresh data would.

    Parameters
    ----------
    method
        As for :func:`statistic`.
    rows
        Of a part (NannyML's ``chunk_size``); None: a tenth of the reference.
    """
    kind = _compared_as(reference, "nannyml")
    return _nannyml_threshold(_present(reference, kind), kind, method, rows)


def kind_of(values: Column, parity: Parity = "evidently") -> Kind:
    """Tell a column's kind by its values, as the library guesses it.

    To NannyML all numbers but booleans are numeric, and text is categories.

    >>> kind_of([0.5, 1.0, None]), kind_of([1, 2, 3]), kind_of(["a", "b", "a", "a", "b"])
    ('numeric', 'categorical', 'categorical')
    >>> kind_of([1, 2, 3], "nannyml")
    'numeric'
    """
    present = [value for value in _listed(values) if value is not None]
    distinct = len(set(present))
    if any(isinstance(value, str) for value in present):
        is_text = parity == "evidently" and distinct > len(present) / 2
        return "text" if is_text else "categorical"
    if present and all(isinstance(value, bool) for value in present):
        return "categorical"
    is_whole = all(isinstance(value, int) for value in present)
    few = parity == "evidently" and is_whole and distinct <= _INTEGER_CATEGORIES
    return "categorical" if few else "numeric"


def _compared_as(values: Column, parity: Parity) -> Kind:
    """Give the kind of method that is meant by its name: text can only be categories."""
    kind = kind_of(values, parity)
    return "categorical" if kind == "text" else kind


def _evidently_method(old: Any, new: Any, kind: Kind) -> str:
    distinct = len(set(_listed(old)) | set(_listed(new)))
    if kind == "numeric" and distinct > _FEW_NUMBERS:
        return "ks" if len(old) <= _TESTED_ROWS else "wasserstein"
    if len(old) > _TESTED_ROWS:
        return "jensenshannon"
    return "chisquare" if distinct > 2 else "z"


def _threshold(parity: Parity, kind: Kind, method: str, old: Any) -> float:
    if method in _P_VALUES:
        return 0.05
    return 0.1 if parity == "evidently" else _nannyml_threshold(old, kind, method)


def _drifted(parity: Parity, method: str, value: float, threshold: float) -> bool:
    if method in _P_VALUES:
        return value <= threshold if method == "ks" else value < threshold
    return value >= threshold if parity == "evidently" else value > threshold


def _nannyml_threshold(old: Any, kind: Kind, method: str, rows: int | None = None) -> float:
    function, size = _method("nannyml", kind, method), rows or max(1, len(old) // _PARTS)
    values = [function(old, old[at : at + size]) for at in range(0, len(old), size)]
    return float(np.mean(values) + 3 * np.std(values))


# ------------------------------------------------------------------------ Evidently


def _ks(old: _Floats, new: _Floats) -> float:
    return float(stats.ks_2samp(old, new).pvalue)


def _wasserstein_over_spread(old: _Floats, new: _Floats) -> float:
    return float(stats.wasserstein_distance(old, new)) / max(float(np.std(old)), 0.001)


def _chisquare(old: Any, new: Any) -> float:
    """One-sample: the reference's shares are taken for the truth, a new category gives 0."""
    r, c = _tallies(old, new)
    if r.size == 1:
        return 1.0
    expected = r * (len(new) / len(old))
    if (expected == 0).any():
        return 0.0
    return float(special.chdtrc(r.size - 1, math.fsum((c - expected) ** 2 / expected)))


def _z(old: Any, new: Any) -> float:
    """Two proportions, pooled; the share is that of every value but the first in order."""
    z = z_of_proportions(old, new)
    return 1.0 if z is None else float(2 * special.ndtr(-abs(z)))


def z_of_proportions(old: Column, new: Column) -> float | None:
    """Give z of the two-proportion test; None when all values are the same.

    >>> round(z_of_proportions([0, 0, 1, 1], [0, 1, 1, 1]), 6)
    -0.730297
    """
    values, others = _listed(old), _listed(new)
    first = min(set(values) | set(others))
    p = sum(value != first for value in values) / len(values)
    q = sum(value != first for value in others) / len(others)
    pooled = (p * len(values) + q * len(others)) / (len(values) + len(others))
    variance = pooled * (1 - pooled) * (1 / len(values) + 1 / len(others))
    return (p - q) / math.sqrt(variance) if variance > 0 else None


def _evidently_shares(old: Any, new: Any) -> tuple[_Floats, _Floats]:
    """Give shares on Sturges' bins of both samples together, or by value."""
    if isinstance(old, np.ndarray) and np.unique(old).size > _BINNED_FROM:
        edges = np.histogram_bin_edges(np.concatenate([old, new]), bins="sturges")
        return np.histogram(old, edges)[0] / len(old), np.histogram(new, edges)[0] / len(new)
    r, c = _tallies(old, new)
    return r / len(old), c / len(new)


def _evidently_js(old: Any, new: Any) -> float:
    return float(jensenshannon(*_evidently_shares(old, new)))


def _evidently_psi(old: Any, new: Any) -> float:
    p, q = (_filled(shares) for shares in _evidently_shares(old, new))
    return math.fsum((p - q) * np.log(p / q))


def _evidently_kl(old: Any, new: Any) -> float:
    p, q = (_filled(shares) for shares in _evidently_shares(old, new))
    return float(stats.entropy(p, q))


def _filled(shares: _Floats) -> _Floats:
    least = float(shares[shares > 0].min())
    return np.where(shares == 0, least / 1e6 if least <= _FILL else _FILL, shares)


# -------------------------------------------------------------------------- NannyML


def _nannyml_shares(old: Any, new: Any) -> tuple[_Floats, _Floats]:
    """Give shares on Doane's bins of the reference, or its categories; the rest is one bin."""
    if isinstance(old, np.ndarray):
        edges = np.histogram_bin_edges(old, bins="doane")
        r, c = np.histogram(old, edges)[0], np.histogram(new, edges)[0]
    else:
        known = dict.fromkeys(old)
        before, now = Counter(old), Counter(new)
        r, c = np.array([before[x] for x in known]), np.array([now[x] for x in known])
    p, q = r / len(old), c / len(new)
    rest = len(new) - int(c.sum())
    if not rest:
        return p, q
    return np.append(p, 0.0), np.append(q, rest / len(new))


def _nannyml_js(old: Any, new: Any) -> float:
    return float(jensenshannon(*_nannyml_shares(old, new), base=2))


def _nannyml_hellinger(old: Any, new: Any) -> float:
    p, q = _nannyml_shares(old, new)
    return math.sqrt(math.fsum((np.sqrt(p) - np.sqrt(q)) ** 2) / 2)


def _nannyml_ks(old: _Floats, new: _Floats) -> float:
    return float(stats.ks_2samp(old, new).statistic)


def _nannyml_wasserstein(old: _Floats, new: _Floats) -> float:
    return float(stats.wasserstein_distance(old, new))


def _l_infinity(old: Any, new: Any) -> float:
    r, c = _tallies(old, new)
    return float(np.abs(r / len(old) - c / len(new)).max())


def _chi2(old: Any, new: Any) -> float:
    """Two-sample, with Yates' correction on a 2x2 table."""
    table = np.array(_tallies(old, new))
    return float(stats.chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0


_Statistic = Callable[[Any, Any], float]
_EVIDENTLY: Final[Mapping[str, _Statistic]] = {
    "jensenshannon": _evidently_js,
    "psi": _evidently_psi,
    "kl_div": _evidently_kl,
    "chisquare": _chisquare,
    "z": _z,
}
_NANNYML: Final[Mapping[str, _Statistic]] = {
    "jensenshannon": _nannyml_js,
    "hellinger": _nannyml_hellinger,
}
_METHODS: Final[Mapping[tuple[Parity, Kind], Mapping[str, _Statistic]]] = {
    ("evidently", "numeric"): {**_EVIDENTLY, "ks": _ks, "wasserstein": _wasserstein_over_spread},
    ("evidently", "categorical"): _EVIDENTLY,
    ("nannyml", "numeric"): {
        **_NANNYML,
        "kolmogorov_smirnov": _nannyml_ks,
        "wasserstein": _nannyml_wasserstein,
    },
    ("nannyml", "categorical"): {**_NANNYML, "l_infinity": _l_infinity, "chi2": _chi2},
}


def _method(parity: Parity, kind: Kind, method: str) -> _Statistic:
    known = _METHODS[parity, kind]
    if method not in known:
        raise ValueError(f"{parity} has no {method!r} for {kind} columns; it has {sorted(known)}")
    return known[method]


def _tallies(old: Any, new: Any) -> tuple[_Floats, _Floats]:
    """Count every value of either sample, in a fixed order."""
    before, now = Counter(_listed(old)), Counter(_listed(new))
    keys = sorted(before.keys() | now.keys(), key=lambda value: (str(type(value)), value))
    r, c = ([float(tally[key]) for key in keys] for tally in (before, now))
    return np.array(r), np.array(c)


def _present(values: Column, kind: Kind) -> Any:
    """Give what is there: float64 for numbers, a list for categories."""
    present = [value for value in _listed(values) if value is not None]
    present = [v for v in present if not (isinstance(v, float) and not math.isfinite(v))]
    if kind != "numeric":
        return present
    return np.array([v for v in present if not isinstance(v, str)], dtype=np.float64)


def _listed(values: Column) -> Sequence[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else values
