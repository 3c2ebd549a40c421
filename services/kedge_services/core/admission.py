"""The gate, which says whether a candidate becomes a version that is tried at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kedge import Candidate, Monitor
from kedge.monitor import Rule
from kedge.versions import FeatureColumn, ModelVersion

__all__ = ["Policy", "feature_schema_hash", "is_empty", "new_version", "objection"]

#: What a candidate is compared by with its parent: the first that both have.
PRIMARY = (
    "accuracy", "balanced_accuracy", "f1", "auc", "log_loss", "brier",
    "mae", "rmse", "mse", "mean_loss", "loss", "error_rate",
)  # fmt: skip
#: The metrics of :data:`PRIMARY` that are better when they are small.
SMALL_IS_GOOD = frozenset(PRIMARY[4:])


@dataclass(frozen=True, slots=True)
class Policy:
    """What the monitor says about new versions."""

    promotion: Literal["shadow", "fast"] = "shadow"
    rules: Sequence[Rule] = ()

    @classmethod
    def of(cls, monitor: Monitor | None) -> Policy:
        """Read the policy of a monitor; without one the careful default holds."""
        if monitor is None:
            return cls()
        promotion = "shadow" if monitor.retrain is None else monitor.retrain.promotion
        return cls(promotion, tuple(monitor.rules))


def objection(candidate: Candidate, policy: Policy) -> str | None:
    """Say why the gate stays shut, or None.

    Metrics are compared when the candidate brings its parent's, measured on the
    same rows.  A user's rule about a metric vetoes a candidate that breaks it,
    unless the parent is at least as far on the wrong side: refusing the lesser
    evil would help nobody.
    """
    if candidate.artefact is None and candidate.version is None:
        return "it brings no artefact that could be served"
    mine, parents = candidate.metrics, candidate.parent_metrics
    for metric in PRIMARY:
        if metric in mine and metric in parents:
            gain = mine[metric] - parents[metric]
            if not (-gain if metric in SMALL_IS_GOOD else gain) > 0:
                return (
                    f"its {metric} of {mine[metric]:.4g} is no better than the "
                    f"{parents[metric]:.4g} of {candidate.parent or 'its parent'} on the same rows"
                )
            break
    for rule in policy.rules:
        if rule.feature is None and rule.segment is None and _vetoes(rule, mine, parents):
            bound = f"below {rule.below}" if rule.below is not None else f"above {rule.above}"
            value = f"{rule.metric} of {mine[rule.metric]:.4g}"
            return f"its {value} breaks the rule {rule.name} ({bound})"
    return None


def new_version(candidate: Candidate, name: str) -> ModelVersion:
    """Make the version a candidate becomes; its standing is written by the caller."""
    lineage = candidate.lineage
    if lineage.request_id is None:
        lineage = lineage.model_copy(update={"request_id": candidate.request_id})
    return ModelVersion(
        model=candidate.model,
        version=name,
        status="rejected",
        parent=candidate.parent,
        request_id=candidate.request_id,
        ordinal=candidate.ordinal,
        trainer=candidate.trainer,
        artefact=candidate.artefact,
        signature=candidate.signature,
        feature_schema=candidate.feature_schema,
        feature_schema_hash=feature_schema_hash(candidate.feature_schema),
        classes=candidate.classes,
        reference_id=None if candidate.reference is None else candidate.reference.reference_id,
        lineage=lineage,
        metrics=candidate.metrics,
        cost=candidate.cost,
        sequence=0,
        changed_ms=candidate.created_ms,
    )


def is_empty(version: ModelVersion) -> bool:
    """Say whether the gate refused the version because it brought nothing to serve."""
    return version.artefact is None and version.evidence.get("decision") == "gate"


def feature_schema_hash(columns: Sequence[FeatureColumn]) -> str:
    """Give the sha256 of the columns, names and types in order."""
    pairs = [[column.name, column.type] for column in columns]
    return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()


def _vetoes(rule: Rule, mine: Mapping[str, float], parents: Mapping[str, float]) -> bool:
    if rule.metric not in mine:
        return False
    value, parent = mine[rule.metric], parents.get(rule.metric)
    if rule.below is not None:
        return value < rule.below and (parent is None or value < parent)
    return rule.above is not None and value > rule.above and (parent is None or value > parent)
