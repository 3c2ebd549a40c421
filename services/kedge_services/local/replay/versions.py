"""The version that is there at the beginning: registered with its reference, or trained."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from kedge.base import Scalar, label_text
from kedge.errors import UsageError
from kedge.events import Example, Output, RetrainCause, RetrainRequest
from kedge.monitor import Monitor
from kedge.panes import Reference
from kedge.versions import Candidate
from kedge_services.core.references import build_reference
from kedge_services.local.replay.stream import Stream
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.formats import Predictor, load_predictor
from kedge_services.trainer.plan import seed_of
from kedge_services.trainer.training import train

__all__ = ["first_version", "served_elsewhere"]

_REQUEST = "replay-warm-up"


def served_elsewhere(warm_up: Stream, monitor: Monitor, *, version: str) -> Candidate:
    """Offer the version whose predictions the stream holds, with the warm-up as its reference.

    Without warm-up rows it has no reference and learns one.
    """
    return Candidate(
        request_id=_REQUEST,
        model=monitor.model,
        version=version,
        as_champion=True,
        reference=_reference(warm_up, monitor, version) if len(warm_up) else None,
        created_ms=warm_up.rows[-1].arrival_ms if len(warm_up) else 0,
    )


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
    rows = warm_up.champions()
    kinds: dict[str, Literal["numeric", "categorical"]] = {
        name: "numeric" if feature.type == "numeric" else "categorical"
        for name, feature in monitor.features.items()
    }
    labels = rows.label_of()
    known = [labels.get(row.prediction_id) for row in rows.rows]
    outputs = [None if row.output is None else Output(**row.output) for row in rows.rows]
    answers = [None if o is None else o.label if o.value is None else o.value for o in outputs]
    scores = [None if o is None else o.score for o in outputs]
    pairs = [
        (answer, label.label)
        for answer, label in zip(answers, known, strict=True)
        if answer is not None and label is not None
    ]
    is_regression = monitor.task == "regression"
    return build_reference(
        model=monitor.model,
        version=version,
        columns={name: [row.features.get(name) for row in rows.rows] for name in kinds},
        kinds=kinds,
        predictions=answers if any(a is not None for a in answers) else None,
        scores=scores if any(s is not None for s in scores) else None,
        labels=[None if label is None else label.label for label in known] if labels else None,
        losses=_losses(pairs, is_regression=is_regression) or None,
        origin="file",
        lineage={"warm_up_rows": len(rows)},
        regression=is_regression,
    )


def _losses(pairs: Sequence[tuple[Scalar, Scalar]], *, is_regression: bool) -> list[float]:
    if is_regression:
        return [abs(float(answer) - float(label)) for answer, label in pairs]
    return [float(label_text(answer) != label_text(label)) for answer, label in pairs]
