"""Gives every record of the two inputs its fate, and puts predictions and outcomes together.

All predictions are read before the first outcome is looked at, so nothing here
depends on which of the two a service happened to read first.  Where the raw
records leave that open, the dead letter decides, and is counted as having done so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kedge_services.local.recount.arrivals import Arrivals
from kedge_services.local.recount.batches import is_batch, rows_of
from kedge_services.local.recount.intake import Intake, Judged, is_champion
from kedge_services.local.recount.letters import UNREADABLE, Letters
from kedge_services.local.recount.plain import Findings, Log, Place, Record, Watched, label_text

__all__ = ["BEFORE_ALL", "Given", "Joined", "Predicted", "Standing", "join", "standing"]

BEFORE_ALL = -(1 << 62)
#: Labels kept for one id; whoever changes a label more often is not believed.
_MAX_LABELS = 64


@dataclass(slots=True, eq=False)
class Predicted:
    """A prediction that entered the join; ``features`` are in declared order.

    ``watermark_ms`` stood before it in its partition; ``is_late``: behind that.
    ``standing`` is what its labels say, once everything is joined.
    """

    prediction_id: str
    partition: int
    offset: int
    time_ms: int
    version: str
    champion: bool
    features: tuple[Any, ...]
    output: dict[str, Any] | None
    segments: dict[str, Any]
    watched: Watched
    watermark_ms: int
    is_late: bool
    answer: str | float | None
    standing: Standing | None = None


class Given(NamedTuple):
    """A label that was sent; it belongs to these models, for None to any.

    ``is_late`` is None when nobody can say whose watermark it has to keep to.
    """

    partition: int
    offset: int
    time_ms: int
    label: Any
    text: str
    models: tuple[str, ...] | None
    owner: Watched | None
    is_late: bool | None


class Standing(NamedTuple):
    """What labels say together: ``text`` since the label ``since``, after so many changes."""

    first: Given
    since: Given
    winner: Given
    changes: int


@dataclass(slots=True)
class Joined:
    """All records with their fates.

    Attributes
    ----------
    predictions, labels
        By prediction id, in offset order; of the labels those that met a prediction.
    fates
        Records by topic and fate; what cannot be read is ``unreadable``.
    watermarks
        Of the predictions, by model and partition, after the last record.
    decided
        Records whose fate their dead letter had to decide, by reason.
    records
        Records read, by topic.
    champions
        Predictions of a serving version, readable or not as far as it says so.
    arrivals
        The predictions without labels.
    """

    predictions: dict[str, list[Predicted]] = field(default_factory=dict)
    labels: dict[str, list[Given]] = field(default_factory=dict)
    fates: dict[str, Counter[str]] = field(
        default_factory=lambda: {"predictions": Counter(), "outcomes": Counter()}
    )
    watermarks: dict[tuple[str, int], int] = field(default_factory=dict)
    decided: Counter[str] = field(default_factory=Counter)
    records: Counter[str] = field(default_factory=Counter)
    champions: int = 0
    arrivals: Arrivals = field(default_factory=Arrivals)

    def matching(self, prediction_id: str, given: Given) -> list[Predicted]:
        """Give the predictions of an id that a label is one of."""
        return [p for p in self.predictions.get(prediction_id, ()) if _matches(p, given)]


def standing(labels: Sequence[Given], predictions: Sequence[Predicted]) -> Standing | None:
    """Find what the labels of any of these predictions say; the highest (time, offset) wins."""
    found: Standing | None = None
    for given in labels:
        if not any(_matches(p, given) for p in predictions):
            continue
        if found is None:
            found = Standing(given, given, given, 0)
        elif given.time_ms >= found.winner.time_ms:
            if given.text == found.since.text:
                found = found._replace(winner=given)
            else:
                found = Standing(found.first, given, given, found.changes + 1)
    return found


def join(log: Log, intake: Intake, letters: Letters, findings: Findings) -> Joined:
    """Read both inputs and join them."""
    joined = Joined()
    for record in log.read("predictions"):
        letters.check(record)
        if not is_batch(record):
            _predict(joined, letters, record, intake.prediction(record))
            continue
        # Nobody unpacks what may be a bomb, only to see that it was rightly put aside.
        is_refused = letters.reason(record.place) == "too-large"
        rows = UNREADABLE if is_refused else rows_of(record, intake.monitors)
        if isinstance(rows, frozenset):
            _predict(joined, letters, record, rows)
            continue
        for row in rows:
            letters.check(row)
            _predict(joined, letters, row, intake.prediction(row))
    given: dict[str, list[Given]] = {}
    clocks: dict[tuple[str, int], int] = {}
    unsure: set[int] = set()
    for record in log.read("outcomes"):
        letters.check(record)
        _give(joined, intake, letters, record, given, clocks, unsure)
    for prediction_id, labels in given.items():
        for label in labels:
            _settle(joined, letters, findings, prediction_id, label)
    for prediction_id, labels in joined.labels.items():
        for prediction in joined.predictions[prediction_id]:
            prediction.standing = standing(labels, [prediction])
    return joined


# ------------------------------------------------------------------- predictions


def _predict(joined: Joined, letters: Letters, record: Record, judged: Judged) -> None:
    joined.records["predictions"] += 1
    fates = joined.fates["predictions"]
    joined.champions += is_champion(record if isinstance(judged, frozenset) else judged[0])
    if isinstance(judged, frozenset):
        fates[_put_aside(letters, record.place, judged)] += 1
        return
    event, watched = judged
    if watched is None:
        raise LookupError(f"{record.place} was taken without a monitor")
    clock = (watched.model, record.partition)
    time_ms = event["event_time_ms"]
    largest_ms = joined.watermarks.get(clock, BEFORE_ALL)
    watermark_ms = largest_ms - watched.grace_ms
    joined.watermarks[clock] = max(largest_ms, time_ms)
    prediction = _prediction(event, watched, record, watermark_ms)
    known = joined.predictions.setdefault(event["prediction_id"], [])
    if watched.labelled:
        is_repeated = _is_repeated(joined, letters, record.place, prediction, known)
    else:
        is_repeated = joined.arrivals.add(
            record, watched, prediction_id=prediction.prediction_id, version=prediction.version,
            time_ms=time_ms, watermark_ms=watermark_ms,
        )  # fmt: skip
    if is_repeated:
        fates["duplicate"] += 1
        return
    known.append(prediction)
    if prediction.is_late:
        fates[_put_aside(letters, record.place, frozenset({"late"}))] += 1
    else:
        fates["counted"] += 1


def _prediction(
    event: dict[str, Any], watched: Watched, record: Record, watermark_ms: int
) -> Predicted:
    output, segments = event.get("output"), event.get("segments", {})
    return Predicted(
        prediction_id=event["prediction_id"],
        partition=record.partition,
        offset=record.offset,
        time_ms=event["event_time_ms"],
        version=event["version"],
        champion=event.get("role", "champion") == "champion",
        features=tuple(map(event["features"].get, watched.features)),
        output=output,
        segments={name: segments[name] for name in watched.segments if name in segments},
        watched=watched,
        watermark_ms=watermark_ms,
        is_late=event["event_time_ms"] < watermark_ms,
        answer=_answer(output, watched),
    )


def _is_repeated(
    joined: Joined, letters: Letters, place: Place, new: Predicted, known: Sequence[Predicted]
) -> bool:
    """Say whether this version has answered before, and the answer is still held."""
    watched = new.watched
    same = [p for p in known if (p.version, p.watched.model) == (new.version, watched.model)]
    if not same:
        return False
    until_ms = max(p.time_ms for p in same) + watched.horizon_ms + watched.wait_ms
    if new.time_ms > until_ms:
        return False
    if new.watermark_ms > until_ms and letters.reason(place) == "late":
        # Whether the first one had gone already is a matter of the other input's watermark.
        joined.decided["late"] += 1
        return False
    return True


def _answer(output: dict[str, Any] | None, watched: Watched) -> str | float | None:
    """Give what is compared with the label: a class's text, or a finite value."""
    if output is None:
        return None
    if watched.regression:
        value = output.get("value")
        number = None if value is None else float(value)
        return number if number is not None and abs(number) < float("inf") else None
    if output.get("label") is not None:
        return label_text(output["label"])
    if scores := output.get("scores"):
        best = [name for name in watched.classes if name in scores]
        return max(best, key=lambda name: float(scores[name]), default=None)
    score = output.get("score")
    if score is None or watched.positive is None or float(score) != float(score):
        return None
    negative = next(name for name in watched.classes if name != watched.positive)
    return watched.positive if float(score) >= 0.5 else negative


