"""The errors of Kedge, classed by what the caller does next.

::

    KedgeError
    ├── Retry            the same call may work later
    │   ├── BrokerUnavailable   no Kafka answered
    │   ├── QueueFull           the local send queue is full
    │   └── DeliveryFailed      events were not taken by the broker: send them again
    ├── DeadLetter       this record can never be processed: put it aside
    └── Stop             a person has to change something first
        ├── UsageError          wrong argument, file or setting
        │   └── MonitorError        a monitor that is not valid, with file and line
        ├── Misconfigured       topics or partitions are not what they must be
        ├── Fenced              another process has this slot
        └── UnsafeArtefact      a model file that must not be loaded
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "BrokerUnavailable",
    "DeadLetter",
    "DeliveryFailed",
    "Fenced",
    "KedgeError",
    "Misconfigured",
    "MonitorError",
    "QueueFull",
    "Reason",
    "Retry",
    "Stop",
    "UnsafeArtefact",
    "UsageError",
]

#: Why a record is in dead-letters.
Reason = Literal[
    "undecodable",
    "unsupported-format",
    "missing-field",
    "missing-id",
    "bad-value",
    "invalid",
    "unknown-model",
    "unknown-version",
    "bad-key",
    "misrouted",
    "bad-time",
    "late",
    "unmatched-outcome",
    "shape-mismatch",
    "row-mismatch",
    "schema-mismatch",
    "conflicting-duplicate",
    "too-large",
    "undeliverable",
]


class KedgeError(Exception):
    """Base of all errors that Kedge raises on purpose."""


class Retry(KedgeError):
    """The same call may succeed later."""


class BrokerUnavailable(Retry):
    """No Kafka broker answered; the message names the address and the ways out."""


class QueueFull(Retry):
    """The local send queue is full: the broker takes less than is sent.

    ``sent`` is the number of events of the same call that were accepted before.
    """

    sent: int = 0


class DeliveryFailed(Retry):
    """Events were accepted by the client but lost on their way to the broker.

    Parameters
    ----------
    lost
        How many, since this was last reported.
    why
        The broker's answer to the last of them.
    """

    def __init__(self, lost: int, why: str) -> None:
        super().__init__(f"{lost} {'event was' if lost == 1 else 'events were'} lost: {why}")
        self.lost = lost


class DeadLetter(KedgeError):
    """A record that can never be processed.

    Parameters
    ----------
    reason
        The code under which it is counted and found again.
    detail
        One sentence for the person who repairs it.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Stop(KedgeError):
    """Going on makes no sense before a person has changed something."""


class UsageError(Stop):
    """A wrong argument, file or setting."""


class MonitorError(UsageError):
    """A monitor that is not valid; one line for each mistake, with file and line."""


class Misconfigured(Stop):
    """The cluster is not what Kedge needs, e.g. a topic is missing."""


class Fenced(Stop):
    """Another process has taken over this slot."""


class UnsafeArtefact(Stop):
    """A model file whose bytes or types are not what they must be."""
