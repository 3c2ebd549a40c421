"""Runs a program that must not outlive the process that wanted it.

``python tether.py PARENT SIGNAL PROGRAM ARGUMENT ...`` runs the program and makes
sure that it gets the signal when process PARENT ends, however it ends: a clean
stop cannot be counted on when somebody sends SIGKILL.  On Linux the kernel does
it and this process *becomes* the program (same process id, nothing left in
memory); elsewhere it stays, looks after its parent and passes signals on.

It is started by path with ``-I -S`` and imports the standard library only, so
that it costs some 20 ms.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

__all__ = ["tethered"]

_PR_SET_PDEATHSIG = 1


def tethered(command: Sequence[str], *, on_parent_death: signal.Signals) -> list[str]:
    """Give the command that runs ``command`` tethered to this process.

    On Linux "parent" means the *thread* that starts it: start it from one that
    lives as long as the child should.
    """
    own = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(on_parent_death))]
    return [*own, *command]


def _become(command: Sequence[str], *, parent: int, on_parent_death: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, on_parent_death, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    # The parent may have ended before the request was made: then nobody will signal.
    if os.getppid() != parent:
        sys.exit(1)
    os.execvp(command[0], list(command))  # noqa: S606 -- the whole purpose


def _watch(command: Sequence[str], *, parent: int, on_parent_death: int) -> int:
    with subprocess.Popen(command, close_fds=False) as child:  # noqa: S603
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: child.send_signal(received))
        while child.poll() is None:
            if os.getppid() != parent:
                child.send_signal(on_parent_death)
                return child.wait()
            time.sleep(0.2)
    return child.returncode


def _main(arguments: Sequence[str]) -> int:
    parent, number, *command = arguments
    if sys.platform == "linux":
        _become(command, parent=int(parent), on_parent_death=int(number))
    return _watch(command, parent=int(parent), on_parent_death=int(number))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
