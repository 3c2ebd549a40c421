"""serving: requests by HTTP at a rate, and requests through the topic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from kedge.codec import encode
from kedge.errors import Stop
from kedge.events import Example, RetrainCause, RetrainRequest, ScoringRequest
from kedge.monitor import Retrain
from kedge_services.local.bench.cases import Bench
from kedge_services.local.bench.checking import differences
from kedge_services.local.bench.child import Child, Stopwatch, free_port
from kedge_services.local.bench.figures import Run, percentile
from kedge_services.local.bench.filling import Filler
from kedge_services.local.bench.ground import Ground, Site
from kedge_services.local.bench.http_load import Answered, send_at_rate
from kedge_services.local.bench.panes import start_before
from kedge_services.local.bench.workload import CLASSES, Keyed, Shape, Workload
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.settings import ServingSettings

__all__ = ["score_http", "score_kafka"]

_TRAINING_ROWS = 5_000
_TIMEOUT_S = 600.0
_READY_S = 120.0


class _Standing(msgspec.Struct):
    status: str


class _Answer(msgspec.Struct):
    prediction_id: str


_standing = msgspec.json.Decoder(_Standing).decode
_answer = msgspec.json.Decoder(_Answer).decode


class _Served:
    """A site where a version of gradient boosting with ten features is champion."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        shape = Shape()
        self.workload = Workload(shape, seed, start_before(shape, _TRAINING_ROWS))
        self.monitor = self.workload.monitors()[0].model_copy(
            update={"retrain": Retrain(trainer="sklearn-hist-gradient-boosting")}
        )
        site.declare([self.monitor])
        self._offer()

    def _offer(self) -> None:
        """Train a version and have the registry take it."""
        from kedge_services.trainer.training import train

        model = self.monitor.model
        request = RetrainRequest(
            request_id=f"{model}/first",
            model=model,
            mode="batch",
            cause=RetrainCause(kind="manual"),
            event_time_ms=self.workload.start_ms,
        )
        trained = train(
            request, self._examples(), monitor=self.monitor, parent=None, parent_data=None,
            seed=self.workload.seed,
        )  # fmt: skip
        candidate = trained.candidate
        if trained.data is None or candidate.artefact is None:
            raise Stop(f"there is no version to serve: {candidate.failure}")
        artefact = ArtefactStore(self.site.settings.artefacts).put(
            trained.data, candidate.artefact.format
        )
        offered = candidate.model_copy(update={"artefact": artefact})
        self.site.publish("candidates", [(model, request.request_id, offered)])
        with Child(self.site.settings, "registry", self.site.work_dir / "logs") as registry:
            deadline = time.monotonic() + _READY_S
            while not any(
                _standing(value).status == "champion"
                for _, _, value in self.site.read("model-versions")
            ):
                registry.check()
                if time.monotonic() > deadline:
                    raise Stop("the registry made no champion")
                time.sleep(0.2)

    def _examples(self) -> list[Example]:
        columns = self.workload.columns(0, _TRAINING_ROWS)
        names = list(columns["features"])
        rows = zip(*columns["features"].values(), strict=True)
        return [
            Example(
                prediction_id=f"first-{number}",
                model=self.monitor.model,
                features={name: float(value) for name, value in zip(names, row, strict=True)},
                # Something that can be learnt.
                label=CLASSES[int(row[0] + row[1] > 1)],
                outputs={},
                event_time_ms=self.workload.start_ms + number,
                label_time_ms=self.workload.start_ms + number,
            )
            for number, row in enumerate(rows)
        ]

    def rows(self, number: int) -> list[dict[str, float]]:
        """Give distinct rows of features."""
        features = self.workload.columns(0, number)["features"]
        return [
            dict(zip(features, map(float, row), strict=True))
            for row in zip(*features.values(), strict=True)
        ]


