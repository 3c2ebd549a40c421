"""Reconciliation: estimates are held to the labels, once those are final.

::

    rows of a performance pane   its labels are final       estimates of windows that end
    |----------------------------|--------------------------|---------------------->
    scores are added up          estimate, gap, pass?       here hear of it
                                 (end + horizon)            (end + horizon + one pane)

An estimate that is further from the realised value than chance allows fails, and the
series' estimates are not valid until three in a row have passed.

Which reconciliations a drift window hears of is told by event time alone, so that it does
not depend on how predictions and outcomes were read: those of performance panes that
ended the label horizon and one more performance pane before the window's end.  They are
final by then unless outcomes are behind by more than that pane.  If they are, the window
is sent as if they had passed, and once more if they fail; as long as drift windows may
be revised at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from kedge import Measure, Monitor, Reference
from kedge.base import label_text
from kedge_services.core.drift_windows import KEPT_PANES
from kedge_services.core.estimation import (
    SIGMAS,
    Estimate,
    estimated_measures,
    estimates,
    not_valid,
    objections,
    too_far,
)
from kedge_services.core.folding import Series
from kedge_services.core.lookup import Lookup
from kedge_services.core.pane_counts import PaneCounts, PaneHead
from kedge_services.core.publishing import Publisher, WindowKey
from kedge_services.core.shelf import Shelf
from kedge_services.core.sketches import ScoreCounts
from kedge_services.core.stacks import Stack
from kedge_services.core.track_record import PASSES, TrackRecord

__all__ = ["Reconciler"]

_Z95: Final = 1.959963984540054


@dataclass(slots=True)
class _Settled:
    """What was estimated for a pane when its labels became final, or why nothing was."""

    n: int
    reasons: list[str]
    found: list[Estimate]

    def encode(self) -> list[Any]:
        return [self.n, self.reasons, [one.encode() for one in self.found]]

    @classmethod
    def decode(cls, data: list[Any]) -> _Settled:
        return cls(data[0], data[1], [Estimate(*one) for one in data[2]])


@dataclass(slots=True)
class _Pane:
    """The scores of a performance pane, until they are settled.

    Attributes
    ----------
    far
        The feature that had moved most in one of its drift panes, if that was too far.
    judged_ms
        Start of the last drift pane that was looked at for it.
    """

    end_ms: int
    rows: int = 0
    outside: int = 0
    scores: dict[str, ScoreCounts] = field(default_factory=dict)
    far: tuple[str, float] | None = None
    judged_ms: int = -1
    settled: _Settled | None = None

    def encode(self) -> list[Any]:
        return [
            self.end_ms, self.rows, self.outside,
            {answer: counts.encode() for answer, counts in self.scores.items()},
            self.far, self.judged_ms, None if self.settled is None else self.settled.encode(),
        ]  # fmt: skip

    @classmethod
    def decode(cls, data: list[Any]) -> _Pane:
        end_ms, rows, outside, scores, far, judged_ms, settled = data
        return cls(
            end_ms, rows, outside,
            {answer: ScoreCounts.decode(counts) for answer, counts in scores.items()},
            None if far is None else (far[0], far[1]), judged_ms,
            None if settled is None else _Settled.decode(settled),
        )  # fmt: skip


class Reconciler:
    """Estimates of drift windows, and what became of them in performance windows.

    Parameters
    ----------
    look
        Monitors and references.
    publisher
        Tells which drift windows were sent before they could hear of a failure.
    """

    def __init__(self, look: Lookup, publisher: Publisher) -> None:
        self._look, self._publisher = look, publisher
        self.panes: Shelf[_Pane] = Shelf("estimate-pane", _Pane.encode, _Pane.decode)
        self.records: Shelf[TrackRecord] = Shelf(
            "estimate-record", TrackRecord.encode, TrackRecord.decode
        )
        #: By model, the time before which panes are forgotten.
        self.forgotten: Shelf[int] = Shelf("estimate-model", int, int)
        self._keys: dict[str, set[tuple[Series, int]]] = {}
        self._outdated: dict[WindowKey, None] = {}

    def start(self) -> None:
        """Find the panes of every model again after the state was restored."""
        for key in self.panes:
            self._keys.setdefault(str(key[0]), set()).add((Series(*key[:4]), int(key[4])))  # type: ignore[arg-type]

    def add(self, pane: PaneHead, delta: PaneCounts) -> None:
        """Take the scores of a drift pane's delta, if labels will come for them."""
        monitor = self._look.monitor(pane.model, pane.start_ms)
        if monitor is None or not monitor.labelled or not delta.scores:
            return
        reference = self._look.reference(pane.reference_id) if pane.reference_id else None
        start_ms = pane.start_ms - pane.start_ms % monitor.performance_pane_ms
        end_ms = start_ms + monitor.performance_pane_ms
        if (
            reference is None
            or reference.calibrator is None
            or end_ms <= (self.forgotten.get((pane.model,)) or 0)
        ):
            return
        series = Series(pane.model, pane.version, pane.segment, pane.reference_id)
        mine = self.panes.get((*series, start_ms))
        if mine is None:
            self.panes[*series, start_ms] = mine = _Pane(end_ms)
            self._keys.setdefault(pane.model, set()).add((series, start_ms))
        if mine.settled is not None:
            return
        mine.rows += delta.rows
        mine.outside += delta.outside
        # Several classes' scores are all of the class that was answered.
        for answer, counts in delta.scores.items():
            name = answer if monitor.task == "binary" else ""
            mine.scores.setdefault(name, ScoreCounts()).add(counts)
        self.panes.touch((*series, start_ms))

    # ----------------------------------------------------------- drift windows

    def estimates(
        self,
        key: WindowKey,
        end_ms: int,
        stack: Stack,
        window: int,
        reference: Reference,
        far: tuple[str, float] | None,
    ) -> bytes:
        """Write the estimates of a drift window, or why they are not valid.

        Parameters
        ----------
        stack, window
            Its panes, and its number among the windows that end with them.
        far
            The feature that has moved most, and by how much of the rows at least.
        """
        monitor = self._look.monitor(key.model, key.start_ms)
        if monitor is None or monitor.task == "regression":
            return b""
        if key.scale == 1:
            self._look_for_far(key, monitor, too_far(far))
        return estimated_measures(
            stack, window, reference, positive=_positive(monitor), far=far,
            doubt=self._doubt(key, end_ms, monitor),
        )  # fmt: skip

    def outdated(self) -> set[str]:
        """Give the models that :meth:`take_outdated` has something of."""
        return {key.model for key in self._outdated}

    def take_outdated(self, model: str) -> list[WindowKey]:
        """Give a model's drift windows that were sent with estimates that are not valid."""
        taken = [key for key in self._outdated if key.model == model]
        for key in taken:
            del self._outdated[key]
        return taken

    def _look_for_far(
        self, key: WindowKey, monitor: Monitor, far: tuple[str, float] | None
    ) -> None:
        place = (*key.series, key.start_ms - key.start_ms % monitor.performance_pane_ms)
        pane = self.panes.get(place)
        # A window that is revised was looked at before.
        if pane is None or pane.settled is not None or key.start_ms <= pane.judged_ms:
            return
        pane.judged_ms = key.start_ms
        if far is not None and (pane.far is None or far[1] > pane.far[1]):
            pane.far = far
        self.panes.touch(place)

    def _doubt(self, key: WindowKey, end_ms: int, monitor: Monitor) -> str | None:
        record = self.records.get(key.series)
        if record is None:
            return None
        failed_ms, agreed = record.as_of(end_ms - _delay_ms(monitor))
        if failed_ms is None:
            return None
        at = datetime.fromtimestamp(failed_ms / 1000, UTC).isoformat(timespec="seconds")
        return (
            f"the estimate of the performance window that ended at {at} was further from the "
            f"labels than chance allows; {PASSES} in a row have to agree, {agreed} have"
        )

    # ----------------------------------------------------- performance windows

    def settle(
        self,
        key: WindowKey,
        end_ms: int,
        realised: Sequence[Measure],
        is_enough: bool,  # noqa: FBT001 -- a callback: its caller cannot name arguments
    ) -> list[Measure]:
        """Hold the estimates of a final performance window to its labels.

        Parameters
        ----------
        realised
            What its labels say.
        is_enough
            Whether those are labels enough to say anything.

        Returns
        -------
        list of Measure
            The estimates, or why there are none; and for each the gap, estimate less
            realised value, with the most that chance allows as its threshold.
        """
        place = (*key.series, key.start_ms)
        pane, monitor = self.panes.get(place), self._look.monitor(key.model, key.start_ms)
        reference = self._look.reference(key.reference_id) if key.reference_id else None
        if pane is None or monitor is None or reference is None:
            return []
        positive, is_first = _positive(monitor), pane.settled is None
        if pane.settled is None:
            pane.settled = _settled(pane, reference, positive)
            pane.scores = {}
            self.panes.touch(place)
            self._forget(key.model, end_ms, monitor)
        settled = pane.settled
        if settled.reasons:
            return not_valid(settled.n, settled.reasons, positive=positive)
        gaps = _gaps(settled.found, {m.name: m for m in realised}) if is_enough else []
        if is_first and gaps:
            passed = all(abs(gap.value or 0.0) <= (gap.threshold or 0.0) for gap in gaps)
            self._note(key.series, end_ms, monitor, passed=passed)
        return [one.measure() for one in settled.found] + gaps

    def _note(self, series: Series, end_ms: int, monitor: Monitor, *, passed: bool) -> None:
        """Enter a reconciliation; have windows sent again that should have heard of it."""
        record = self.records.get(series)
        if record is None:
            self.records[series] = record = TrackRecord()
        if end_ms <= record.through_ms:
            return
        after = {
            window: sent.end_ms - _delay_ms(monitor)
            for window, sent in self._publisher.sent_of("drift", series.model)
            if window.series == series and sent.end_ms >= end_ms + _delay_ms(monitor)
        }
        before = {window: record.as_of(at_ms) for window, at_ms in after.items()}
        record.passed[end_ms] = passed
        for window, at_ms in sorted(after.items()):
            was, now = before[window], record.as_of(at_ms)
            if was[0] != now[0] or (now[0] is not None and was != now):
                self._outdated[window] = None
        # Drift windows that can still be revised are not older than this.
        record.forget(end_ms - _kept_ms(monitor) - _delay_ms(monitor))
        self.records.touch(series)

    def _forget(self, model: str, final_ms: int, monitor: Monitor) -> None:
        before_ms = max(self.forgotten.get((model,)) or 0, final_ms - _kept_ms(monitor))
        self.forgotten[model,] = before_ms
        keys = self._keys.get(model, set())
        gone: set[Series] = set()
        for series, start_ms in list(keys):
            if self.panes[*series, start_ms].end_ms <= before_ms:
                keys.discard((series, start_ms))
                del self.panes[*series, start_ms]
                gone.add(series)
        for series in gone - {series for series, _ in keys}:
            if series in self.records:
                del self.records[series]


