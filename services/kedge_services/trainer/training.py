"""The training itself: a request and labelled examples in, a candidate and its artefact out.

No Kafka, no clock, no store: the same arguments give the same bytes.  The
trainer's subprocess calls it, ``kedge replay`` and the demo call it directly.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as library_version
from typing import Any

from kedge.events import Example, RetrainRequest
from kedge.monitor import Monitor, Retrain
from kedge.versions import Artefact, Candidate, FeatureColumn, Lineage, ModelVersion
from kedge_services.core import selection
from kedge_services.core.selection import Choice, Window
from kedge_services.trainer.contest import Contest, Trial
from kedge_services.trainer.evidence import MOST, Held, make_reference
from kedge_services.trainer.examples import Examples
from kedge_services.trainer.families import Fitted, Shape

__all__ = ["Trained", "shape_of", "train"]

Ranges = Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Trained:
    """A candidate, and the bytes its artefact (by now without a place) is to have.

    ``data`` is None when ``candidate.failure`` says why there is no new version.
    """

    candidate: Candidate
    data: bytes | None


def train(
    request: RetrainRequest,
    examples: Examples | Sequence[Example],
    *,
    monitor: Monitor,
    parent: ModelVersion | None,
    parent_data: bytes | None,
    seed: int,
    created_ms: int | None = None,
    ranges: Ranges | None = None,
    fresh: Collection[str] | None = None,
    allow: Collection[str] = (),
) -> Trained:
    """Train what the request asks for and say whether it is better than its parent.

    Without a parent (``request.base_version`` is None) this makes the first
    version, which only has to be as good (within the margin) as a guess without
    features.

    Parameters
    ----------
    examples
        In any order and revision; those of other models are ignored.  As columns
        they are this model's alone, with the outputs of the version that is served.
    parent, parent_data
        The version that serves and its artefact, if it has one.
    seed
        The same one gives the same bytes.
    created_ms
        Time of creation; by default that of the request.
    ranges
        Offsets ``[from, to)`` by partition that the examples were read from.
    fresh
        Prediction ids the parent has not learnt from; by default those with a
        label after the last one of its lineage.
    allow
        Modules that a function of the user's own may be imported from.

    Raises
    ------
    UsageError
        The monitor names a trainer that does not exist, cannot do its task, may
        not be imported, or fails.
    UnsafeArtefact
        A function of the user's own gives what cannot be stored, or the parent's
        artefact is none.
    """
    retrain = monitor.retrain or Retrain()
    contest = Contest(
        request=request,
        trainer=retrain.trainer,
        shape=shape_of(monitor),
        parent=parent,
        parent_data=parent_data,
        seed=seed,
        fresh=fresh,
        examples=examples,
        allow=allow,
    )
    created_ms = request.event_time_ms if created_ms is None else created_ms
    run = _Run(
        contest,
        created_ms,
        dict(ranges or {}),
        is_last_gate=retrain.promotion == "fast",
        timezone=monitor.timezone,
    )
    try:
        return run.result()
    except _NoCandidate as reason:
        return Trained(run.manifest(failure=str(reason)), None)


def shape_of(monitor: Monitor) -> Shape:
    """Give the columns and classes of a monitor's models; the positive class comes last."""
    columns = tuple(
        FeatureColumn(name=name, type=feature.type) for name, feature in monitor.features.items()
    )
    if monitor.task == "regression":
        return Shape(columns, ())
    classes = list(monitor.classes)
    if monitor.task == "binary" and monitor.positive is not None:
        classes.sort(key=lambda label: label == monitor.positive)
    return Shape(columns, tuple(classes))


class _NoCandidate(Exception):
    """No new version, and the sentence that says why."""


