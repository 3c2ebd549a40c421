"""``kedge models register``: a version that was trained elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from kedge import Candidate, Lineage, ModelVersion, Monitor, Reference
from kedge.errors import UsageError
from kedge_services.cli.asking import read_tables
from kedge_services.cli.completion import complete_model
from kedge_services.cli.options import BootstrapServers, Config, Json, Timeout, settings_from
from kedge_services.cli.registry import candidate_from, load_model, offer, store_model
from kedge_services.cli.versions import tell
from kedge_services.local.model_file import ModelFile, read_model
from kedge_services.local.reference_file import Columns, make_reference, read_reference_rows
from kedge_services.local.trial import answered, measured, try_model
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.tables import MonitorTable, VersionTable

__all__ = ["register"]

#: Metrics that are shown, in this order.
METRICS = ("accuracy", "f1", "mae", "rmse", "n")


#: With what an hour of the week is compared, by how it is called in a reference's lineage.
LEVELS = {
    "own": "themselves",
    "weekdays or weekend": "that hour of weekdays or of the weekend",
    "every day": "that hour of every day",
    "all hours": "all hours",
}


class ArtefactFormat(StrEnum):
    """How a model file is written."""

    ONNX = "onnx"
    SKOPS = "skops"
    RIVER_JSON = "river-json"


class _Data(NamedTuple):
    """Reference data as it is asked for."""

    file: Path
    columns: Columns


def register(  # noqa: PLR0913 -- options of a command
    *,
    model: Annotated[
        str,
        typer.Option(help="The model; its monitor must be applied.", autocompletion=complete_model),
    ],
    version: Annotated[str, typer.Option(help="The version's name, as predictions carry it.")],
    artefact: Annotated[
        Path | None,
        typer.Option(
            help="Model file (.onnx, .skops or river .json) for Kedge to serve; without it the "
            "version is served elsewhere.",
            metavar="FILE",
        ),
    ] = None,
    artefact_format: Annotated[
        ArtefactFormat | None,
        typer.Option("--format", help="Of the model file, if its name does not tell."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="The features the model takes, in its order. Default: the monitor's.",
            metavar="NAME,NAME…",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="CSV, NDJSON (each also .gz) or Parquet with the features' columns, in the order "
            "of time; rows the model was not fitted on.",
            metavar="FILE",
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Its column of labels.")] = None,
    prediction: Annotated[
        str | None,
        typer.Option(help="Its column of predictions. Default: what the model file answers."),
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="Its column of scores. Default: as for --prediction.")
    ] = None,
    timestamp: Annotated[
        str | None,
        typer.Option(
            help="Its column of event times; needed where the monitor compares with the same hour "
            "of the week."
        ),
    ] = None,
    as_champion: Annotated[
        bool,
        typer.Option("--as-champion", help="It serves from now on. The first version always does."),
    ] = False,
    timeout: Timeout = 30.0,
    as_json: Json = False,
    config: Config = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Make a version known that was trained elsewhere.

    A model file is loaded and tried on the reference rows before anybody hears of
    it. Without reference data Kedge learns the reference from the version's first
    predictions.

    Example: kedge models register --model fraud --version 12 --artefact fraud.onnx
    --reference training.parquet --label is_fraud
    """
    if not 1 <= len(version) <= 255:
        raise UsageError("--version: a version's name has 1 to 255 characters")
    if artefact is None and (artefact_format is not None or features is not None):
        raise UsageError("--format and --features say something about --artefact FILE")
    if reference is None and (label or prediction or score or timestamp):
        raise UsageError(
            "--label, --prediction, --score and --timestamp are columns of --reference FILE"
        )
    settings = settings_from(config, bootstrap_servers)
    file = None
    if artefact is not None:
        file = read_model(artefact, None if artefact_format is None else artefact_format.value)
    backend = KafkaBackend(settings)
    monitor = _monitor(backend, model, version)
    names = [name.strip() for name in features.split(",")] if features else []
    candidate = candidate_from(monitor, version, as_champion=as_champion, features=names)
    columns = Columns(label=label, prediction=prediction, score=score, timestamp=timestamp)
    data = None if reference is None else _Data(reference, columns)
    candidate = _tried(candidate, monitor, file, data)
    if file is not None:
        candidate = candidate.model_copy(update={"artefact": store_model(settings, file)})
    made = offer(backend, candidate, timeout_s=timeout)
    tell(made, as_json=as_json)
    if not as_json:
        _tell_more(made)
        if candidate.reference is not None:
            _tell_hours(candidate.reference)
        elif monitor.reference.source == "file":
            typer.echo(
                f"note: {version} has no reference; the monitor's is a file, give it with "
                "--reference, or it is learnt from the first predictions",
                err=True,
            )


def _monitor(backend: KafkaBackend, model: str, version: str) -> Monitor:
    monitors, versions = MonitorTable(), VersionTable()
    read_tables(backend, monitors, versions)
    monitor = monitors.get(model)
    if monitor is None:
        known = ", ".join(monitors.models()) or "none"
        raise UsageError(
            f"{model} has no monitor (there are: {known}); publish one first: "
            "kedge apply MONITOR.toml"
        )
    if versions.get(model, version) is not None:
        raise UsageError(f"{version} is a version of {model} already, and a version never changes")
    return monitor


def _tried(
    candidate: Candidate, monitor: Monitor, file: ModelFile | None, data: _Data | None
) -> Candidate:
    """Give the candidate with reference and metrics, its model loaded and tried on them."""
    predictor = None if file is None else load_model(candidate, file)
    if data is None:
        return candidate
    read = read_reference_rows(data.file, monitor, data.columns)
    metrics: dict[str, float] = {}
    if predictor is not None and file is not None:
        outputs = try_model(predictor, read, str(file.path))
        read = answered(read, outputs, monitor, str(file.path))
        metrics = measured(read, monitor)
    made = make_reference(read, monitor, candidate.version or "")
    lineage = Lineage(rows=made.rows, data_sha256=made.lineage["sha256"])
    return candidate.model_copy(update={"reference": made, "lineage": lineage, "metrics": metrics})


def _tell_hours(reference: Reference) -> None:
    """Say how far the hours of the week could be told apart."""
    levels = reference.lineage.get("hours_of_week", {})
    told = [
        f"{hours} with {words}" for level, words in LEVELS.items() if (hours := levels.get(level))
    ]
    if told:
        typer.echo(f"hours of the week that are compared: {', '.join(told)}")


def _tell_more(version: ModelVersion) -> None:
    if version.metrics:
        shown = [
            f"{name} {version.metrics[name]:.4g}" for name in METRICS if name in version.metrics
        ]
        typer.echo(f"on the labelled rows of its reference: {', '.join(shown)}")
    if version.artefact is not None:
        typer.echo(f"model file: {version.artefact.uri}")
