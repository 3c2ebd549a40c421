"""What a pipeline says of its run, read with care.  Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, FiniteFloat, ValidationError

from kedge.base import Contract, Name, Scalar
from kedge.panes import FeatureReference
from kedge.problems import problems
from kedge.versions import FeatureColumn

__all__ = ["GivenReference", "ModelFile", "Report", "Result", "read"]

C = TypeVar("C", bound=Contract)

Metrics = dict[str, FiniteFloat]


class ModelFile(Contract):
    """The model file a run has left."""

    uri: Annotated[str, Field(min_length=1)]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    format: Literal["skops", "river-json", "onnx"]
    version: Name | None = None


class GivenReference(Contract):
    """Counts of the data the version is to be held to, as in a ``Reference``."""

    origin: Literal["training", "held-out"] = "held-out"
    rows: int = Field(ge=1)
    features: dict[str, FeatureReference]
    prediction: FeatureReference | None = None
    score: FeatureReference | None = None
    label: FeatureReference | None = None
    loss: Metrics | None = None


class Result(Contract):
    """What came of a run that succeeded; only the model is required."""

    model: ModelFile
    feature_schema: list[FeatureColumn] = []
    classes: list[Scalar] = []
    metrics: Metrics = {}
    parent_metrics: Metrics = {}
    reference: GivenReference | None = None
    rows: int = Field(default=0, ge=0)
    data_sha256: str | None = None
    parameters: dict[str, Any] = {}
    seed: int | None = None
    libraries: dict[str, str] = {}
    cost: Metrics = {}


class Report(Contract):
    """The status of a run; ``message`` is for people, ``result`` there when it succeeded."""

    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    message: str = ""
    result: Result | None = None


def read(cls: type[C], body: bytes) -> C | str | None:
    """Read an answer; give what is wrong with it, or None where it is no JSON at all.

    >>> read(Report, b'{"status": "done"}')
    "status: expected 'queued', 'running', 'succeeded', 'failed' or 'cancelled' (got 'done')"
    """
    try:
        return cls.model_validate_json(body)
    except ValidationError as error:
        found = problems(error)
    if any(problem.kind == "json_invalid" for problem in found):
        return None
    first = found[0]
    return f"{first.field}: {first.sentence}" if first.field else first.sentence
