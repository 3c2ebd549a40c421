"""The data of the benchmarks: made from seeds, or the real streams, shuffled or not."""

from __future__ import annotations

import csv
import gzip
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal, stats

from kedge_services.core.binning import Values

__all__ = ["DRIFTS", "Table", "acs", "california", "elec2", "find", "made", "shuffled"]

ROOT = Path(__file__).resolve().parents[3]
#: Where the real streams lie: with the tests, or beside the project.
PLACES = (ROOT / "tests" / "data", ROOT.parent / "shared" / "data")
Floats = NDArray[np.float64]

NUMERIC, CATEGORICAL, LEVELS = 40, 10, 6
#: Shares of the levels of a made categorical feature.
SHARES = np.arange(1, LEVELS + 1) ** -1.2 / (np.arange(1, LEVELS + 1) ** -1.2).sum()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as floats, categories as their codes; NaN is a null.

    Attributes
    ----------
    rows
        Shape (rows, features).
    categorical
        By feature.
    """

    names: list[str]
    rows: Floats
    categorical: list[bool]

    def part(self, start: int, end: int) -> Table:
        return Table(self.names, self.rows[start:end], self.categorical)

    @property
    def kinds(self) -> dict[str, Any]:
        return {
            name: "categorical" if is_categorical else "numeric"
            for name, is_categorical in zip(self.names, self.categorical, strict=True)
        }

    def columns(self) -> dict[str, Values]:
        """Give what Kedge's events would hold: numbers, texts and None."""
        return {
            name: self._column(i, is_categorical=is_categorical)
            for i, (name, is_categorical) in enumerate(
                zip(self.names, self.categorical, strict=True)
            )
        }

    def _column(self, i: int, *, is_categorical: bool) -> Values:
        column = self.rows[:, i]
        if is_categorical:
            return [f"k{int(code)}" for code in column]
        if np.isnan(column).any():
            return [None if np.isnan(value) else float(value) for value in column]
        return column


def made(rng: np.random.Generator, rows: int, *, phi: float = 0.0) -> Table:
    """Make 40 numeric features (10 each of four shapes) and 10 categorical ones of 6 levels.

    Parameters
    ----------
    phi
        Autocorrelation: every feature follows a stationary AR(1) of its own, whose
        normal values are mapped to the shape.
    """
    z = rng.normal(size=(rows, NUMERIC + CATEGORICAL))
    if phi:
        z[1:] *= np.sqrt(1 - phi * phi)
        z = signal.lfilter([1.0], [1.0, -phi], z, axis=0)
    u = stats.norm.cdf(z)
    ten = NUMERIC // 4
    numeric = [
        z[:, :ten],
        np.exp(z[:, ten : 2 * ten]),
        -np.log1p(-u[:, 2 * ten : 3 * ten]),
        u[:, 3 * ten : NUMERIC],
    ]
    codes = np.searchsorted(np.cumsum(SHARES)[:-1], u[:, NUMERIC:]).astype(np.float64)
    names = [f"x{i}" for i in range(NUMERIC)] + [f"c{i}" for i in range(CATEGORICAL)]
    return Table(names, np.hstack([*numeric, codes]), [False] * NUMERIC + [True] * CATEGORICAL)


def _shift(by: float) -> Callable[[Floats, np.random.Generator], None]:
    def drift(rows: Floats, _: np.random.Generator) -> None:
        rows[:, 0] += by

    return drift


def _widen(rows: Floats, _: np.random.Generator) -> None:
    rows[:, 0] *= 1.5


def _move(rows: Floats, rng: np.random.Generator) -> None:
    """Let 5 of 100 rows go from the first level to the second."""
    goes = (rows[:, NUMERIC] == 0) & (rng.random(len(rows)) < 0.05 / SHARES[0])
    rows[goes, NUMERIC] = 1


def _drop(rows: Floats, rng: np.random.Generator) -> None:
    rows[rng.random(len(rows)) < 0.05, 0] = np.nan


#: Drifts of one feature by name: its place and what happens to the rows.
DRIFTS: dict[str, tuple[int, Callable[[Floats, np.random.Generator], None]]] = {
    "mean +.5 sigma": (0, _shift(0.5)),
    "mean +.25 sigma": (0, _shift(0.25)),
    "mean +.1 sigma": (0, _shift(0.1)),
    "scale x1.5": (0, _widen),
    "category, 5 points": (NUMERIC, _move),
    "nulls, 0 to 5 %": (0, _drop),
}


def find(name: str) -> Path | None:
    """Find a stream; None when it lies in no place."""
    return next((place / name for place in PLACES if (place / name).exists()), None)


def shuffled(table: Table, seed: int) -> Table:
    order = np.random.default_rng(seed).permutation(len(table.rows))
    return Table(table.names, table.rows[order], table.categorical)


def elec2() -> Table | None:
    """Elec2 without what leaks the label: the day and six numbers."""
    path = find("elec2.csv.gz")
    if path is None:
        return None
    names = ["day", "period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]
    rows = [[float(row[name]) for name in names] for row in _rows(path)]
    return Table(names, np.array(rows), [True] + [False] * 6)


def elec2_labels() -> NDArray[np.int64] | None:
    path = find("elec2.csv.gz")
    return None if path is None else np.array([row["class"] == "UP" for row in _rows(path)], int)


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's features, scores, answers and labels, in stream order; ``reference`` rows first."""

    features: Table
    scores: Floats
    answers: NDArray[np.int64]
    labels: NDArray[np.int64]
    reference: int


def acs() -> Scored | None:
    """Read ACS employment; its reference is the first year."""
    path = find("acs_employment_ma_2015_2018.parquet")
    if path is None:
        return None
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    left_out = {"id", "employed", "year", "prediction", "predicted_probability"}
    names = [name for name in table.column_names if name not in left_out]
    columns = [_codes(table[name].to_pylist(), name != "AGEP") for name in names]
    year = np.array(table["year"])
    return Scored(
        Table(names, np.column_stack(columns), [name != "AGEP" for name in names]),
        np.array(table["predicted_probability"], dtype=np.float64),
        np.array(table["prediction"], dtype=np.int64),
        np.array(table["employed"], dtype=np.int64),
        int((year == year[0]).sum()),
    )


def california() -> Scored | None:
    """Read NannyML's California housing, with its partition."""
    path = find("california_housing_nannyml.csv.gz")
    if path is None:
        return None
    names = [
        "MedInc", "HouseAge", "AveRooms", "AveBedrms", "Population", "AveOccup", "Latitude",
        "Longitude",
    ]  # fmt: skip
    rows = list(_rows(path))
    return Scored(
        Table(names, np.array([[float(row[n]) for n in names] for row in rows]), [False] * 8),
        np.array([float(row["y_pred_proba"]) for row in rows]),
        np.array([int(row["y_pred"]) for row in rows]),
        np.array([int(row["clf_target"]) for row in rows]),
        sum(row["partition"] == "reference" for row in rows),
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _codes(values: list[Any], is_categorical: bool) -> Floats:  # noqa: FBT001 -- local
    if not is_categorical:
        return np.array(values, dtype=np.float64)
    codes = dict(zip(sorted(set(values)), itertools.count(), strict=False))
    return np.array([codes[value] for value in values], dtype=np.float64)
