"""Estimated performance without labels (CBPE), beside NannyML's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from bench_stats import data
from bench_stats.data import Scored, Table
from bench_stats.figures import Figure, Result, Target, mean, rate
from bench_stats.kedge_side import Panes, monitor_of
from bench_stats.peers import Peer, PeerError
from bench_stats.scale import Scale, beside
from kedge.panes import Calibrator
from kedge_services.core.calibration import fit_calibrator
from kedge_services.core.estimation import estimate
from kedge_services.core.references import build_reference

__all__ = ["run"]

METRICS = ("accuracy", "f1", "auc")
#: How close Kedge's estimate must be to NannyML's, on the same calibrated scores.
CLOSE = {"accuracy": 1e-6, "f1": 1e-6, "auc": 5e-4}
EQUAL = "Kedge and NannyML, same calibrated scores: largest difference"
KEDGE, NANNYML = "Kedge: error of the estimate", "NannyML: error of the estimate"
CONSTANT = "error of the reference's value"
NOT_VALID = 'Kedge: windows "not valid", %'
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """A model's stream in windows of one size; ``valid`` is what Kedge should say of them."""

    name: str
    scored: Scored
    size: int
    valid: bool

    def windows(self, most: int) -> list[slice]:
        """Give the whole windows after the reference."""
        first = self.scored.reference
        starts = range(first, len(self.scored.labels) - self.size + 1, self.size)
        return [slice(at, at + self.size) for at in starts][:most]


def run(scale: Scale) -> Result:
    """Estimate window by window, and compare with what was realised."""
    most = scale.of(1_000, 8, 3)
    figures: list[Figure] = []
    targets: list[Target] = []
    with beside(scale, "nannyml") as peers:
        for case in _cases(scale):
            told = _told(peers["nannyml"], case)
            figures += _figures(case, case.windows(most), told)
            if case.valid:
                targets += [
                    Target(f"{case.name}: {metric}", EQUAL, limit)
                    for metric, limit in CLOSE.items()
                ]
            limit = 0.0 if case.valid else 100.0
            targets.append(
                Target(f"{case.name}: accuracy", NOT_VALID, limit, at_least=not case.valid)
            )
    if not figures:
        figures.append(Figure("all", EQUAL, note="no data"))
    return Result(
        "CBPE",
        "Estimated performance without labels (CBPE): absolute errors by window",
        figures,
        targets,
        notes=[
            (
                "Errors are mean absolute differences from the realised value over whole windows "
                "(bootstrap over windows); Kedge's own estimates use its own calibrator. "
                "'Not valid' is what Kedge shows instead of a number while a precondition fails; "
                "its error is that of all windows, as if it had shown a number in every one."
            ),
            (
                "ACS employment: reference the year 2015, windows from 2016 on. California "
                "housing: NannyML's own partition. Reconciliation with labels takes no part here."
            ),
        ],
    )


def _cases(scale: Scale) -> Iterator[Case]:
    acs = data.acs() if scale.has_peers else None
    california = data.california()
    # A part of ACS lies with the tests; it is too small to be a benchmark.
    if acs is not None and acs.reference > 20_000:
        yield Case("ACS, n = 5,000", acs, 5_000, valid=True)
        yield Case("ACS, n = 1,000", acs, 1_000, valid=True)
    if california is not None:
        yield Case("California, n = 500", california, 500, valid=False)


def _told(peer: Peer | str, case: Case) -> dict[str, Any] | str:
    if isinstance(peer, str):
        return peer
    scored = case.scored
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        path = Path(scratch) / "scored.npz"
        np.savez(
            path, scores=scored.scores, answers=scored.answers, labels=scored.labels,
            reference=scored.reference,
        )  # fmt: skip
        try:
            told = peer.ask({"estimate": str(path), "chunk": case.size})
        except (PeerError, OSError) as error:
            return f"FAILED: {error}"
        return {**told, "scores": np.load(told["calibrated"])}


def _figures(case: Case, windows: list[slice], told: dict[str, Any] | str) -> Iterator[Figure]:
    scored = case.scored
    rows = slice(0, scored.reference)
    usual = _realised(scored, rows)
    realised = [_realised(scored, window) for window in windows]
    calibrator = fit_calibrator(scored.scores[rows].tolist(), (scored.labels[rows] == 1).tolist())
    own = [_estimated(scored, scored.scores, window, calibrator) for window in windows]
    invalid = list(_not_valid(case, windows, calibrator))
    for metric in METRICS:
        row = f"{case.name}: {metric}"
        real = np.array([values[metric] for values in realised])
        if isinstance(told, str):
            yield Figure(row, EQUAL, note=told)
            yield Figure(row, NANNYML, note=told)
        else:
            theirs = np.array(told[metric][: len(windows)])
            same = [_estimated(scored, told["scores"], window, None)[metric] for window in windows]
            largest = float(np.abs(np.array(same) - theirs).max())
            yield Figure(row, EQUAL, largest, n=len(windows), digits=-1)
            yield mean(row, NANNYML, _errors(theirs, real), digits=4)
        mine = np.array([values[metric] for values in own])
        yield mean(row, KEDGE, _errors(mine, real), digits=4)
        yield mean(row, CONSTANT, _errors(np.full(real.size, usual[metric]), real), digits=4)
        if metric == "accuracy":
            yield rate(row, NOT_VALID, [[one] for one in invalid], per=100)


def _errors(one: Numbers, other: Numbers) -> list[float]:
    found: list[float] = np.abs(one - other).tolist()
    return found


def _realised(scored: Scored, rows: slice) -> dict[str, float]:
    labels, answers = scored.labels[rows], scored.answers[rows]
    return {
        "accuracy": float((labels == answers).mean()),
        "f1": float(metrics.f1_score(labels, answers)),
        "auc": float(metrics.roc_auc_score(labels, scored.scores[rows])),
    }


def _estimated(
    scored: Scored, scores: Numbers, rows: slice, calibrator: Calibrator | None
) -> dict[str, float]:
    found = estimate(
        answers=[str(answer) for answer in scored.answers[rows].tolist()],
        scores=scores[rows].tolist(),
        calibrator=calibrator,
        positive="1",
    )
    return {one.name: one.value for one in found}


def _not_valid(case: Case, windows: list[slice], calibrator: Calibrator | None) -> Iterator[bool]:
    """Say of every window whether Kedge shows no estimate of it."""
    scored, rows = case.scored, slice(0, case.scored.reference)
    features = scored.features.part(0, scored.reference)
    answers = [str(answer) for answer in scored.answers.tolist()]
    reference = build_reference(
        model="bench",
        version="1",
        columns=features.columns(),
        kinds=features.kinds,
        predictions=answers[rows],
        scores=scored.scores[rows].tolist(),
        labels=[str(label) for label in scored.labels[rows].tolist()],
        calibrator=calibrator,
        regression=False,
    )
    panes = Panes(monitor_of(features, task="binary", classes=["0", "1"]), reference)
    for window in windows:
        part: Table = scored.features.part(window.start, window.stop)
        found = panes.close(
            part,
            predictions=answers[window],
            scores=scored.scores[window].tolist(),
            answers=answers[window],
        )
        measures = [m for w in found if w.scale == 1 for m in w.measures]
        values = [m.value for m in measures if m.name == "estimated_accuracy"]
        yield not values or values[0] is None