@dataclass
class _Run:
    """One call of :func:`train`, from the contest to the candidate.

    ``is_last_gate``: what is nominated here serves at once, so it has to be surely better.
    """

    contest: Contest
    created_ms: int
    ranges: dict[int, tuple[int, int]]
    is_last_gate: bool = False
    timezone: str | None = None
    best: dict[str, float] = field(default_factory=dict)
    rival: dict[str, float] = field(default_factory=dict)

    def result(self) -> Trained:
        """Try, choose, train again with the held-out rows, and describe."""
        contest = self.contest
        if len(contest.rows) < selection.MINIMUM:
            new = "new " if contest.is_continued else ""
            raise _NoCandidate(
                f"{len(contest.rows)} {new}labelled rows are too few, "
                f"{selection.MINIMUM} are needed"
            )
        scored, champion = contest.champion()
        trials = contest.trials(scored)
        if not trials:
            raise _NoCandidate(f"nothing could be learnt from {contest.before} labelled rows")
        # Of a first version nobody believes that its data has changed: more rows are better.
        slack = selection.MARGIN if contest.request.base_version is None else 0.0
        winner = selection.choose([trial.choice for trial in trials], slack=slack)
        trial = next(trial for trial in trials if trial.choice is winner)
        self.best, self.rival = winner.metrics, {} if champion is None else champion.metrics
        self._gate(winner, champion, scored)
        try:
            return self._nominate(trial)
        except ValueError as error:
            raise _NoCandidate(f"{winner.name}, with the held-out rows: {error}") from error

    def _gate(self, winner: Choice, champion: Choice | None, scored: Sequence[int]) -> None:
        table, classes = self.contest.table, self.contest.shape.classes
        if champion is not None:
            story = (
                f"the best, {winner.name}, had {_shown(winner.metrics)} "
                f"against {_shown(self.rival)} on the newest {len(scored)} labelled rows"
            )
            if not selection.gain(winner.metrics, self.rival) > selection.MARGIN:
                raise _NoCandidate(
                    f"nothing was better than version {champion.name} by more than "
                    f"{selection.MARGIN}: {story}"
                )
            if self.is_last_gate and not selection.is_sure(winner.losses, champion.losses):
                raise _NoCandidate(f"nothing was surely better than {champion.name}: {story}")
            return
        guess = selection.naive(table.targets[: self.contest.before], classes)
        targets = [table.targets[i] for i in scored]
        plain = selection.metrics([guess] * len(scored), targets, classes)
        # Where one class is rare, a sound model may lose a row or two to the guess.
        if selection.gain(winner.metrics, plain) < -selection.MARGIN:
            raise _NoCandidate(
                f"the best, {winner.name}, had {_shown(winner.metrics)} on the newest "
                f"{len(scored)} labelled rows, where guessing without features has {_shown(plain)}"
            )

    def _nominate(self, trial: Trial) -> Trained:
        """Train the winner again on its rows and the held-out ones."""
        contest, shape = self.contest, self.contest.shape
        if trial.window is None:
            fitted, taken, held = self._learn_on(trial)
        else:
            is_all = trial.window == Window(contest.before)
            window = Window(len(contest.rows)) if is_all else trial.window
            taken = window.of(contest.rows.event_times_ms.tolist())
            part = contest.table.take(taken)
            fitted = trial.family.fit(part, shape, seed=contest.seed)
            held = Held.of(trial.family, part, taken, shape, seed=contest.seed)
        data = fitted.dump()
        reference = make_reference(
            request=contest.request,
            rows=contest.rows,
            taken=taken,
            held=held,
            shape=shape,
            is_window=trial.window is not None and trial.window.since_ms is not None,
            timezone=self.timezone,
        )
        artefact = Artefact(
            uri=f"sha256:{hashlib.sha256(data).hexdigest()}",
            sha256=hashlib.sha256(data).hexdigest(),
            format=fitted.format,
            size=len(data),
        )
        candidate = self.manifest(
            trainer=trial.family.name,
            artefact=artefact,
            feature_schema=list(shape.columns),
            classes=list(shape.classes),
            reference=reference,
            lineage=self._lineage(trial, contest.rows.take(taken)),
        )
        return Trained(candidate, data)

    def _learn_on(self, trial: Trial) -> tuple[Fitted, list[int], Held]:
        """Let an incremental winner learn the held-out rows, too."""
        contest = self.contest
        end, before = len(contest.rows), contest.before
        taken = [i for i in range(before) if trial.start is None or contest.fresh_rows[i]]
        taken += range(before, end)
        rest = contest.table.part(before, end)
        fitted = trial.family.fit(rest, contest.shape, seed=contest.seed, start=trial.fitted.dump())
        # A model that began with nothing has to warm up before its answers count.
        skip = max(len(taken) // 2 if trial.start is None else 0, len(taken) - MOST)
        outputs = [*trial.fitted.outputs, *fitted.outputs]
        return fitted, taken, Held(taken[skip:], outputs[skip:])

    def _lineage(self, trial: Trial, rows: Examples) -> Lineage:
        parameters: dict[str, Any] = {
            **trial.family.parameters(self.contest.shape),
            "window": trial.choice.name.partition(", ")[2],
            "hold_out": len(self.contest.rows) - self.contest.before,
            "considered": self.contest.considered,
        }
        versions = {name: library_version(name) for name in trial.family.libraries}
        return Lineage(
            examples=self.ranges,
            rows=len(rows),
            data_sha256=selection.digest(rows),
            first_label_time_ms=int(rows.label_times_ms[0]),
            last_label_time_ms=int(rows.label_times_ms[-1]),
            parameters=parameters,
            seed=self.contest.seed,
            libraries={"python": platform.python_version(), **versions},
            request_id=self.contest.request.request_id,
            alert_ids=self.contest.request.cause.alert_ids,
        )

    def manifest(self, **parts: Any) -> Candidate:
        """Give the candidate with these parts."""
        lineage = Lineage(
            examples=self.ranges,
            parameters={"considered": self.contest.considered},
            seed=self.contest.seed,
            request_id=self.contest.request.request_id,
            alert_ids=self.contest.request.cause.alert_ids,
        )
        return Candidate(
            **{
                "request_id": self.contest.request.request_id,
                "model": self.contest.request.model,
                "parent": self.contest.request.base_version,
                "lineage": lineage,
                "metrics": self.best,
                "parent_metrics": self.rival,
                "created_ms": self.created_ms,
                **parts,
            }
        )


def _shown(metrics: Mapping[str, float]) -> str:
    name = "accuracy" if "accuracy" in metrics else "mae"
    return f"{name} {metrics[name]:.4g}"
