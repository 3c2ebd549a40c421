"""How rarely we look for garbage cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["rare_collections"]


@contextmanager
def rare_collections() -> Iterator[None]:
    """Look for garbage cycles rarely, and never in what is there already.

    A poll makes ten thousand objects that the collector follows, and every one
    is freed by its count a moment later.  At Python's threshold of 700 each is
    looked at several times before that: a third of what reading costs.  Cycles are
    still found, as what is not freed adds up.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(200_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
