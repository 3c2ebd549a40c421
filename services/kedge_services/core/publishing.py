"""Windows as they are sent: identity, revisions, and verdicts that are never taken back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from kedge import Detection, Measure
from kedge.base import SCHEMA_VERSION, AlertKind, WindowKind
from kedge_services.core.folding import Series
from kedge_services.core.measuring import measures_text
from kedge_services.core.shelf import Shelf, quick_json

__all__ = ["Content", "Publisher", "Sent", "SentWindow", "Status", "WindowKey"]

_encode = msgspec.json.Encoder().encode

Status = Literal["ok", "learning", "insufficient", "alarm"]


class WindowKey(NamedTuple):
    """What a window is of; together with ``start_ms`` it is its identity."""

    kind: WindowKind
    model: str
    version: str
    segment: str
    reference_id: str
    scale: int
    start_ms: int

    @classmethod
    def of(cls, kind: WindowKind, series: Series, scale: int, start_ms: int) -> WindowKey:
        """Give the key of a window of a series."""
        return cls(kind, *series, scale, start_ms)

    @property
    def series(self) -> Series:
        """The series it belongs to."""
        return Series(self.model, self.version, self.segment, self.reference_id)

    @property
    def fields(self) -> dict[str, Any]:
        """What a window says of itself."""
        return {
            "kind": self.kind,
            "model": self.model,
            "version": self.version,
            "segment": self.segment,
            "reference_id": self.reference_id,
            "scale": self.scale,
            "start_ms": self.start_ms,
        }

    @property
    def window_id(self) -> str:
        """Its id on Kafka, the same for every revision."""
        return (
            f"{self.model}/{self.version}/{self.segment}/{self.reference_id[:12]}/"
            f"{self.kind}/{self.scale}/{self.start_ms}"
        )


class SentWindow(NamedTuple):
    """A window as it is sent: its id, and the bytes of a :class:`kedge.Window`."""

    window_id: str
    value: bytes


@dataclass(slots=True)
class Content:
    """What is in a window; ``detections`` and ``near`` count when it is first decided.

    ``texts`` are measures that are written already, and stand before the others.
    """

    n: int
    measures: list[Measure] = field(default_factory=list)
    status: Status = "ok"
    detections: list[Detection] = field(default_factory=list)
    near: list[AlertKind] = field(default_factory=list)
    labelled: int = 0
    label_coverage: float | None = None
    texts: list[bytes] = field(default_factory=list)


class Sent(NamedTuple):
    """What is remembered of a window that was sent; there are many, and most are alike.

    ``is_stale``: counts have come since.  ``sent_ms`` is processing time, which is no
    state: after a restart a revision may come early.
    """

    end_ms: int
    revision: int = 0
    status: Status = "ok"
    is_decided: bool = False
    is_final: bool = False
    is_stale: bool = False
    detections: Sequence[Detection] = ()
    near: Sequence[AlertKind] = ()
    sent_ms: int | None = None

    def encode(self) -> list[Any]:
        """Give JSON data."""
        detections = [d.model_dump(mode="json", exclude_none=True) for d in self.detections]
        return [*self[:6], detections, self.near]

    @classmethod
    def decode(cls, data: Sequence[Any]) -> Sent:
        """Read what :meth:`encode` gave."""
        *plain, detections, near = data
        found = [Detection.model_validate(d) for d in detections]
        return cls._make([*plain, found or (), near or (), None])


def _written(data: list[Any]) -> bytes:
    """Write what was sent; a detection may have a number that only the slower way can write."""
    return json.dumps(data, separators=(",", ":")).encode() if data[6] else quick_json(data)


class Publisher:
    """Sends windows and remembers what was sent, as long as it may be revised.

    Parameters
    ----------
    revise_interval_ms
        Processing time between two revisions of a window that is not decided
        or got late rows.
    """

    def __init__(self, revise_interval_ms: int) -> None:
        self.sent: Shelf[Sent] = Shelf("window", Sent.encode, Sent.decode, _written)
        #: Labels of every model so far, over all its versions; windows tell it as
        #: of when they are sent.
        self.labelled: Shelf[int] = Shelf("labelled", int, int)
        self.outbox: list[SentWindow] = []
        self.outbox_bytes = 0
        self._interval_ms = revise_interval_ms
        self._stale: dict[WindowKey, None] = {}
        # By kind and model, the windows of the same end.
        self._by_model: dict[tuple[str, str], dict[int, list[WindowKey]]] = {}
        # The last one without findings: those of a step are mostly equal, and kept long.
        self._plain = Sent(0)

    def start(self) -> None:
        """Find again what was stale when the state was kept."""
        for plain, sent in sorted(self.sent.items()):
            key = WindowKey(*plain)  # type: ignore[arg-type]
            self._note(key, sent.end_ms)
            if sent.is_stale:
                self._stale[key] = None

    def get(self, key: WindowKey) -> Sent | None:
        """Give what was sent of a window."""
        return self.sent.get(key)

    def sent_of(self, kind: WindowKind, model: str) -> list[tuple[WindowKey, Sent]]:
        """Give the windows of a kind that were sent and may still be revised."""
        ends = self._by_model.get((kind, model), {})
        return [(key, self.sent[key]) for keys in ends.values() for key in keys]

    def _note(self, key: WindowKey, end_ms: int) -> None:
        self._by_model.setdefault((key.kind, key.model), {}).setdefault(end_ms, []).append(key)

    def send(
        self,
        key: WindowKey,
        end_ms: int,
        content: Content,
        *,
        decided: bool,
        final: bool,
        now_ms: int,
    ) -> None:
        """Send a window, or its next revision.

        The verdict of a decided window stays until it is final, that of a final one for ever.
        """
        known = self.sent.get(key)
        if known is None:
            known = Sent(end_ms, -1)
            self._note(key, end_ms)
        # When the first decision fell depends on how labels and commits interleaved;
        # a final window is a function of its counts alone.
        status, detections, near = known.status, known.detections, known.near
        if not known.is_decided or (final and not known.is_final):
            status = content.status
            detections = content.detections if decided else ()
            near = content.near if decided else ()
        sent = Sent(
            end_ms, known.revision + 1, status, known.is_decided or decided,
            known.is_final or final, False, detections or (), near or (), now_ms,
        )  # fmt: skip
        if sent == self._plain:
            sent = self._plain
        elif not sent.detections and not sent.near:
            self._plain = sent
        self.sent[key] = sent
        self._stale.pop(key, None)
        made = self._encoded(key, end_ms, sent, content)
        self.outbox.append(made)
        self.outbox_bytes += len(made.value)

    def _encoded(self, key: WindowKey, end_ms: int, sent: Sent, content: Content) -> SentWindow:
        """Write a window as :class:`kedge.Window` is written, without making one."""
        window_id, coverage = key.window_id, content.label_coverage
        texts = [*content.texts, measures_text(content.measures)]
        measures = b"[" + b",".join(filter(None, texts)) + b"]"
        fields: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "window_id": window_id,
            **key.fields,
            "end_ms": end_ms,
            "revision": sent.revision,
            "is_final": sent.is_final,
            "is_decided": sent.is_decided,
            "n": content.n,
            "labelled": content.labelled,
            **({} if coverage is None else {"label_coverage": coverage}),
            "labelled_total": self.labelled.get((key.model,)) or 0,
            "status": sent.status,
            "measures": msgspec.Raw(measures),
            "detections": [
                msgspec.Raw(d.model_dump_json(exclude_none=True).encode()) for d in sent.detections
            ],
            "near_alarms": sent.near,
        }
        return SentWindow(window_id, _encode(fields))

    def count_labels(self, model: str, labels: int) -> None:
        """Add to the labels of a model; negative where a label was taken back."""
        if labels:
            self.labelled[model,] = (self.labelled.get((model,)) or 0) + labels

    def outdate(self, key: WindowKey) -> None:
        """Note that a window that was sent got more counts."""
        sent = self.sent.get(key)
        if sent is not None and not sent.is_stale:
            self.sent[key] = sent._replace(is_stale=True)
            self._stale[key] = None

    def due(self, now_ms: int) -> list[WindowKey]:
        """Give the stale windows whose last revision is old enough for another."""
        return [key for key in self._stale if self._is_due(self.sent[key].sent_ms, now_ms)]

    def _is_due(self, sent_ms: int | None, now_ms: int) -> bool:
        return sent_ms is None or now_ms - sent_ms >= self._interval_ms

    def prune(self, kind: WindowKind, model: str, before_ms: int) -> None:
        """Drop windows that ended by then: they will not be revised any more."""
        ends = self._by_model.get((kind, model), {})
        for end_ms in [end_ms for end_ms in ends if end_ms <= before_ms]:
            for key in ends.pop(end_ms):
                del self.sent[key]
                self._stale.pop(key, None)

    def take(self) -> list[SentWindow]:
        """Give the windows to be sent and begin anew."""
        taken, self.outbox, self.outbox_bytes = self.outbox, [], 0
        return taken
