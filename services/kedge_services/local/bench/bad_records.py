"""Records that cannot be processed among those that can: what do they cost, and whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

import numpy as np

from kedge_services.local.bench.cases import Bench
from kedge_services.local.bench.checking import differences
from kedge_services.local.bench.figures import Run
from kedge_services.local.bench.filling import Filler
from kedge_services.local.bench.ground import Ground, Site
from kedge_services.local.bench.panes import PanesBench, start_before
from kedge_services.local.bench.workload import Keyed, Shape, Workload

__all__ = ["BAD", "SHARES", "panes_bad", "with_bad"]

#: Of 100 records, so many cannot be processed.
SHARES: Final = (1, 10)
_DAY_MS: Final = 86_400_000
_SHAPE = Shape()


class _Bad(NamedTuple):
    """A way to spoil a record, and the reason it is then put aside for."""

    reason: str
    spoil: Callable[[Keyed], Keyed]


def _replaced(old: bytes, new: bytes) -> Callable[[Keyed], Keyed]:
    return lambda record: Keyed(record.key, record.value.replace(old, new, 1))


def _from_the_future(record: Keyed) -> Keyed:
    before, field, rest = record.value.partition(b'"event_time_ms":')
    time_ms, comma, after = rest.partition(b",")
    later = b"%d" % (int(time_ms) + 30 * _DAY_MS)
    return Keyed(record.key, before + field + later + comma + after)


#: What comes of producers that are wrong, each as often as the others.
BAD: Final = (
    _Bad("undecodable", lambda record: Keyed(record.key, record.value[: len(record.value) // 2])),
    _Bad("missing-field", _replaced(b'"version":', b'"model_version":')),
    _Bad("bad-value", _replaced(b'"f001":', b'"f001":[],"_":')),
    _Bad("unknown-model", _replaced(b'"model":"bench-', b'"model":"nobody-')),
    _Bad("bad-key", lambda record: Keyed(b"id-" + record.key, record.value)),
    _Bad("bad-time", _from_the_future),
)


def with_bad(records: Iterator[Keyed], share: int, seed: int) -> Iterator[tuple[Keyed, str]]:
    """Spoil about ``share`` of 100 records by chance; give each with the reason, if any.

    Every kind of :data:`BAD` comes in turn.
    """
    rng, number = np.random.default_rng([seed, 7]), 0
    while True:
        chances = rng.random(10_000) < share / 100
        for is_bad in chances.tolist():
            record = next(records, None)
            if record is None:
                return
            if is_bad:
                reason, spoil = BAD[number % len(BAD)]
                number += 1
                yield spoil(record), reason
            else:
                yield record, ""


class _Traffic(PanesBench):
    """Predictions of which some are bad."""

    def __init__(self, site: Site, workload: Workload, records: int, share: int) -> None:
        super().__init__(site, workload, records)
        self._share = share
        self.bad: Counter[str] = Counter()

    def fill(self) -> None:
        """Send predictions until so many good ones have been sent."""
        self.site.declare(self.workload.monitors(), self.workload.references())
        with Filler(self.site.settings) as filler:
            filler.send("predictions", self._mixed())

    def _mixed(self) -> Iterator[Keyed]:
        # More than enough: what is counted is the good ones.
        every = self.workload.predictions(0, 2 * self.records)
        good = 0
        for record, reason in with_bad(every, self._share, self.workload.seed):
            if reason:
                self.bad[reason] += 1
            else:
                good += 1
            yield record
            if good == self.records:
                return

    def problems(self) -> list[str]:
        """Compare what came out with what was sent: counts, and letters by reason."""
        letters = Counter(
            dict(headers)["kedge-reason"].decode()
            for headers in self.site.read_headers("dead-letters")
        )
        return super().problems() + differences("dead letters", letters, self.bad)

    def fates(self) -> dict[str, int]:
        """Give what has to become of the records."""
        return super().fates() | self.bad


class _PanesBad:
    """The same traffic clean, and with each share of bad records, in turn."""

    def __init__(self, clean: PanesBench, others: Sequence[tuple[int, _Traffic]]) -> None:
        self._clean, self._others = clean, others

    def limit(self) -> Run | None:
        return None

    def measure(self) -> Run:
        clean = self._clean.measure()
        problems, figures = list(clean.problems), {"clean_per_cpu_s": clean.rate_per_cpu_s}
        for share, traffic in self._others:
            run = traffic.measure()
            problems += run.problems
            figures[f"cpu_per_good_to_clean_{share}"] = run.cpu_s / clean.cpu_s
        # Of the largest share, too, as is the rate; with few bad ones it is but noise.
        more_s, bad = run.cpu_s - clean.cpu_s, traffic.bad.total()
        figures["us_per_bad"] = 1e6 * more_s / max(1, bad)
        return Run(run.units, run.wall_s, run.cpu_s, run.peak_rss_mb, tuple(problems), figures)


@contextmanager
def panes_bad(ground: Ground, records: int, seed: int) -> Iterator[Bench]:
    """Set up so many good predictions three times: alone, and beside bad ones."""
    with ExitStack() as stack:
        site = stack.enter_context(ground.site("panes-bad-0"))
        clean = PanesBench(site, Workload(_SHAPE, seed, start_before(_SHAPE, records)), records)
        clean.fill()
        others = []
        for share in SHARES:
            site = stack.enter_context(ground.site(f"panes-bad-{share}"))
            workload = Workload(_SHAPE, seed, start_before(_SHAPE, 2 * records))
            traffic = _Traffic(site, workload, records, share)
            traffic.fill()
            others.append((share, traffic))
        yield _PanesBad(clean, others)
