"""The subprocess that trains: ``python -m kedge_services.trainer.job PLAN.json RESULT.json``.

It gives way to everything else (nice 10), ends with its parent, and leaves one
JSON file: a candidate, or one sentence that says why there is none.  What goes
wrong in detail stands in the log, not in the file.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import structlog

from kedge.base import Event
from kedge.codec import decode, encode
from kedge.errors import KedgeError, Retry
from kedge.versions import Candidate
from kedge_services.runtime.settings import Settings
from kedge_services.trainer.plan import Plan

__all__ = ["Order", "Result", "main"]

_PR_SET_PDEATHSIG = 1
_NICE = 10

_log = structlog.get_logger(__name__)


class Order(Event):
    """What the subprocess is told; the file is private, as settings hold passwords."""

    plan: Plan
    settings: Settings
    parent_process: int


class Result(Event):
    """What it leaves: a candidate, or why there is none and whether to try again."""

    candidate: Candidate | None = None
    failure: str = ""
    is_final: bool = False


def main(order_file: Path, result_file: Path) -> None:
    """Carry an order out."""
    started_s = time.monotonic()
    order = decode(Order, order_file.read_bytes())
    # It may hold passwords, and must not be left behind when somebody kills us all.
    order_file.unlink()
    _end_with(order.parent_process)
    os.nice(_NICE)
    from kedge_services.runtime.logs import configure_logs

    configure_logs(order.settings, "trainer")
    result = _work(order)
    if result.candidate is not None:
        cost = _cost(time.monotonic() - started_s)
        candidate = result.candidate.model_copy(update={"cost": cost})
        result = result.model_copy(update={"candidate": candidate})
    temporary = result_file.with_suffix(".writing")
    temporary.write_bytes(encode(result))
    temporary.replace(result_file)


def _work(order: Order) -> Result:
    plan = order.plan
    try:
        from kedge_services.runtime.artefacts import ArtefactStore
        from kedge_services.runtime.kafka import KafkaBackend
        from kedge_services.trainer.work import carry_out

        settings = order.settings
        backend, store = KafkaBackend(settings), ArtefactStore(settings.artefacts)
        return Result(candidate=carry_out(plan, backend, store, allow=settings.trainer.allow))
    except KedgeError as error:
        _log.warning("training failed", request=plan.request.request_id, because=str(error))
        return Result(failure=str(error), is_final=not isinstance(error, Retry))
    except MemoryError:
        _log.warning("training ran out of memory", request=plan.request.request_id)
        return Result(failure="the training ran out of memory")
    except Exception as error:  # noqa: BLE001 -- whatever it is, the request gets its answer
        _log.exception("training failed", request=plan.request.request_id)
        return Result(failure=f"the training failed with {type(error).__name__}, see the log")


def _cost(wall_s: float) -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # Kilobytes, but bytes on macOS.
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "wall_seconds": round(wall_s, 3),
        "peak_rss_mb": round(usage.ru_maxrss / unit, 1),
    }


def _end_with(parent: int) -> None:
    """End when the parent does, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        # Where the kernel does not do it, and for a parent that was gone already.
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
