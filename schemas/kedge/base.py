"""What every event shares: its base classes and the types of its fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

SCHEMA_VERSION = 1

#: Milliseconds since the epoch, UTC, up to the year 9999.
TimeMs = Annotated[int, Field(strict=True, ge=0, le=253_402_300_799_999)]
Name = Annotated[str, Field(strict=True, min_length=1, max_length=255)]
Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
Label = Scalar
Role = Literal["champion", "shadow"]
PaneKind = Literal["drift", "performance", "labels", "pair", "learning"]
WindowKind = Literal["drift", "performance", "labels"]
AlertKind = Literal[
    "data-drift",
    "prediction-drift",
    "label-drift",
    "integrity",
    "error-rate",
    "fairness",
    "no-data",
    "low-coverage",
    "dead-letters",
    "rule",
]
Severity = Literal["critical", "warning", "info"]
AlertStatus = Literal["pending", "firing", "resolved"]
VersionStatus = Literal["shadow", "champion", "retired", "rejected"]


class Contract(BaseModel):
    """Base of everything on the wire: immutable, tolerant of unknown fields."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        serialize_by_alias=True,
        ser_json_inf_nan="constants",
    )


class Event(Contract):
    """A record's value; every event names the version of its schema."""

    schema_version: int = Field(default=SCHEMA_VERSION, alias="schema", ge=1, le=SCHEMA_VERSION)


def label_text(label: Label) -> str:
    """Give the one text by which a label is compared and counted.

    >>> [label_text(x) for x in (True, 1, 1.0, 0.5, "UP")]
    ['true', '1', '1', '0.5', 'UP']
    """
    if isinstance(label, bool):
        return "true" if label else "false"
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label)
