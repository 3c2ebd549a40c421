"""A draft from live traffic: the newest predictions of a model and their outcomes."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from kedge.base import Event, Scalar
from kedge.codec import decode
from kedge.errors import DeadLetter, Retry, UsageError
from kedge.events import Outcome, Prediction
from kedge_services.local.batch_events import Events, events_of
from kedge_services.local.init.classes import binary_order, class_values, guess_task
from kedge_services.local.init.draft import Draft, windows_of
from kedge_services.local.init.features import guess_features
from kedge_services.local.init.guess import Given, Guess, given
from kedge_services.local.init.pace import Pace, nice_ms, pane_of, say_ms
from kedge_services.local.init.table import Column, Table, describe
from kedge_services.local.tables import Block
from kedge_services.runtime.ports import Backend, Consumer, TopicPartition

__all__ = ["Traffic", "draft_from_traffic", "read_traffic"]

E = TypeVar("E", bound=Event)

_ENOUGH_ROWS = 5_000
_FIRST_RECORDS = 20_000
_MOST_RECORDS = 320_000
#: Records of a partition that tell how many rows records have.
_PROBE = 10
_POLL_S = 0.1
_READ_S = 60.0
_MINUTE_MS = 60_000
_DAY_MS = 86_400_000
_LONGEST_HORIZON_MS = 30 * _DAY_MS
_LABEL, _VALUE, _SCORE, _OUTCOME = "output.label", "output.value", "output.score", "outcomes"


@dataclass(frozen=True, slots=True)
class Traffic:
    """The newest predictions of one model in order of event time, and their outcomes by id.

    ``records`` were read of the predictions, rows of batches counted one by one;
    ``unreadable`` of them were no predictions.
    """

    model: str
    predictions: Sequence[Prediction]
    outcomes: Mapping[str, Outcome]
    records: int
    unreadable: int


def read_traffic(backend: Backend, model: str | None, *, records: int = _FIRST_RECORDS) -> Traffic:
    """Read the ends of predictions and outcomes, further back for a model that is rare there.

    Parameters
    ----------
    records
        How many of the newest to read at first.

    Raises
    ------
    UsageError
        There are no predictions, none of the model, or of several and no model
        is named.
    """
    while True:
        events, read, is_all = _newest(backend, "predictions", records, Prediction)
        found = Counter(event.model for event in events)
        if is_all or model is None or found[model] >= _ENOUGH_ROWS or records >= _MOST_RECORDS:
            break
        records *= 4
    chosen = model if model is not None else next(iter(found), "")
    others = ", ".join(f"{name} ({count:,})" for name, count in found.most_common(10))
    if not found:
        raise UsageError("there are no predictions yet: send some, then run this again")
    if model is None and len(found) > 1:
        raise UsageError(f"there are predictions of several models, name one by --model: {others}")
    if not found[chosen]:
        raise UsageError(
            f"no predictions of {chosen!r} among the newest {read:,}; there are: {others}"
        )
    mine = [event for event in events if event.model == chosen]
    # A shadow's answers are not those that served.
    champions = [event for event in mine if event.role == "champion"] or mine
    champions.sort(key=lambda event: (event.event_time_ms, event.prediction_id))
    labels, _, _ = _newest(backend, "outcomes", records, Outcome)
    ids = {event.prediction_id for event in champions}
    outcomes = {
        event.prediction_id: event
        for event in labels
        if event.prediction_id in ids and event.model in (None, chosen)
    }
    return Traffic(chosen, champions, outcomes, read, read - len(events))


def draft_from_traffic(traffic: Traffic, said: Given) -> Draft:
    """Guess a monitor for a model whose predictions flow already.

    Raises
    ------
    UsageError
        The task that was asked for does not fit, or there is nothing to watch.
    """
    rows = traffic.predictions
    answers = _answers(traffic)
    label = answers[_OUTCOME] if answers[_OUTCOME].kind != "empty" else None
    prediction = next((answers[n] for n in (_LABEL, _VALUE) if answers[n].kind != "empty"), None)
    score = answers[_SCORE] if answers[_SCORE].kind == "number" else None
    task = _task(said.task, label, prediction, answers)
    classes = None
    if task.value == "binary":
        columns = [column for column in (label, prediction) if column is not None]
        classes = binary_order(class_values(*columns), label, prediction, score)
    elif task.value == "multiclass":
        columns = [column for column in (label, prediction) if column is not None]
        classes = Guess(class_values(*columns), "the labels seen so far; are these all?", "unsure")
    features = guess_features(_features(rows), {}, label=label, score=score)
    if not features.types:
        raise UsageError(f"the predictions of {traffic.model} have no features to watch")
    times = [row.event_time_ms for row in rows]
    span = times[-1] - times[0] + 1
    pace = Pace(None, None, None, max(span / len(rows), 1e-9), span, times)
    absent = Guess(None, "live traffic", "sure")
    return Draft(
        source=_source(traffic),
        model=given(traffic.model, "--model") if said.model else _model(traffic),
        task=task,
        classes=classes,
        labelled=label is not None,
        label=absent if label is not None else _unlabelled(traffic),
        prediction=absent,
        score=absent,
        features=features,
        windows=windows_of(pane_of(pace, max(len(rows), 20 * 500)), _horizon(traffic)),
        pace=None,
        warm_up=None,
        retrains=False,
        segments=tuple(
            sorted({name for row in rows for name in row.segments if 0 < len(name) <= 255})
        ),
    )


def _newest(backend: Backend, topic: str, records: int, cls: type[E]) -> tuple[list[E], int, bool]:
    """Read about so many of the newest events; say how many there were, and whether all."""
    partitions = [TopicPartition(topic, p) for p in range(backend.partitions(topic))]
    with closing(backend.consumer(group=None)) as consumer:
        bounds = {partition: consumer.bounds(partition) for partition in partitions}
    # A batch of rows is one record.
    rows = -(-records // len(partitions))
    _, seen = _last(backend, bounds, _PROBE, rows)
    number = sum(events.number for events in seen)
    is_all, read = _last(backend, bounds, -(-rows * len(seen) // max(1, number)), rows)
    events = []
    for value in chain.from_iterable(found.values for found in read):
        try:
            events.append(decode(cls, value))
        except DeadLetter:
            continue
    return events, sum(found.number for found in read), is_all


def _last(
    backend: Backend, bounds: Mapping[TopicPartition, tuple[int, int]], share: int, rows: int
) -> tuple[bool, list[Events]]:
    """Read so many of the last records of every partition, or so many of their rows.

    Says whether these are all.
    """
    starts = {p: max(low, high - share) for p, (low, high) in bounds.items()}
    with closing(backend.consumer(group=None)) as consumer:
        consumer.assign(starts)
        parts = _read(consumer, {p: high for p, (_, high) in bounds.items()}, rows)
    is_all = all(starts[p] == low for p, (low, _) in bounds.items())
    is_all = is_all and not any(part.has_dropped for part in parts)
    return is_all, [events for part in parts for events in part.events]


@dataclass(slots=True)
class _Newest:
    """The newest events of a partition, about ``most`` rows of them."""

    most: int
    events: deque[Events] = field(default_factory=deque)
    rows: int = 0
    has_dropped: bool = False

    def add(self, events: Events) -> None:
        """Take those of a record; what is too old for the others goes."""
        self.events.append(events)
        self.rows += events.number
        while self.rows - self.events[0].number >= self.most:
            self.rows -= self.events.popleft().number
            self.has_dropped = True


def _read(consumer: Consumer, ends: Mapping[TopicPartition, int], rows: int) -> list[_Newest]:
    """Read up to the ends there were when reading began: traffic does not stop for us."""
    parts = {place: _Newest(rows) for place in ends}
    deadline = time.monotonic() + _READ_S
    is_read: Callable[[TopicPartition], bool] = lambda p: (  # noqa: E731
        consumer.position(p) >= ends[p] or consumer.at_end(p)
    )
    while not all(map(is_read, ends)):
        if time.monotonic() > deadline:
            raise Retry(f"reading took more than {_READ_S:.0f} s; is Kafka well?")
        for batch in consumer.poll(10_000, _POLL_S):
            part = parts[TopicPartition(batch.topic, batch.partition)]
            for value, headers in zip(batch.values, batch.headers, strict=True):
                part.add(events_of(value, headers))
    return list(parts.values())


def _features(rows: Sequence[Prediction]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row.features))
    columns = {name: [row.features.get(name) for row in rows] for name in names}
    return describe([Block(1, len(rows), columns)], texts_only=False, most_rows=len(rows) + 1)


def _answers(traffic: Traffic) -> Mapping[str, Column]:
    columns: dict[str, list[Scalar | None]] = {_LABEL: [], _VALUE: [], _SCORE: [], _OUTCOME: []}
    for row in traffic.predictions:
        output, outcome = row.output, traffic.outcomes.get(row.prediction_id)
        columns[_LABEL].append(None if output is None else output.label)
        columns[_VALUE].append(None if output is None else output.value)
        columns[_SCORE].append(None if output is None else output.score)
        columns[_OUTCOME].append(None if outcome is None else outcome.label)
    rows = len(traffic.predictions)
    return describe([Block(1, rows, columns)], texts_only=False, most_rows=rows + 1).columns


def _task(
    asked: str | None,
    label: Column | None,
    prediction: Column | None,
    answers: Mapping[str, Column],
) -> Guess:
    if asked is None and prediction is answers[_VALUE]:
        return Guess("regression", "the predictions have a value, and no label", "sure")
    return guess_task(asked, label, prediction)


def _horizon(traffic: Traffic) -> Guess | None:
    """Wait twice as long as the slowest label took."""
    sent = {row.prediction_id: row.event_time_ms for row in traffic.predictions}
    delays = [o.event_time_ms - sent[i] for i, o in traffic.outcomes.items()]
    if not delays:
        return Guess(_DAY_MS, "no label was seen", "unsure")
    slowest = max(0, *delays)
    horizon = min(_LONGEST_HORIZON_MS, nice_ms(max(2 * slowest, _MINUTE_MS)))
    why = f"the slowest of {len(delays):,} labels took {say_ms(slowest)}"
    return Guess(horizon, why, "likely" if len(delays) >= 100 else "unsure")


def _unlabelled(traffic: Traffic) -> Guess:
    why = f"no outcome of {len(traffic.predictions):,} predictions; delete this when they come"
    return Guess(None, why, "unsure")


def _model(traffic: Traffic) -> Guess:
    return Guess(traffic.model, "the only model among the newest predictions", "sure")


def _source(traffic: Traffic) -> str:
    text = f"the newest {len(traffic.predictions):,} predictions of {traffic.model}"
    if traffic.outcomes:
        text += f" and {len(traffic.outcomes):,} of their outcomes"
    return text
