"""Events by seed: some thousand distinct rows, given ids and times as they are needed.

An event is made by putting an id and a time between three pieces of bytes that
:func:`kedge.codec.encode` made once, so what is sent is what a client sends, and
making it costs less than sending it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge.base import Event
from kedge.codec import encode
from kedge.events import Outcome, Output, Prediction
from kedge.monitor import Monitor
from kedge.panes import Reference
from kedge_services.core.references import build_reference

__all__ = ["CLASSES", "VERSION", "Keyed", "Shape", "Workload"]

CLASSES = ("no", "yes")
VERSION = "v1"
_REFERENCE_ROWS = 5_000
_ID, _TIME_MS = "@@id@@", 9_999_999_999_999
#: Digits of an id, so that all records of a model have the same length.
_ID_FORM = b"r%012d"


class Keyed(NamedTuple):
    """A record's key and value."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Shape:
    """What the traffic looks like.

    Attributes
    ----------
    features
        Numeric ones: normal, half of them skewed.
    models
        Records go to them in turn.
    segments
        Segments by which performance is followed, of three values each.
    labelled
        Whether outcomes are waited for.
    rate
        Records a second of event time, over all models.
    distinct
        Distinct rows; then they come again, under other ids.
    pane, grace, horizon
        As a monitor has them.
    """

    features: int = 10
    models: int = 1
    segments: int = 0
    labelled: bool = False
    rate: float = 20_000
    distinct: int = 20_000
    pane: str = "10s"
    grace: str = "5s"
    horizon: str = "1d"


