"""What one model's panes and windows look like, multiplied to as many models as are wanted.

`panes` and `windows` make the records from a small workload, as they really do; a
record of another model differs in its name alone, which is as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kedge.codec import decode, encode
from kedge.errors import Stop
from kedge.monitor import Monitor
from kedge.panes import ModelClock, Pane, Progress, Reference
from kedge.topics import model_partition
from kedge_services.local.bench.child import Child, Stopwatch
from kedge_services.local.bench.filling import Filler
from kedge_services.local.bench.ground import Ground, Site
from kedge_services.local.bench.panes import start_before
from kedge_services.local.bench.workload import Keyed, Shape, Workload

__all__ = ["PANE_ROWS", "Deltas", "deltas_of", "fill_deltas", "run_to_end", "windows_of"]

#: Rows a pane.
PANE_ROWS = 500
PANE_MS = 1_000
_SHAPE = Shape(rate=PANE_ROWS, pane="1s", grace="0s", distinct=5_000)
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Deltas:
    """The deltas of one model, pane by pane.

    Attributes
    ----------
    values
        Records by pane, and in it by source partition.
    progress
        The last progress of each source partition.
    """

    workload: Workload
    monitor: Monitor
    reference: Reference
    start_ms: int
    values: Sequence[Sequence[tuple[int, bytes]]]
    progress: Sequence[Progress]

    def of(self, names: Sequence[str], panes: int) -> Iterator[list[tuple[str, bytes]]]:
        """Give what the models write about each pane: pairs of a model and its record.

        Progress follows what it is about, under no model.
        """
        former = self.workload.models[0].encode()
        for number, records in enumerate(self.values[:panes]):
            written: list[tuple[str, bytes]] = []
            for source, progress in enumerate(self.progress):
                mine = [value for partition, value in records if partition == source]
                written += (
                    (name, value.replace(former, name.encode())) for name in names for value in mine
                )
                written.append(("", encode(self._progress(progress, number, names))))
            yield written

    def _progress(self, last: Progress, number: int, names: Sequence[str]) -> Progress:
        """Say that every model has come to the end of a pane."""
        end_ms = self.start_ms + (number + 1) * PANE_MS
        clock_ms = last.clock_ms["predictions"]
        clock = ModelClock(max_ms=end_ms, seen_ms=clock_ms)
        return last.model_copy(
            update={
                "sequence": last.sequence + number + 1,
                "predictions": dict.fromkeys(names, clock),
            }
        )


def deltas_of(
    ground: Ground, *, panes: int, sources: int, seed: int, drifts: bool = False
) -> Deltas:
    """Have panes make the deltas of one model.

    Parameters
    ----------
    sources
        Partitions of the predictions: each writes its own delta of a pane.
    drifts
        Whether the second half of the panes is distributed otherwise.

    Raises
    ------
    Stop
        panes did not write them.
    """
    records = panes * PANE_ROWS
    start_ms = start_before(_SHAPE, records)
    workload = Workload(_SHAPE, seed, start_ms)
    with ground.site(f"deltas-{sources}-{panes}", request_partitions=sources) as site:
        (monitor,), (reference,) = workload.monitors(), workload.references()
        site.declare([monitor], [reference])
        with Filler(site.settings) as filler:
            half = records // 2 if drifts else records
            filler.send("predictions", workload.predictions(0, half))
            filler.send("predictions", workload.predictions(half, records, drifted=True))
        run_to_end(site, "panes", ("predictions", "outcomes"))
        by_pane: list[list[tuple[int, bytes]]] = [[] for _ in range(panes)]
        newest: dict[int, Progress] = {}
        for _, _, value in site.read("panes"):
            if b'"type":"progress"' in value:
                progress = decode(Progress, value)
                newest[progress.partition] = progress
                continue
            pane = decode(Pane, value)
            if pane.kind == "drift":
                number = (pane.start_ms - start_ms) // PANE_MS
                by_pane[number].append((pane.source.partition, value))
    if not all(by_pane):
        raise Stop(f"panes wrote no delta of {sum(not found for found in by_pane)} panes")
    progress_of = [newest[source] for source in sorted(newest)]
    return Deltas(workload, monitor, reference, start_ms, by_pane, progress_of)


def fill_deltas(site: Site, deltas: Deltas, names: Sequence[str], panes: int) -> None:
    """Send what the models write about so many panes, pane by pane."""
    partitions = site.settings.model_partitions
    where = {name: model_partition(name, partitions) for name in names}
    with Filler(site.settings) as filler:
        for written in deltas.of(names, panes):
            by_partition: dict[int, list[Keyed]] = {p: [] for p in range(partitions)}
            for name, value in written:
                # Progress goes to all of them, behind the deltas it is about.
                for partition in [where[name]] if name else by_partition:
                    by_partition[partition].append(Keyed(name.encode(), value))
            for partition, records in by_partition.items():
                filler.send("panes", records, partition=partition)


def run_to_end(site: Site, service: str, topics: Sequence[str]) -> Stopwatch:
    """Run a service until it has committed all there is."""
    ends = site.ends(topics)
    with Child(site.settings, service, site.work_dir / "logs") as child:
        watch = Stopwatch(child)
        watch.start()
        watch.until(lambda: site.lag(service, ends) == 0, _TIMEOUT_S)
    return watch


def windows_of(
    ground: Ground, *, panes: int, seed: int
) -> tuple[Workload, list[tuple[str, bytes]]]:
    """Have windows make those of one model that drifts; give keys and values, in their order."""
    deltas = deltas_of(ground, panes=panes, sources=1, seed=seed, drifts=True)
    with ground.site(f"windows-{panes}") as site:
        site.declare([deltas.monitor], [deltas.reference])
        fill_deltas(site, deltas, deltas.workload.models, panes)
        run_to_end(site, "windows", ("panes",))
        return deltas.workload, [(key.decode(), value) for _, key, value in site.read("windows")]
