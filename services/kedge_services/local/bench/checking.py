"""What came out, counted: a benchmark that counts wrongly is worth nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from kedge.codec import decode
from kedge.panes import Pane, Progress
from kedge_services.core.deltas import decode_delta
from kedge_services.local.bench.ground import Site

__all__ = ["Panes", "differences", "read_panes"]


class Panes:
    """What ``panes`` says it did.

    Attributes
    ----------
    fates
        Records by topic and fate, over all source partitions.
    rows
        Rows in the deltas, by kind.
    """

    def __init__(self) -> None:
        self.fates: dict[str, Counter[str]] = {}
        self.rows: Counter[str] = Counter()
        self.deltas = 0


def read_panes(site: Site) -> Panes:
    """Add up the topic ``panes``."""
    found, newest = Panes(), dict[int, Progress]()
    for partition, _, value in site.read("panes"):
        if b'"type":"progress"' in value:
            # The same goes to every partition; it counts from the beginning.
            if partition == 0:
                progress = decode(Progress, value)
                newest[progress.partition] = progress
            continue
        pane = decode(Pane, value)
        found.deltas += 1
        rows = getattr(decode_delta(pane.kind, pane.counts), "rows", 0)
        found.rows[pane.kind] += rows
    for progress in newest.values():
        for topic, fates in progress.fates.items():
            found.fates.setdefault(topic, Counter()).update(fates)
    return found


def differences(what: str, found: Mapping[str, float], wanted: Mapping[str, float]) -> list[str]:
    """Say what is not as it must be.

    >>> differences("fates", {"counted": 3, "late": 1}, {"counted": 4})
    ['fates: counted is 3, must be 4', 'fates: late is 1, must be 0']
    """
    return [
        f"{what}: {name} is {found.get(name, 0):,}, must be {wanted.get(name, 0):,}"
        for name in sorted({*found, *wanted})
        if found.get(name, 0) != wanted.get(name, 0)
    ]
