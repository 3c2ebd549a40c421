"""The version that is there at the beginning: registered with its reference, or trained."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from kedge.base import Scalar
from kedge.errors import UsageError
from kedge.events import Example, RetrainCause, RetrainRequest
from kedge.monitor import Monitor
from kedge.panes import Reference
from kedge.versions import Candidate
from kedge_services.local.reference_file import columns_of, read_reference, reference_of
from kedge_services.local.replay.stream import Stream
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.formats import Predictor, load_predictor
from kedge_services.trainer.plan import seed_of
from kedge_services.trainer.training import train

__all__ = ["first_version", "reference_path", "served_elsewhere"]

_REQUEST = "replay-warm-up"


def served_elsewhere(warm_up: Stream, monitor: Monitor, *, version: str) -> Candidate:
    """Offer the version whose predictions the stream holds, with its reference.

    That is the monitor's file, else the warm-up; without warm-up rows it learns one.

    Raises
    ------
    UsageError
        The file cannot be read, or there is too little of it for the hours of the week.
    """
    reference = None
    if (path := reference_path(monitor)) is not None:
        reference = read_reference(path, monitor, version, columns_of(path, monitor))
    elif len(warm_up):
        reference = _reference(warm_up, monitor, version)
    return Candidate(
        request_id=_REQUEST,
        model=monitor.model,
        version=version,
        as_champion=True,
        reference=reference,
        created_ms=warm_up.rows[-1].arrival_ms if len(warm_up) else 0,
    )


def reference_path(monitor: Monitor) -> Path | None:
    """Give the file the monitor's reference is read from, if any."""
    source, path = monitor.reference.source, monitor.reference.path
    return Path(path) if path is not None and source in {"file", "same-hour"} else None


def first_version(
    warm_up: Stream, monitor: Monitor, artefacts: ArtefactStore, *, allow: Collection[str] = ()
) -> tuple[Candidate, Predictor]:
    """Train the first version on the warm-up rows, as the trainer does on examples.

    ``allow`` names modules that a trainer's function may be imported from.

    Raises
    ------
    UsageError
        Nothing can be learnt from them; the message says why.
    """
    labels = warm_up.label_of()
    examples = [
        Example(
            prediction_id=row.prediction_id,
            model=monitor.model,
            features=dict(row.features),
            label=label.label,
            outputs={},
            event_time_ms=row.time_ms,
            label_time_ms=max(label.time_ms, row.time_ms),
        )
        for row in warm_up.rows
        if (label := labels.get(row.prediction_id)) is not None
    ]
    request = RetrainRequest(
        request_id=_REQUEST,
        model=monitor.model,
        mode="batch",
        cause=RetrainCause(kind="manual"),
        event_time_ms=warm_up.rows[-1].time_ms if len(warm_up) else 0,
    )
    trained = train(
        request, examples, monitor=monitor, parent=None, parent_data=None,
        seed=seed_of(request.request_id), allow=allow,
    )  # fmt: skip
    candidate, data = trained.candidate, trained.data
    if candidate.artefact is None or data is None:
        raise UsageError(
            f"no first version could be trained on the {len(warm_up)} warm-up rows: "
            f"{candidate.failure}; change [replay] warm_up"
        )
    artefact = artefacts.put(data, candidate.artefact.format)
    candidate = candidate.model_copy(update={"artefact": artefact, "as_champion": True})
    return candidate, load_predictor(candidate, data)


def _reference(warm_up: Stream, monitor: Monitor, version: str) -> Reference:
    rows, labels = warm_up.champions().rows, warm_up.label_of()
    outputs = [row.output or {} for row in rows]
    found: dict[str, list[Scalar | None]] = {
        "label": [
            label.label if (label := labels.get(row.prediction_id)) is not None else None
            for row in rows
        ],
        "prediction": [output.get("value", output.get("label")) for output in outputs],
        "score": [output.get("score") for output in outputs],
    }
    return reference_of(
        {name: [row.features.get(name) for row in rows] for name in monitor.features},
        {name: values for name, values in found.items() if any(v is not None for v in values)},
        monitor,
        version,
        times_ms=[row.time_ms for row in rows],
        lineage={"warm_up_rows": len(rows)},
    )
