"""Takes down what a run says while it goes on; what can become large goes to disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from kedge.base import Scalar
from kedge.monitor import Monitor
from kedge_services.core.budget import Budget
from kedge_services.local.replay.cluster import Cluster
from kedge_services.local.replay.results import (
    Event,
    Results,
    crowned,
    final_windows,
    fired,
    time_of,
    to_line,
    without_cost,
)
from kedge_services.local.replay.scores import Scorer, answer_of
from kedge_services.local.replay.simulation import Run
from kedge_services.local.replay.spill import Sorter
from kedge_services.local.replay.stream import Arrived, Late
from kedge_services.local.replay.thinning import Thinned
from kedge_services.runtime.formats import Predictor
from kedge_services.runtime.ports import Record

__all__ = ["Recorder"]

_FEW = ("alerts", "retrain-requests", "candidates", "model-versions")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Place(msgspec.Struct):
    """Where a window is written."""

    end_ms: int
    window_id: str


_place = msgspec.json.Decoder(_Place).decode


class Recorder:
    """The audience of a run, and the files that it fills.

    Parameters
    ----------
    directory
        For what has to be sorted before it is written.
    """

    def __init__(self, monitor: Monitor, directory: Path) -> None:
        self._monitor = monitor
        self._windows, self._letters = Sorter(directory), Sorter(directory)
        self._reasons: Counter[str] = Counter()
        self._number = 0
        self._told: dict[str, list[Event]] = {topic: [] for topic in _FEW}
        self._scorer = Scorer(regression=monitor.task == "regression", step_ms=monitor.pane_ms)
        self._first: Predictor | None = None
        self._last_label: Scalar | None = None

    def begins(self, first: Predictor | None) -> None:
        """Learn the predictor of the first version, where Kedge trained it."""
        self._first = first

    def hears(self, cluster: Cluster, arrived: Arrived) -> None:
        """Take what arrived, and from the cluster what came of it so far."""
        for topic in _FEW:
            self._told[topic] += cluster.events(topic)
        for record in cluster.take("windows"):
            if record.value is not None:
                place = _place(record.value)
                self._windows.add((place.end_ms, place.window_id, self._next()), record.value)
        for record in cluster.take("dead-letters"):
            self._put_aside(record)
        self._score(cluster, arrived)

    # ------------------------------------------------------------------- inside

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _put_aside(self, record: Record) -> None:
        headers = {name: value.decode(errors="replace") for name, value in record.headers}
        letter = {
            "reason": headers.get("kedge-reason", ""),
            "detail": headers.get("kedge-detail", ""),
            "topic": headers.get("kedge-topic", ""),
            "value": (record.value or b"").decode(errors="replace"),
        }
        self._reasons[letter["reason"]] += 1
        self._letters.add((letter["topic"], letter["value"], self._next()), to_line(letter))

    def _score(self, cluster: Cluster, arrived: Arrived) -> None:
        given, static = self._given(cluster, arrived), self._static(arrived)
        labels = iter(arrived.labels)
        label = next(labels, None)
        for row, truth, answer, stays in zip(
            arrived.rows, arrived.truths, given, static, strict=True
        ):
            # The last label that was known when this row came.
            while label is not None and label.arrival_ms < row.arrival_ms:
                self._last_label = label.label
                label = next(labels, None)
            if truth is not None and row.role == "champion":
                answers = {"given": answer, "static": stays, "no_change": self._last_label}
                self._scorer.add(row.time_ms, truth, answers)
        for known in chain(() if label is None else (label,), labels):
            self._last_label = known.label

    def _given(self, cluster: Cluster, arrived: Arrived) -> Sequence[Scalar | None]:
        if self._first is None:
            return [answer_of(row.output) for row in arrived.rows]
        answers: dict[str, Scalar | None] = {}
        for event in cluster.events("predictions"):
            if event.get("role", "champion") == "champion":
                answers.setdefault(event["prediction_id"], answer_of(event.get("output")))
        return [answers.get(row.prediction_id) for row in arrived.rows]

    def _static(self, arrived: Arrived) -> Sequence[Scalar | None]:
        """Give what the first version would have answered, had it never been replaced."""
        if self._first is None or not arrived.rows:
            return [None] * len(arrived.rows)
        outputs = self._first.predict([row.features for row in arrived.rows])
        return [answer_of(output.model_dump(exclude_none=True)) for output in outputs]

    # -------------------------------------------------------------------- the end

    def finish(
        self, run: Run, out: Path, *, late: Sequence[Late] = (), permuted: int | None = None
    ) -> Results:
        """Write windows and dead letters, and give what there is to tell of the run.

        Parameters
        ----------
        late
            Rows that were put aside before the run.
        permuted
            The seed, where the rows were shuffled.
        """
        out.mkdir(parents=True, exist_ok=True)
        windows, counted, end_ms = self._write_windows(run, out / "windows.ndjson")
        letters = self._write_letters(out / "dead-letters.ndjson", late)
        alerts = [alert for alert in self._told["alerts"] if time_of(alert) <= end_ms]
        versions = [without_cost(version) for version in self._told["model-versions"]]
        requests, candidates = self._told["retrain-requests"], self._told["candidates"]
        trained = sum(1 for candidate in candidates if candidate.get("version") is None)
        scores = self._scorer.scores()
        summary = {
            "model": self._monitor.model,
            "task": self._monitor.task,
            "permuted": permuted,
            "rows": run.rows,
            "warm_up": run.warm_up,
            "labelled": scores.labelled,
            "first_ms": run.span.first_ms,
            "last_ms": run.span.last_ms,
            **counted,
            **fired(alerts),
            "retrain_requests": len(requests),
            "trainings": trained - (self._first is not None),
            "promotions": crowned(versions, "fast", "paired-test"),
            "rollbacks": crowned(versions, "rollback"),
            "dead_letters": letters,
            **scores.named(),
        }
        return Results(
            windows.windows(), alerts, requests, versions, scores, summary, windows.stride
        )

    def _write_windows(self, run: Run, file: Path) -> tuple[Thinned, dict[str, Any], int]:
        """Write all windows; give those to draw, what they come to, and where the last ends."""
        monitor, kept = self._monitor, Thinned()
        final = final_windows(
            (_decode(value) for _, value in self._windows.sorted()), run.span,
            pane_ms=monitor.pane_ms, performance_pane_ms=monitor.performance_pane_ms,
        )  # fmt: skip
        count, end_ms = 0, run.span.last_ms
        #: Panes at whose close at least one drift test ran, and those with an alarm.
        panes: Counter[str] = Counter()
        seen: dict[str, int] = {}
        with file.open("wb") as lines:
            for window in final:
                lines.write(to_line(window))
                kept.add(window)
                count, end_ms = count + 1, window["end_ms"]
                if window["kind"] != "drift":
                    continue
                for name in _VERDICTS.get(window["status"], ()):
                    panes[name] += seen.get(name) != end_ms
                    seen[name] = end_ms
        budget = Budget.of(monitor)
        # The union bound over all tests of a pane, whatever depends on what.
        chance = round(panes["verdicts"] * (budget.drift + budget.integrity), 6)
        counted = {
            "windows": count,
            "verdicts": panes["verdicts"],
            "verdicts_with_alarm": panes["verdicts_with_alarm"],
            "alarms_by_chance": chance,
        }
        return kept, counted, end_ms

    def _write_letters(self, file: Path, late: Sequence[Late]) -> dict[str, int]:
        """Write what was put aside; give how many by reason."""
        reasons = self._reasons + Counter({"late": len(late)})
        with file.open("wb") as lines:
            lines.writelines(map(to_line, _late(late, self._monitor.model)))
            lines.writelines(line for _, line in self._letters.sorted())
        return dict(sorted(reasons.items()))


#: What a drift window of this status counts into.
_VERDICTS: Mapping[str, tuple[str, ...]] = {
    "ok": ("verdicts",),
    "alarm": ("verdicts", "verdicts_with_alarm"),
}


def _late(late: Sequence[Late], model: str) -> Iterator[Event]:
    for row, behind_ms in late:
        yield {
            "reason": "late",
            "detail": f"{behind_ms} ms behind the watermark of model {model}",
            "topic": "predictions",
            "prediction_id": row.prediction_id,
            "event_time_ms": row.time_ms,
        }
