"""The small topics that everybody reads whole: monitors, references, model versions.

A table is fed with the records of its topic by the loop, before the first task
starts and then on every step; tasks look things up in it.  A record that
cannot be read is logged and skipped: one bad monitor must not stop the others.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TypeVar

import structlog

from kedge.base import Event
from kedge.codec import decode
from kedge.errors import DeadLetter
from kedge.monitor import Monitor
from kedge.panes import Reference
from kedge.versions import ModelVersion
from kedge_services.runtime.ports import Record

__all__ = ["MonitorTable", "ReferenceTable", "VersionTable"]

E = TypeVar("E", bound=Event)

#: What takes most of the memory of a reference.
_COUNTED = ("features", "prediction", "score", "label", "projection", "calibrator", "seasons")

_log = structlog.get_logger(__name__)


def _read(cls: type[E], record: Record) -> E | None:
    try:
        return decode(cls, record.value or b"")
    except DeadLetter as error:
        _log.warning(
            "a record of a table was skipped",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=error.reason,
            detail=error.detail,
        )
        return None


def _key(record: Record) -> str:
    return (record.key or b"").decode(errors="replace")


class MonitorTable:
    """The monitors of every model, each with those that came before it.

    A later record replaces what was to take effect at its ``effective_ms`` or
    after.  Earlier monitors are kept, for panes that start before the change.
    """

    topic = "monitors"

    def __init__(self) -> None:
        self._monitors: dict[str, list[Monitor]] = {}

    def apply(self, record: Record) -> None:
        """Take one record; a value of None removes the model."""
        if record.value is None:
            self._monitors.pop(_key(record), None)
            return
        monitor = _read(Monitor, record)
        if monitor is None:
            return
        kept = [
            earlier
            for earlier in self._monitors.get(monitor.model, ())
            if earlier.effective_ms < monitor.effective_ms
        ]
        self._monitors[monitor.model] = [*kept, monitor]

    def get(self, model: str, at_ms: int | None = None) -> Monitor | None:
        """Give the model's monitor for a pane that starts at ``at_ms``.

        That is the newest with ``effective_ms <= at_ms``, and the oldest when
        there is none; without ``at_ms`` it is the newest of all.
        """
        history = self._monitors.get(model)
        if not history:
            return None
        if at_ms is None or len(history) == 1:
            return history[-1]
        after = bisect_right(history, at_ms, key=lambda monitor: monitor.effective_ms)
        return history[max(0, after - 1)]

    def models(self) -> list[str]:
        """Give the names of all models, sorted."""
        return sorted(self._monitors)


class ReferenceTable:
    """The references of every version, by id and by the time they take effect."""

    topic = "references"

    def __init__(self) -> None:
        self._by_id: dict[str, Reference] = {}
        self._by_version: dict[tuple[str, str], list[Reference]] = {}

    def apply(self, record: Record) -> None:
        """Take one record; the same id again replaces what was known under it."""
        if record.value is None:
            gone = self._by_id.pop(_key(record).rpartition("/")[2], None)
            if gone is not None:
                self._replace(gone, None)
            return
        reference = _read(Reference, record)
        if reference is not None:
            reference = self._shared(reference)
            self._by_id[reference.reference_id] = reference
            self._replace(reference, reference)

    def _shared(self, new: Reference) -> Reference:
        """Give a reference that has its counts in common with the one known under its id.

        The id is that of the counts, and thousands of models may be held to the same data.
        """
        known = self._by_id.get(new.reference_id)
        if known is None:
            return new
        parts = {name: getattr(known, name) for name in _COUNTED}
        same = {name: part for name, part in parts.items() if part == getattr(new, name)}
        return new.model_copy(update=same)

    def _replace(self, old: Reference, new: Reference | None) -> None:
        series = (old.model, old.version)
        others = [
            reference
            for reference in self._by_version.get(series, ())
            if reference.reference_id != old.reference_id
        ]
        if new is not None:
            others.append(new)
        others.sort(key=lambda reference: reference.effective_ms)
        self._by_version[series] = others

    def get(self, reference_id: str) -> Reference | None:
        """Give the reference of this id."""
        return self._by_id.get(reference_id)

    def for_version(self, model: str, version: str, at_ms: int) -> Reference | None:
        """Give the newest reference of the version with ``effective_ms <= at_ms``."""
        series = self._by_version.get((model, version), [])
        after = bisect_right(series, at_ms, key=lambda reference: reference.effective_ms)
        return series[after - 1] if after else None


class VersionTable:
    """The versions of every model and their standing; the highest sequence counts."""

    topic = "model-versions"

    def __init__(self) -> None:
        self._versions: dict[str, dict[str, ModelVersion]] = {}

    def apply(self, record: Record) -> None:
        """Take one record; a value of None removes the version."""
        if record.value is None:
            key = _key(record)
            if (model := self.model_of(key)) is not None:
                self._versions[model].pop(key.removeprefix(f"{model}/"))
            return
        new = _read(ModelVersion, record)
        if new is None:
            return
        versions = self._versions.setdefault(new.model, {})
        known = versions.get(new.version)
        if known is None or known.sequence <= new.sequence:
            versions[new.version] = new

    def model_of(self, key: str) -> str | None:
        """Give the model of a known ``model/version``; both names may have slashes of their own."""
        for model, versions in self._versions.items():
            if key.startswith(f"{model}/") and key.removeprefix(f"{model}/") in versions:
                return model
        return None

    def get(self, model: str, version: str) -> ModelVersion | None:
        """Give one version."""
        return self._versions.get(model, {}).get(version)

    def models(self) -> list[str]:
        """Give the names of all models that have versions, sorted."""
        return sorted(model for model, versions in self._versions.items() if versions)

    def of(self, model: str) -> list[ModelVersion]:
        """Give all versions of a model in the order of their sequence."""
        return sorted(self._versions.get(model, {}).values(), key=lambda v: v.sequence)

    def champion(self, model: str) -> ModelVersion | None:
        """Give the version that serves, if any.

        Between the two records of a promotion both versions are champions; the
        later one counts.
        """
        champions = [v for v in self.of(model) if v.status == "champion"]
        return champions[-1] if champions else None
