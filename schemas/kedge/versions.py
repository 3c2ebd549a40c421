"""Candidates and the versions of a model that the registry makes of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from kedge.base import Contract, Event, Name, Scalar, VersionStatus
from kedge.panes import Reference

__all__ = ["Artefact", "Candidate", "FeatureColumn", "Lineage", "ModelVersion"]


class Artefact(Contract):
    """Where a version's bytes lie; the sha256 is checked before anything loads them."""

    uri: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    format: Literal["skops", "river-json", "onnx"]
    size: int = Field(ge=0)


class FeatureColumn(Contract):
    """One input column of a version, in the order the artefact wants it."""

    name: str
    type: Literal["numeric", "categorical", "boolean"]


class Lineage(Contract):
    """What a version was made of.

    ``examples`` maps a partition of the examples topic to the offsets
    ``[from, to)`` the training rows lie in.
    """

    examples: dict[int, tuple[int, int]] = {}
    rows: int = 0
    data_sha256: str | None = None
    first_label_time_ms: int | None = None
    last_label_time_ms: int | None = None
    parameters: dict[str, Any] = {}
    seed: int | None = None
    libraries: dict[str, str] = {}
    request_id: str | None = None
    alert_ids: list[str] = []


class Candidate(Event):
    """A new version offered to the registry, or the reason why there is none."""

    request_id: Name
    ordinal: int = 0
    model: Name
    parent: str | None = None
    version: Name | None = Field(
        default=None, description="Only for a version that was made elsewhere and has a name."
    )
    as_champion: bool = False
    trainer: str = ""
    artefact: Artefact | None = None
    signature: str | None = None
    feature_schema: list[FeatureColumn] = []
    classes: list[Scalar] = []
    reference: Reference | None = None
    lineage: Lineage = Lineage()
    metrics: dict[str, float] = {}
    parent_metrics: dict[str, float] = {}
    cost: dict[str, float] = {}
    created_ms: int
    failure: str | None = None


class ModelVersion(Event):
    """A version of a model and its standing; only the registry writes these."""

    model: Name
    version: Name
    status: VersionStatus
    parent: str | None = None
    request_id: str | None = None
    ordinal: int = 0
    trainer: str = ""
    artefact: Artefact | None = None
    signature: str | None = None
    feature_schema: list[FeatureColumn] = []
    feature_schema_hash: str = ""
    classes: list[Scalar] = []
    reference_id: str | None = None
    lineage: Lineage = Lineage()
    metrics: dict[str, float] = {}
    cost: dict[str, float] = {}
    evidence: dict[str, Any] = {}
    reason: str = ""
    sequence: int
    changed_ms: int