# ---------------------------------------------------------------------- outcomes


def _give(
    joined: Joined,
    intake: Intake,
    letters: Letters,
    record: Record,
    given: dict[str, list[Given]],
    clocks: dict[tuple[str, int], int],
    unsure: set[int],
) -> None:
    joined.records["outcomes"] += 1
    fates = joined.fates["outcomes"]
    judged = intake.outcome(record)
    if isinstance(judged, frozenset):
        fates[_put_aside(letters, record.place, judged)] += 1
        return
    event, owner = judged
    claimed = [owner.model] if owner is not None else intake.claimed_by(event)
    if claimed is None or (owner is not None and not owner.labelled):
        fates["unlabelled"] += 1
        return
    time_ms, is_late = event["event_time_ms"], None
    if owner is None:
        unsure.add(record.partition)
    else:
        clock = (owner.model, record.partition)
        largest_ms = clocks.get(clock, BEFORE_ALL)
        is_late = time_ms < largest_ms - owner.grace_ms
        clocks[clock] = max(largest_ms, time_ms)
    label = Given(
        record.partition, record.offset, time_ms, event["label"], label_text(event["label"]),
        tuple(claimed), owner, None if record.partition in unsure else is_late,
    )  # fmt: skip
    given.setdefault(event["prediction_id"], []).append(label)