def _settled(pane: _Pane, reference: Reference, positive: str | None) -> _Settled:
    n = sum(int(counts.n.sum()) for counts in pane.scores.values())
    reasons = objections(
        reference, n=n, rows=pane.rows, outside=pane.outside, far=pane.far
    )  # fmt: skip
    found = [] if reasons else estimates(pane.scores, positive=positive)
    return _Settled(n, reasons, found)


def _gaps(found: Iterable[Estimate], realised: Mapping[str, Measure]) -> list[Measure]:
    gaps = []
    for one in found:
        real = realised.get(one.name)
        if real is None or real.value is None or real.low is None or real.high is None:
            continue
        # The interval's half-width stands for the standard error: it is never nothing.
        error = (real.high - real.low) / (2 * _Z95)
        gaps.append(
            Measure(
                name=f"estimate_gap_{one.name}",
                value=one.value - real.value,
                n=real.n,
                threshold=SIGMAS * math.sqrt(one.error**2 + error**2),
            )
        )
    return gaps


def _positive(monitor: Monitor) -> str | None:
    if monitor.task != "binary":
        return None
    return label_text(monitor.classes[1] if monitor.positive is None else monitor.positive)


def _delay_ms(monitor: Monitor) -> int:
    """Give how long before a drift window's end a pane must have ended to count for it."""
    return monitor.horizon_ms + monitor.performance_pane_ms


def _kept_ms(monitor: Monitor) -> int:
    return (max(monitor.windows.scales) + KEPT_PANES) * monitor.performance_pane_ms
