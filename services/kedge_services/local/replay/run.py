"""One replay from its input to the files it writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from kedge.errors import UsageError
from kedge.monitor import Monitor, format_duration
from kedge_services.local.replay.flow import Flow, flow_of_file
from kedge_services.local.replay.recorder import Recorder
from kedge_services.local.replay.report import page
from kedge_services.local.replay.results import Results, write
from kedge_services.local.replay.simulation import simulate
from kedge_services.local.replay.topics import stream_of_cluster
from kedge_services.runtime.garbage import rare_collections
from kedge_services.runtime.settings import Settings

__all__ = ["Options", "Source", "replay", "replay_results"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the stream comes from: a file, or for None the topics of a cluster.

    ``since_ms`` and ``until_ms`` are append times of the topics' records.
    """

    file: Path | None
    since_ms: int | None = None
    until_ms: int | None = None

    def __str__(self) -> str:
        """Name it for people."""
        return "the topics of a cluster" if self.file is None else self.file.name


@dataclass(frozen=True, slots=True)
class Options:
    """How to replay; as the options of ``kedge replay``."""

    closed_loop: bool = False
    label_delay: timedelta = timedelta(0)
    limit: int | None = None
    partitions: int = 1
    permute: int | None = None

    def told(self) -> dict[str, str]:
        """Give what changes the results, for the report."""
        told = {"closed loop": ""} if self.closed_loop else {"watching only": ""}
        if self.label_delay:
            told["labels after"] = format_duration(self.label_delay)
        if self.limit is not None:
            told["limit"] = f"{self.limit} rows"
        if self.permute is not None:
            told["rows shuffled, seed"] = str(self.permute)
        return told


def replay(
    source: Source,
    monitor: Monitor,
    settings: Settings,
    options: Options,
    out: Path,
    *,
    tell: Callable[[int, int], None] = lambda _rows, _of: None,
) -> dict[str, Any]:
    """Replay a stream, write the files into ``out``, give the summary.

    Parameters
    ----------
    tell
        Is told how many rows of how many were replayed.

    Raises
    ------
    KedgeError
        The input cannot be replayed; the message says why.
    """
    results, cost = replay_results(source, monitor, settings, options, out, tell=tell)
    return {**results.summary, **cost}


def replay_results(
    source: Source,
    monitor: Monitor,
    settings: Settings,
    options: Options,
    out: Path,
    *,
    tell: Callable[[int, int], None] = lambda _rows, _of: None,
) -> tuple[Results, dict[str, float]]:
    """Replay like :func:`replay`; give everything that came out, and what it cost."""
    started = time.perf_counter()
    with TemporaryDirectory(prefix="kedge-replay-") as scratch, rare_collections():
        flow = _flow(source, monitor, settings, options, Path(scratch))
        recorder = Recorder(monitor, Path(scratch))
        artefacts = out / "artefacts" if options.closed_loop else Path(scratch)
        run = simulate(
            flow,
            monitor,
            settings.model_copy(update={"artefacts": str(artefacts.absolute())}),
            recorder,
            closed_loop=options.closed_loop,
            partitions=options.partitions,
            tell=lambda rows: tell(rows, flow.total),
        )
        with run.cluster:
            results = recorder.finish(run, out, late=flow.late, permuted=options.permute)
    seconds = time.perf_counter() - started
    cost = {
        "seconds": round(seconds, 3),
        "rows_per_s": round(flow.total / seconds, 1),
        "peak_rss_mb": round(_peak_rss_mb(), 1),
    }
    told = page(results, monitor, data=str(source), options=options.told())
    write(results, out, page=told, cost=cost)
    return results, cost


def _flow(
    source: Source, monitor: Monitor, settings: Settings, options: Options, scratch: Path
) -> Flow:
    if source.file is not None:
        return flow_of_file(
            source.file,
            monitor,
            scratch,
            label_delay=options.label_delay,
            limit=options.limit,
            permute=options.permute,
        )
    if options.label_delay or options.permute is not None:
        raise UsageError("the records of topics have times of their own; delay and permute files")
    stream = stream_of_cluster(
        settings,
        monitor,
        since_ms=source.since_ms,
        until_ms=source.until_ms,
        limit=options.limit,
    )
    # A closed loop makes its own predictions; those of shadows would be rows twice.
    return Flow.of(stream.champions() if options.closed_loop else stream)


def _peak_rss_mb() -> float:
    memory = psutil.Process().memory_info()
    try:
        import resource
    except ImportError:  # not on Windows, where psutil knows it
        return float(getattr(memory, "peak_wset", memory.rss)) / (1 << 20)
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024
