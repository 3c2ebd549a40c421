"""How much of a benchmark is run, and beside whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from bench_stats.peers import Peer, PeerError, PeerName

__all__ = ["Scale", "beside"]


@dataclass(frozen=True, slots=True)
class Scale:
    """``full`` gives the published figures, ``quick`` a first look, ``tiny`` tests the code."""

    name: Literal["full", "quick", "tiny"] = "full"

    def of(self, full: int, quick: int, tiny: int) -> int:
        """Pick one of three sizes."""
        return {"full": full, "quick": quick, "tiny": tiny}[self.name]

    @property
    def has_peers(self) -> bool:
        return self.name != "tiny"


@contextmanager
def beside(scale: Scale, *names: PeerName) -> Iterator[dict[PeerName, Peer | str]]:
    """Start the peers; for one that cannot be had, give the reason, to be shown as its figures."""
    with ExitStack() as stack:
        found: dict[PeerName, Peer | str] = {}
        for name in names:
            if not scale.has_peers:
                found[name] = "not run"
                continue
            try:
                found[name] = stack.enter_context(Peer(name))
            except PeerError as error:
                found[name] = str(error)
        yield found
