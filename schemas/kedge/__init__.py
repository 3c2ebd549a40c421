"""Kedge's contract: the events on Kafka, and the client that sends them.

Importing this package needs pydantic only; :class:`kedge.client.Client` needs
confluent-kafka and is imported from its own module.
"""

from kedge.base import Event
from kedge.errors import KedgeError
from kedge.events import (
    Alert,
    Command,
    Detection,
    Example,
    Measure,
    Outcome,
    Output,
    Prediction,
    RetrainBudget,
    RetrainCause,
    RetrainRequest,
    ScoringRequest,
    Window,
)
from kedge.monitor import Monitor
from kedge.panes import FeatureReference, Pane, Progress, Reference
from kedge.versions import Artefact, Candidate, FeatureColumn, Lineage, ModelVersion

__version__ = "0.1.0"

__all__ = [
    "Alert",
    "Artefact",
    "Candidate",
    "Command",
    "Detection",
    "Event",
    "Example",
    "FeatureColumn",
    "FeatureReference",
    "KedgeError",
    "Lineage",
    "Measure",
    "ModelVersion",
    "Monitor",
    "Outcome",
    "Output",
    "Pane",
    "Prediction",
    "Progress",
    "Reference",
    "RetrainBudget",
    "RetrainCause",
    "RetrainRequest",
    "ScoringRequest",
    "Window",
    "__version__",
]
