"""The detectors that watch the losses of a version's labels, cell by cell.

============== ==================================================== ============
detector       losses                                               of
============== ==================================================== ============
e_sr           errors; for regression the errors' ranks among the   every label
               reference's
e_sr_recall    misses                                               labels that are positive
e_sr_precision wrong ones                                           answers that are positive
adwin, ...     the same as e_sr                                     every label
============== ==================================================== ============
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kedge import Detection, Measure, Monitor, Reference
from kedge.base import AlertKind, label_text
from kedge_services.core.budget import Budget
from kedge_services.core.class_losses import precision_losses, recall_losses
from kedge_services.core.deltas import LabelsDelta
from kedge_services.core.folding import Series
from kedge_services.core.lookup import Lookup
from kedge_services.core.publishing import Status
from kedge_services.core.river_detectors import RIVER, RiverDetector, spread
from kedge_services.core.sequential import (
    MIN_LOSSES,
    LossDetector,
    Losses,
    mid_ranks,
    threshold,
)
from kedge_services.core.shelf import Shelf
from kedge_services.core.sketches import FIXED_POINT

__all__ = ["PAUSED_PANES", "Cell", "Found", "LabelDetectors"]

#: Panes for which a detector is silent after an alarm.
PAUSED_PANES = 8
_MAIN, _RECALL, _PRECISION = "e_sr", "e_sr_recall", "e_sr_precision"
_KIND: AlertKind = "error-rate"


@dataclass(slots=True)
class Cell:
    """The labels of a cell of label time, which ends at ``end_ms``."""

    end_ms: int
    labels: LabelsDelta = field(default_factory=LabelsDelta)


@dataclass(slots=True)
class Found:
    """What the detectors say of a window."""

    status: Status
    measures: list[Measure] = field(default_factory=list)
    detections: list[Detection] = field(default_factory=list)


class LabelDetectors:
    """All detectors of all versions.

    Parameters
    ----------
    look
        References; one with enough losses says what is unchanged.
    """

    def __init__(self, look: Lookup) -> None:
        self._look = look
        self.sequential: Shelf[LossDetector] = Shelf(
            "error-rate", LossDetector.encode, LossDetector.decode
        )
        self.river: Shelf[RiverDetector] = Shelf(
            "river-detector", RiverDetector.encode, RiverDetector.decode
        )

    def feed(self, series: Series, cells: Mapping[int, Cell], monitor: Monitor) -> Found:
        """Let the detectors see the cells of a closed window in time order, each once.

        Parameters
        ----------
        cells
            By their start.
        """
        end_ms = max((cell.end_ms for cell in cells.values()), default=0)
        reference = self._reference(series, end_ms)
        found = Found("insufficient")
        tested = False
        for start_ms, cell in sorted(cells.items()):
            losses = _losses(cell.labels, monitor, reference)
            if "e-sr" in monitor.performance.detectors:
                tested |= self._sequential(
                    series, start_ms, cell, losses, reference=reference, monitor=monitor,
                    found=found,
                )  # fmt: skip
            tested |= self._river(series, losses.get(_MAIN, ()), monitor, found)
        self._measure(series, cells, end_ms, monitor, found)
        main = self.sequential.get((*series[:2], _MAIN))
        if found.detections:
            found.status = "alarm"
        elif tested:
            found.status = "ok"
        elif main is not None and main.learning and "e-sr" in monitor.performance.detectors:
            found.status = "learning"
        return found

    def _sequential(
        self,
        series: Series,
        start_ms: int,
        cell: Cell,
        losses: Mapping[str, Losses],
        *,
        reference: Reference | None,
        monitor: Monitor,
        found: Found,
    ) -> bool:
        """Feed one cell; say whether the main detector tested it."""
        evidences: dict[str, float] = {}
        for name, mine in losses.items():
            key = (*series[:2], name)
            detector = self.sequential.get(key)
            if detector is None:
                self.sequential[key] = detector = _new(name, monitor, reference)
            evidence = detector.update(mine, start_ms=start_ms)
            self.sequential.touch(key)
            if evidence is not None:
                evidences[name] = evidence
        limit = self._threshold(series, cell.end_ms, monitor)
        for name, evidence in evidences.items():
            if evidence >= limit:
                detector = self.sequential[*series[:2], name]
                found.detections.append(_detection(name, detector, evidence, limit))
                detector.reset(cell.end_ms + PAUSED_PANES * monitor.pane_ms)
        return _MAIN in evidences

    def _river(self, series: Series, losses: Losses, monitor: Monitor, found: Found) -> bool:
        names = [name for name in RIVER if name in monitor.performance.detectors]
        ordered = list(spread(losses)) if names else []
        for name in names:
            key = (*series[:2], name)
            detector = self.river.get(key)
            if detector is None:
                self.river[key] = detector = RiverDetector(name)
            rises = [rise for u in ordered if (rise := detector.update(u)) is not None]
            self.river.touch(key)
            if rises:
                what = "mean rank of its errors" if monitor.task == "regression" else "error rate"
                found.detections.append(
                    Detection(
                        kind=_KIND,
                        detector=name,
                        value=rises[-1],
                        summary=f"{name} detects a rise: {what} {rises[-1]:.3f}",
                    )
                )
        return bool(ordered)

    def _measure(
        self,
        series: Series,
        cells: Mapping[int, Cell],
        end_ms: int,
        monitor: Monitor,
        found: Found,
    ) -> None:
        if "e-sr" not in monitor.performance.detectors:
            return
        n = sum(cell.labels.labelled for cell in cells.values())
        limit = self._threshold(series, end_ms, monitor)
        for name in (_MAIN, _RECALL, _PRECISION):
            detector = self.sequential.get((*series[:2], name))
            if detector is not None and not detector.learning:
                found.measures.append(
                    Measure(name=name, value=detector.evidence, n=n, threshold=limit)
                )

    def _threshold(self, series: Series, now_ms: int, monitor: Monitor) -> float:
        """Give c, which all detectors of the version share."""
        mine = (self.sequential.get((*series[:2], name)) for name in (_MAIN, _RECALL, _PRECISION))
        losses = sum(detector.per_week(now_ms) for detector in mine if detector is not None)
        return threshold(losses, Budget.of(monitor).per_week)

    def _reference(self, series: Series, at_ms: int) -> Reference | None:
        known = self._look.reference(series.reference_id) if series.reference_id else None
        return known or self._look.reference_for(series.model, series.version, at_ms)


def _losses(
    labels: LabelsDelta, monitor: Monitor, reference: Reference | None
) -> dict[str, Losses]:
    """Give the losses of a cell by the detector they are for; ranks need a reference."""
    if monitor.task == "regression":
        if reference is None or sum(reference.loss_counts) < MIN_LOSSES:
            return {}
        ranks = mid_ranks(reference.loss_counts)
        return {
            _MAIN: [
                (ranks[min(rank, len(ranks) - 1)], count)
                for rank, count in sorted(labels.ranks.items())
            ]
        }
    found = {_MAIN: _binary(labels.loss // FIXED_POINT, labels.labelled)}
    if monitor.task == "binary":
        positive = _positive(monitor)
        row = labels.confusion.get(positive, {})
        hits, positives = row.get(positive, 0), sum(row.values())
        answered = sum(answers.get(positive, 0) for answers in labels.confusion.values())
        found[_RECALL] = _binary(positives - hits, positives)
        found[_PRECISION] = _binary(answered - hits, answered)
    return found


def _binary(errors: int, n: int) -> Losses:
    return [(0.0, n - errors), (1.0, errors)] if n > 0 else []


def _new(name: str, monitor: Monitor, reference: Reference | None) -> LossDetector:
    """Begin a detector; without losses of enough rows it learns them."""
    if monitor.task == "regression" and reference is not None:
        return LossDetector.of_ranks(reference.loss_counts)
    loss = (None if reference is None else reference.loss) or {}
    n, errors = loss.get("n", 0.0), loss.get("errors", 0.0)
    if name == _RECALL:
        n, errors = recall_losses(loss, _positive(monitor))
    elif name == _PRECISION:
        n, errors = precision_losses(loss, _positive(monitor))
    is_known = n >= MIN_LOSSES and "errors" in loss
    return LossDetector.of_errors(n, errors) if is_known else LossDetector()


def _positive(monitor: Monitor) -> str:
    if monitor.task != "binary":
        return ""
    return label_text(monitor.classes[1] if monitor.positive is None else monitor.positive)


def _detection(name: str, detector: LossDetector, evidence: float, limit: float) -> Detection:
    n, mean = detector.stretch
    return Detection(
        kind=_KIND,
        detector=name,
        value=mean,
        threshold=detector.p0,
        evidence=evidence,
        summary="".join(_told(name, detector, n, mean))
        + f"; evidence {evidence:.3g} of {limit:.3g}",
    )


def _told(name: str, detector: LossDetector, n: int, mean: float) -> Iterator[str]:
    """Say what rose; the stretch is where the evidence grew, not the whole window."""
    before = detector.p0
    if detector.is_ranked:
        yield f"errors as large as rank {mean:.3f} of the reference's in the last {n} labels"
    elif name == _RECALL:
        yield f"recall {1 - mean:.3f} in the last {n} positives"
        yield f", at least {1 - before:.3f} before"
        return
    elif name == _PRECISION:
        yield f"precision {1 - mean:.3f} in the last {n} answers of the positive class"
        yield f", at least {1 - before:.3f} before"
        return
    else:
        yield f"error rate {mean:.3f} in the last {n} labels"
    yield f", at most {before:.3f} before"
