"""Rows in, predictions out: what the topic and HTTP have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kedge import Output, Prediction
from kedge.base import Role, Scalar
from kedge.errors import DeadLetter
from kedge_services.runtime.formats import Row
from kedge_services.serving.models import Lineup, Loaded

__all__ = [
    "ORIGIN",
    "Rows",
    "no_champion",
    "predict",
    "predict_apart",
    "prediction_ids",
    "predictions",
]

#: The header of every prediction made here: nobody has to follow it, see ``following``.
ORIGIN = ("kedge-origin", b"serving")


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one request.

    Attributes
    ----------
    is_plain
        Whether no value is NaN or infinite; False where nobody looked.
    """

    request_id: str
    model: str
    rows: Sequence[Row]
    event_time_ms: int
    segments: Mapping[str, Scalar] = field(default_factory=dict)
    is_plain: bool = False


def predict(loaded: Loaded, rows: Sequence[Row]) -> list[Output]:
    """Ask a version.

    Raises
    ------
    DeadLetter
        Its model cannot digest the rows, or does not answer each.
    """
    name = loaded.version.version
    try:
        outputs = loaded.predictor.predict(rows)
    except Exception as error:
        why = f"version {name} fails: {type(error).__name__}: {error}"
        raise DeadLetter("bad-value", why) from error
    if len(outputs) != len(rows):
        why = f"version {name} answers {len(outputs)} of {len(rows)} rows"
        raise DeadLetter("row-mismatch", why)
    return outputs


def predict_apart(loaded: Loaded, requests: Sequence[Rows]) -> list[list[Output] | DeadLetter]:
    """Ask a version about many requests at once, each with its own fate.

    One call for all rows; only if that fails each request is asked alone, so
    that one bad row harms nobody else.
    """
    rows = [row for request in requests for row in request.rows]
    try:
        outputs = iter(predict(loaded, rows))
    except DeadLetter as error:
        if len(requests) == 1:
            return [error]
        return [answer for request in requests for answer in predict_apart(loaded, [request])]
    return [[next(outputs) for _ in request.rows] for request in requests]


def predictions(
    request: Rows, loaded: Loaded, outputs: Sequence[Output], *, role: Role, latency_ms: float
) -> Iterator[Prediction]:
    """Give the events that say what a version answered."""
    names = prediction_ids(request)
    for name, row, output in zip(names, request.rows, outputs, strict=True):
        # Everything was checked when it was decoded; checking it again would
        # cost more than predicting it.
        yield Prediction.model_construct(
            prediction_id=name,
            model=request.model,
            version=loaded.version.version,
            role=role,
            event_time_ms=request.event_time_ms,
            features=dict(row),
            output=output,
            segments=dict(request.segments),
            latency_ms=latency_ms,
        )


def prediction_ids(request: Rows) -> list[str]:
    """Give the ids under which the rows of a request are answered."""
    name, rows = request.request_id, len(request.rows)
    return [name] if rows == 1 else [f"{name}#{k}" for k in range(rows)]


def no_champion(model: str, lineup: Lineup | None) -> str:
    """Say in a sentence why nobody answers for a model."""
    lineup = lineup or Lineup()
    reasons = [f"{version}: {reason}" for version, reason in lineup.missing.items()]
    if lineup.elsewhere:
        reasons.insert(0, f"{lineup.appointed}, its champion, is served elsewhere")
    why = "; ".join(reasons)
    return f"no version of {model!r} can answer" + (why and f" ({why})")
