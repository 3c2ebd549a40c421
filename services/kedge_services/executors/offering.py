"""A run's result as a candidate, held against what the monitor declares.  Pure."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence

from kedge.base import label_text
from kedge.panes import FeatureReference, Reference
from kedge.versions import Artefact, Candidate, FeatureColumn, Lineage
from kedge_services.executors.reports import GivenReference, Result
from kedge_services.executors.runs import Plan, Run, RunFailed, run_key

__all__ = ["artefact_of", "failed", "offered"]


def offered(run: Run, plan: Plan, result: Result, now_ms: int) -> Candidate:
    """Give the candidate, whose artefact is yet to be fetched, checked and stored.

    Raises
    ------
    RunFailed
        The result does not fit the monitor.
    """
    key = run_key(run.request.request_id)
    columns, classes = result.feature_schema or plan.columns, result.classes or plan.classes
    if list(map(label_text, classes)) != list(map(label_text, plan.classes)):
        raise RunFailed(
            f"executor {plan.executor.name}: its classes are not those of the monitor, in order",
            "unusable",
        )
    if (text := next(_mistakes(plan, result.reference), None)) is not None:
        raise RunFailed(f"executor {plan.executor.name}: result.reference.{text}", "unusable")
    return Candidate(
        request_id=run.request.request_id,
        model=run.request.model,
        parent=plan.parent,
        version=result.model.version,
        trainer=f"{plan.executor.kind}:{plan.executor.name}",
        feature_schema=columns,
        classes=classes,
        reference=result.reference and _reference(result.reference, run.request.model, key),
        lineage=_lineage(run).model_copy(
            update={
                "rows": result.rows,
                "data_sha256": result.data_sha256,
                "parameters": {**result.parameters, **_lineage(run).parameters},
                "seed": result.seed,
                "libraries": result.libraries,
            }
        ),
        metrics=result.metrics,
        parent_metrics=result.parent_metrics,
        cost={**result.cost, "wall_seconds": (now_ms - plan.sent_ms) / 1000},
        created_ms=now_ms,
    )


def failed(run: Run, why: str, now_ms: int) -> Candidate:
    """Give the candidate that says why there is no new version."""
    plan, request = run.plan, run.request
    return Candidate(
        request_id=request.request_id,
        model=request.model,
        parent=request.base_version if plan is None else plan.parent,
        trainer=f"{plan.executor.kind}:{plan.executor.name}" if plan else request.executor,
        lineage=_lineage(run),
        created_ms=now_ms,
        failure=why,
    )


def artefact_of(candidate: Candidate, artefact: Artefact) -> Candidate:
    """Give the candidate with its artefact."""
    return candidate.model_copy(update={"artefact": artefact})


def _lineage(run: Run) -> Lineage:
    own = {} if run.started is None else {"run_id": run.started.run_id}
    return Lineage(
        examples={} if run.plan is None else run.plan.examples,
        parameters={**own, "executor": run.request.executor},
        request_id=run.request.request_id,
        alert_ids=run.request.cause.alert_ids,
    )


def _reference(given: GivenReference, model: str, key: str) -> Reference:
    """Give the reference under an id of its own: the same counts may come from two runs."""
    text = f"{key}\n{given.model_dump_json()}"
    return Reference(
        reference_id=hashlib.sha256(text.encode()).hexdigest(),
        model=model,
        version=key,
        effective_ms=0,
        lineage={"run_key": key},
        **dict(given),
    )


def _mistakes(plan: Plan, reference: GivenReference | None) -> Iterator[str]:
    """Say what in a reference could not be compared with what is live."""
    if reference is None:
        return
    declared = {column.name: column for column in plan.columns}
    for name in sorted(declared.keys() ^ reference.features.keys()):
        known = "is missing" if name in declared else "is not one of the monitor's features"
        yield f"features.{name}: {known}"
    answer = "categorical" if plan.classes else "numeric"
    kinds = {f"features.{name}": _kind(column) for name, column in declared.items()}
    kinds |= {"prediction": answer, "label": answer, "score": "numeric"}
    parts = {f"features.{name}": part for name, part in reference.features.items()}
    for name in ("prediction", "label", "score"):
        if (part := getattr(reference, name)) is not None:
            parts[name] = part
    for name, part in parts.items():
        if part.kind != kinds.get(name):
            yield f"{name}.kind: {part.kind} where the monitor says {kinds.get(name)}"
        for text in _part_mistakes(part):
            yield f"{name}.{text}"


def _kind(column: FeatureColumn) -> str:
    return "numeric" if column.type == "numeric" else "categorical"


def _part_mistakes(part: FeatureReference) -> Iterator[str]:
    edges: Sequence[object] = part.cuts if part.kind == "numeric" else part.categories
    if len(part.counts) != len(edges) + 1:
        yield f"counts: {len(part.counts)} where its {len(edges)} bounds ask for {len(edges) + 1}"
    if not all(map(math.isfinite, part.cuts)):
        yield "cuts: not all of them are finite"
    if any(a >= b for a, b in itertools.pairwise(part.cuts)):
        yield "cuts: they do not rise"
    if len(set(part.categories)) < len(part.categories):
        yield "categories: one is listed twice"
    if min(part.counts, default=0) < 0 or sum(part.counts) > part.total:
        yield "counts: their sum is not within 0 and the total"