class Workload:
    """Monitors, references, predictions and outcomes of one shape.

    Parameters
    ----------
    shape, seed
        The same give the same bytes.
    start_ms
        Event time of record 0.
    """

    def __init__(self, shape: Shape, seed: int, start_ms: int) -> None:
        self.shape, self.seed, self.start_ms = shape, seed, start_ms
        self.models = [f"bench-{number:04}" for number in range(shape.models)]
        self.features = [f"f{number:03}" for number in range(shape.features)]

    # -------------------------------------------------------------- declarations

    def monitors(self) -> list[Monitor]:
        """Declare the models."""
        shape = self.shape
        return [
            Monitor.model_validate(
                {
                    "model": model,
                    "task": "binary",
                    "classes": list(CLASSES),
                    "positive": CLASSES[1],
                    "labelled": shape.labelled,
                    "label_horizon": shape.horizon,
                    "outcome_wait": shape.horizon,
                    "features": dict.fromkeys(self.features, "numeric"),
                    "windows": {"pane": shape.pane, "grace": shape.grace},
                    "segments": [{"name": f"s{number}"} for number in range(shape.segments)],
                }
            )
            for model in self.models
        ]

    def references(self) -> list[Reference]:
        """Give what each model's version is held to, made of rows of its own kind."""
        rng = np.random.default_rng([self.seed, 1])
        rows = self._rows(rng, _REFERENCE_ROWS)
        scores = self._scores(rng, _REFERENCE_ROWS)
        answers = [CLASSES[score > 0.5] for score in scores.tolist()]
        labels = self._labels(rng, scores)
        first = build_reference(
            model=self.models[0],
            version=VERSION,
            columns={name: rows[:, i].tolist() for i, name in enumerate(self.features)},
            kinds=dict.fromkeys(self.features, "numeric"),
            predictions=answers,
            scores=scores.tolist(),
            labels=labels,
            losses=[float(a != b) for a, b in zip(answers, labels, strict=True)],
        )
        return [first.model_copy(update={"model": model}) for model in self.models]

    # -------------------------------------------------------------------- events

    def predictions(
        self, start: int, stop: int, *, times_ms: int | None = None, drifted: bool = False
    ) -> Iterator[Keyed]:
        """Give predictions ``start`` to ``stop``; all of the one time given, or at the rate.

        Those that have drifted have all features one standard deviation higher.
        """
        pieces = self._drifted if drifted else self._predictions
        return self._events(pieces, start, stop, times_ms, delay_ms=0)

    def mixed(
        self, start: int, stop: int, *, time_ms: int, drifted: Collection[int]
    ) -> Iterator[Keyed]:
        """Give predictions of one time, of which those of some models have drifted."""
        models, distinct = len(self.models), len(self._predictions)
        usual, moved = self._predictions, self._drifted if drifted else self._predictions
        for number in range(start, stop):
            key = _ID_FORM % number
            pieces = moved if number % models in drifted else usual
            before, between, after = pieces[number % distinct]
            yield Keyed(key, b"%b%b%b%d%b" % (before, key, between, time_ms, after))

    def columns(self, start: int, stop: int) -> dict[str, Any]:
        """Give predictions ``start`` to ``stop`` of the only model as columns."""
        numbers = np.arange(start, stop)
        places = numbers % self._distinct
        scores = self._answers[places]
        rows = self._normal[places]
        return {
            "prediction_id": [_ID_FORM.decode() % number for number in range(start, stop)],
            "event_time_ms": self.start_ms + (numbers * (1_000 / self.shape.rate)).astype(np.int64),
            "features": {name: rows[:, i] for i, name in enumerate(self.features)},
            "output": {"label": np.array(CLASSES)[(scores > 0.5).astype(int)], "score": scores},
        }

    def outcomes(
        self, start: int, stop: int, *, times_ms: int | None = None, delay_ms: int = 1_000
    ) -> Iterator[Keyed]:
        """Give the outcomes of the same predictions, ``delay_ms`` of event time after them."""
        return self._events(self._outcomes, start, stop, times_ms, delay_ms=delay_ms)

    def time_ms(self, number: int) -> int:
        """Give the event time of a record."""
        return self.start_ms + int(number * 1_000 / self.shape.rate)

    def _events(
        self, pieces: list[tuple[bytes, bytes, bytes]], start: int, stop: int,
        times_ms: int | None, *, delay_ms: int,
    ) -> Iterator[Keyed]:  # fmt: skip
        distinct, step = len(pieces), 1_000 / self.shape.rate
        begin_ms = self.start_ms + delay_ms
        for number in range(start, stop):
            key = _ID_FORM % number
            at_ms = begin_ms + int(number * step) if times_ms is None else times_ms + delay_ms
            before, between, after = pieces[number % distinct]
            yield Keyed(key, b"%b%b%b%d%b" % (before, key, between, at_ms, after))

    @cached_property
    def _predictions(self) -> list[tuple[bytes, bytes, bytes]]:
        return self._made_of(self._normal)

    @cached_property
    def _normal(self) -> NDArray[np.float64]:
        return self._rows(np.random.default_rng([self.seed, 2]), self._distinct)

    @cached_property
    def _drifted(self) -> list[tuple[bytes, bytes, bytes]]:
        return self._made_of(self._rows(np.random.default_rng([self.seed, 6]), self._distinct) + 1)

    def _made_of(self, rows: NDArray[np.float64]) -> list[tuple[bytes, bytes, bytes]]:
        rng = np.random.default_rng([self.seed, 4])
        return [
            _pieces(
                Prediction(
                    prediction_id=_ID,
                    model=self.models[number % len(self.models)],
                    version=VERSION,
                    event_time_ms=_TIME_MS,
                    features=dict(zip(self.features, row, strict=True)),
                    output=Output(label=CLASSES[score > 0.5], score=score),
                    segments={
                        f"s{segment}": "abc"[int(chance)]
                        for segment, chance in enumerate(rng.integers(3, size=self.shape.segments))
                    },
                )
            )
            for number, (row, score) in enumerate(
                zip(rows.tolist(), self._answers.tolist(), strict=True)
            )
        ]

    @cached_property
    def _outcomes(self) -> list[tuple[bytes, bytes, bytes]]:
        labels = self._labels(np.random.default_rng([self.seed, 5]), self._answers)
        return [
            _pieces(
                Outcome(
                    prediction_id=_ID,
                    label=label,
                    event_time_ms=_TIME_MS,
                    model=self.models[number % len(self.models)],
                )
            )
            for number, label in enumerate(labels)
        ]

    @property
    def _distinct(self) -> int:
        """A multiple of the models, so that a row keeps its model when it comes again."""
        models = len(self.models)
        return -(-self.shape.distinct // models) * models

    @cached_property
    def _answers(self) -> NDArray[np.float64]:
        return self._scores(np.random.default_rng([self.seed, 3]), self._distinct)

    def _rows(self, rng: np.random.Generator, number: int) -> NDArray[np.float64]:
        values = rng.normal(size=(number, self.shape.features))
        values[:, 1::2] = np.exp(values[:, 1::2])
        return np.round(values, 6)

    def _scores(self, rng: np.random.Generator, number: int) -> NDArray[np.float64]:
        return np.round(rng.beta(0.5, 0.5, size=number), 6)

    def _labels(self, rng: np.random.Generator, scores: NDArray[np.float64]) -> list[str]:
        return [CLASSES[hit] for hit in (rng.random(scores.size) < scores).tolist()]


def _pieces(event: Event) -> tuple[bytes, bytes, bytes]:
    """Cut an event where its id and its time belong."""
    before, rest = encode(event).split(_ID.encode(), 1)
    between, after = rest.split(str(_TIME_MS).encode(), 1)
    return before, between, after
