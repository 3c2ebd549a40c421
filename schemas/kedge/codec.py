"""Events as bytes: JSON, one object a record.

Reading is tolerant of fields it does not know, also inside monitors, so that a
producer may be newer than a consumer; it refuses everything else with the
:data:`~kedge.errors.Reason` under which the record goes to dead-letters.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from kedge.base import SCHEMA_VERSION, Event
from kedge.errors import DeadLetter, Reason
from kedge.problems import Problem, problems

__all__ = ["dead_letter_of", "decode", "encode"]

E = TypeVar("E", bound=Event)

_SHOWN = 3
#: Kinds of problems that are neither a missing field nor a value of the wrong type.
_INVALID = {"value_error", "assertion_error", "model_type", "model_attributes_type"}


def encode(event: Event) -> bytes:
    """Write an event as it lies on Kafka; fields that are None are left out.

    A null among ``features`` stays, as it is a value; NaN and infinities are
    written as the bare words ``NaN`` and ``Infinity``, which :func:`decode` reads.
    """
    return event.model_dump_json(by_alias=True, exclude_none=True).encode()


def decode(cls: type[E], value: bytes) -> E:
    """Read an event of a known class.

    Raises
    ------
    DeadLetter
        ``undecodable``: no JSON in UTF-8.  ``unsupported-format``: framed Avro
        or Protobuf (the first byte is 0), or a higher ``schema`` than this
        release knows.  ``missing-field`` and ``bad-value``: the detail names
        the fields and what was expected.  ``invalid``: anything else.
    """
    if value[:1] == b"\0":
        raise DeadLetter(
            "unsupported-format", "the value starts with byte 0, like registry-framed Avro"
        )
    try:
        # Monitors forbid unknown fields in files; on the wire everybody ignores them.
        return cls.model_validate_json(value, extra="ignore")
    except ValidationError as error:
        raise dead_letter_of(cls, error) from error


def dead_letter_of(cls: type[Event], error: ValidationError) -> DeadLetter:
    """Class what pydantic found in an event under the reason it is dead-lettered for."""
    found = problems(error)
    for problem in found:
        if problem.kind == "json_invalid":
            return DeadLetter("undecodable", f"no JSON: {problem.expected}")
        if problem.location == ("schema",) and problem.kind == "less_than_equal":
            return DeadLetter(
                "unsupported-format",
                f"schema {problem.given} is newer than {SCHEMA_VERSION}, the highest known here",
            )
    reason = min((_reason(problem) for problem in found), key=_ORDER.index)
    told = [problem for problem in found if _reason(problem) == reason]
    told += [problem for problem in found if _reason(problem) != reason]
    lines = [f"{p.field or cls.__name__}: {p.sentence}" for p in told[:_SHOWN]]
    if len(told) > _SHOWN:
        lines.append(f"and {len(told) - _SHOWN} more")
    return DeadLetter(reason, "; ".join(lines))


_ORDER: list[Reason] = ["missing-field", "bad-value", "invalid"]


def _reason(problem: Problem) -> Reason:
    if problem.kind == "missing":
        return "missing-field"
    if problem.kind in _INVALID and not problem.location:
        return "invalid"
    return "bad-value"