class _ByHttp:
    def __init__(self, served: _Served, rate: int, seconds: float) -> None:
        self._served, self._rate, self._seconds = served, rate, seconds
        self._port = served.site.settings.serving.port
        self._bodies = [
            msgspec.json.encode(
                {
                    "inputs": [
                        {"name": name, "shape": [1], "datatype": "FP64", "data": [value]}
                        for name, value in row.items()
                    ]
                }
            )
            for row in served.rows(1_000)
        ]

    def limit(self) -> Run | None:
        return None

    def measure(self) -> Run:
        """Send requests when they are due, whatever has become of those before."""
        path = f"/v2/models/{self._served.monitor.model}/infer"
        with Child(
            self._served.site.settings, "serving", self._served.site.work_dir / "logs"
        ) as child:
            watch = Stopwatch(child)
            watch.start()
            # The first requests of a process import and allocate.
            send_at_rate(self._port, path, self._bodies, rate=self._rate, seconds=1.0)
            watch.start()
            found = send_at_rate(
                self._port, path, self._bodies, rate=self._rate, seconds=self._seconds
            )
            watch.stop()
        return self._run(found, watch)

    def _run(self, found: Answered, watch: Stopwatch) -> Run:
        wanted = {"answers with 200": found.sent}
        problems = differences("requests", {"answers with 200": found.good}, wanted)
        figures = {}
        if found.latencies_s:
            figures = {
                f"p{round(share * 100)}_ms": 1e3 * percentile(found.latencies_s, share)
                for share in (0.5, 0.9, 0.99)
            }
            figures["late_ms"] = 1e3 * percentile(found.late_s, 0.99)
        return Run(
            found.good, found.elapsed_s, watch.cpu_s, watch.peak_rss_mb, tuple(problems), figures
        )


@contextmanager
def score_http(ground: Ground, rate: int, seconds: float, seed: int) -> Iterator[Bench]:
    """Set up a champion behind HTTP."""
    with ground.site("score-http", serving=ServingSettings(port=free_port())) as site:
        yield _ByHttp(_Served(site, seed), rate, seconds)


class _ByTopic:
    def __init__(self, served: _Served, requests: int) -> None:
        self._served, self._requests = served, requests
        self._has_run = False
        with Filler(served.site.settings) as filler:
            filler.send("requests", self._records())

    def _records(self) -> Iterator[Keyed]:
        marker = "@@id@@"
        now_ms = self._served.workload.start_ms
        pieces = [
            encode(
                ScoringRequest(
                    request_id=marker,
                    model=self._served.monitor.model,
                    rows=[row],
                    event_time_ms=now_ms,
                )
            ).split(marker.encode())
            for row in self._served.rows(5_000)
        ]
        for number in range(self._requests):
            before, after = pieces[number % len(pieces)]
            key = b"q%012d" % number
            yield Keyed(key, b"%b%b%b" % (before, key, after))

    def limit(self) -> Run | None:
        return None

    def measure(self) -> Run:
        """Score all that is there; each request must have its one answer."""
        site = self._served.site
        if self._has_run:
            site.reset(["serving"], ["predictions", "dead-letters"])
        self._has_run = True
        ends = site.ends(["requests"])
        with Child(site.settings, "serving", site.work_dir / "logs") as child:
            watch = Stopwatch(child)
            watch.start()
            left = site.lag("serving", ends)
            watch.until(lambda: site.lag("serving", ends) == 0, _TIMEOUT_S)
        answers = [_answer(value).prediction_id for _, _, value in site.read("predictions")]
        problems = differences(
            "answers",
            {"number": len(answers), "distinct": len(set(answers))},
            {"number": self._requests, "distinct": self._requests},
        )
        return Run(left, watch.wall_s, watch.cpu_s, watch.peak_rss_mb, tuple(problems))


@contextmanager
def score_kafka(ground: Ground, requests: int, seed: int) -> Iterator[Bench]:
    """Set up a champion and requests of one row each."""
    with ground.site("score-kafka", serving=ServingSettings(port=0)) as site:
        yield _ByTopic(_Served(site, seed), requests)
