"""The subprocess that tries a foreign model file, ``python -m …executors.inspecting``.

Parsers of model files have been fooled before; here they can take no more than
this process with them, which has bounds on time and memory and ends with what
it took.  An :class:`Order` comes on standard input, a :class:`Finding` goes to
standard output.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from kedge.base import Event
from kedge.codec import decode, encode
from kedge.errors import KedgeError, UnsafeArtefact
from kedge.versions import Artefact, Candidate
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.formats import load_predictor

__all__ = ["TIME_S", "Finding", "Order", "inspect"]

#: What loading and storing may take.
TIME_S = 180


class Order(Event):
    """A candidate whose artefact names no place yet, the file, and where it is to go."""

    candidate: Candidate
    file: Path
    store: str


class Finding(Event):
    """The artefact in the store; or why not, and whether that may pass."""

    artefact: Artefact | None = None
    problem: str = ""
    may_pass: bool = False


def inspect(order: Order) -> Finding:
    """Load the file as serving will, and store it only then."""
    candidate = order.candidate
    if candidate.artefact is None:
        return Finding(problem="there is no artefact")
    data = order.file.read_bytes()
    try:
        load_predictor(candidate, data)
    except UnsafeArtefact as error:
        return Finding(problem=str(error))
    except Exception as error:  # noqa: BLE001 -- whatever a hostile file provokes
        return Finding(problem=f"it cannot be loaded: {type(error).__name__}")
    try:
        return Finding(artefact=ArtefactStore(order.store).put(data, candidate.artefact.format))
    except KedgeError as error:
        return Finding(problem=str(error))
    except Exception as error:  # noqa: BLE001 -- every store has errors of its own
        return Finding(problem=f"it cannot be stored: {type(error).__name__}", may_pass=True)


def main() -> None:
    """Carry one order out."""
    # Should nobody be left to end it.
    signal.alarm(TIME_S)
    sys.stdout.buffer.write(encode(inspect(decode(Order, sys.stdin.buffer.read()))))


if __name__ == "__main__":
    main()