def _settle(
    joined: Joined, letters: Letters, findings: Findings, prediction_id: str, label: Given
) -> None:
    """Find the fate of a label that is one."""
    place = Place("outcomes", label.partition, label.offset)
    reason = letters.reason(place)
    found = joined.matching(prediction_id, label)
    earlier = joined.labels.get(prediction_id, [])
    if reason is not None:
        excuse = _excuse(joined, label, found, earlier, reason)
        joined.decided[reason] += bool(found)
        letters.settle(place, frozenset({reason if excuse else "none"}))
        joined.fates["outcomes"][reason] += 1
    elif found:
        before = standing(earlier, found[:1])
        is_repeated = before is not None and before.since.text == label.text
        joined.fates["outcomes"]["duplicate" if is_repeated else "matched"] += 1
        joined.labels.setdefault(prediction_id, []).append(label)
    elif label.owner is None and _is_unlabelled(joined.predictions.get(prediction_id, ())):
        joined.fates["outcomes"]["unlabelled"] += 1
    else:
        joined.fates["outcomes"]["waiting"] += 1
        if label.is_late or (label.owner is not None and _has_waited(joined, label, label.owner)):
            wanted = "late" if label.is_late else "unmatched-outcome"
            findings.differ("an outcome without prediction", place, wanted, "no dead letter")


def _excuse(
    joined: Joined,
    label: Given,
    found: Sequence[Predicted],
    earlier: Sequence[Given],
    reason: str,
) -> bool:
    """Say whether a label may have been put aside for this reason."""
    if reason == "late":
        return label.is_late is not False
    if reason == "conflicting-duplicate":
        return len(earlier) >= _MAX_LABELS
    if reason != "unmatched-outcome":
        return False
    if label.owner is None:
        return True  # It waited for whichever model was slowest.
    # A prediction that came before the wait was over would have been met.
    until_ms = label.time_ms + label.owner.wait_ms
    return _has_waited(joined, label, label.owner) and all(p.watermark_ms > until_ms for p in found)


def _has_waited(joined: Joined, label: Given, owner: Watched) -> bool:
    largest_ms = joined.watermarks.get((owner.model, label.partition), BEFORE_ALL)
    return label.time_ms + owner.wait_ms < largest_ms - owner.grace_ms


def _is_unlabelled(predictions: Sequence[Predicted]) -> bool:
    return bool(predictions) and not any(p.watched.labelled for p in predictions)


def _matches(prediction: Predicted, given: Given) -> bool:
    watched = prediction.watched
    return (
        watched.labelled
        and -watched.wait_ms <= given.time_ms - prediction.time_ms < watched.horizon_ms
        and (given.models is None or watched.model in given.models)
    )


def _put_aside(letters: Letters, place: Place, reasons: frozenset[str]) -> str:
    """Give the fate of a record that has to be put aside."""
    reason = letters.settle(place, reasons)
    fate = reason if reason in reasons else min(reasons)
    return "unreadable" if fate in UNREADABLE else fate
