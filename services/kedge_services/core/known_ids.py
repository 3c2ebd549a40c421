"""The ids of predictions without labels, kept for as long as a repetition may come.

Nothing will ever be joined to them, so all there is to know is whether an id has come
before.  Ids lie in *generations*, sets of those whose event times lie in the same interval,
which are forgotten whole.  An id is held until the end of its generation plus the grace: a
prediction is a duplicate when one of the same model, version and id came before it, and
neither its event time nor the watermark that stood before it has reached that moment.  So
that a model which falls silent does not hold its ids for ever, they are also forgotten some
time after the last record of their generation was appended.

All of this follows from the records alone, wherever batches and commits fall, and every
record counts, duplicate or not: reading again from :attr:`KnownIds.low` brings it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrived", "KnownIds", "held_ms", "held_until"]

_Ints = NDArray[np.int64]
_SHORTEST_MS: Final = 1_000
_LEAST_HELD_MS: Final = 3_600_000
#: Append times of a partition may go back by a little, when its leader changes.
_UNSURE_MS: Final = 60_000


def _generation_ms(grace_ms: int) -> int:
    return max(_SHORTEST_MS, 2 * grace_ms)


def held_until(time_ms: int, grace_ms: int) -> int:
    """Give until when in event time the id of a prediction is held.

    >>> held_until(25_000, 5_000), held_until(30_000, 5_000)
    (35000, 45000)
    """
    length_ms = _generation_ms(grace_ms)
    return (time_ms // length_ms + 1) * length_ms + grace_ms


def held_ms(grace_ms: int) -> int:
    """Give how long in append time ids are held after the last of their generation."""
    return max(_LEAST_HELD_MS, 4 * _generation_ms(grace_ms))


class Arrived(NamedTuple):
    """Predictions of one version, in offset order, as columns.

    ``watermarks_ms`` stood before them, ``appended_ms`` are the records' append times.
    """

    ids: Sequence[str]
    times_ms: _Ints
    watermarks_ms: _Ints
    appended_ms: _Ints
    offsets: Sequence[int]


class _Key(NamedTuple):
    """A generation: the grace it was made with, and the number of its interval."""

    grace_ms: int
    number: int

    @property
    def until_ms(self) -> int:
        return held_until(self.number * _generation_ms(self.grace_ms), self.grace_ms)


@dataclass(slots=True)
class _Generation:
    ids: set[str] = field(default_factory=set)
    first_offset: int = 1 << 62
    appended_ms: int = 0


@dataclass(slots=True)
class KnownIds:
    """The ids of all models without labels in one partition."""

    clock_ms: int = 0
    _versions: dict[tuple[str, str], dict[_Key, _Generation]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Give the number of ids that are held."""
        return sum(len(g.ids) for known in self._versions.values() for g in known.values())

    @property
    def low(self) -> int | None:
        """The smallest offset that has to be read again to have them all; None for none."""
        firsts = (g.first_offset for known in self._versions.values() for g in known.values())
        return min(firsts, default=None)

    def take(
        self, model: str, version: str, *, grace_ms: int, arrived: Arrived
    ) -> NDArray[np.bool_]:
        """Take predictions of a version; say which of them are no duplicates."""
        known = self._versions.setdefault((model, version), {})
        unique = set(arrived.ids)
        suspects: set[str] = set()
        if len(unique) < len(arrived.ids):
            suspects = _repeated(arrived.ids)
        for generation in known.values():
            if not generation.ids.isdisjoint(unique):
                suspects |= generation.ids & unique
        numbers = arrived.times_ms // _generation_ms(grace_ms)
        is_new = np.ones(len(arrived.ids), dtype=np.bool_)
        if suspects:
            for i in self._duplicates(known, grace_ms, arrived, numbers, suspects):
                is_new[i] = False
        self.clock_ms = max(self.clock_ms, int(arrived.appended_ms.max()))
        passed_ms = max(int(arrived.watermarks_ms[-1]), int(arrived.times_ms.max()) - grace_ms)
        first, last = int(numbers.min()), int(numbers.max())
        if first == last:
            self._add(known, _Key(grace_ms, first), unique, arrived, slice(None))
        else:
            order = np.argsort(numbers, kind="stable")
            ends = np.flatnonzero(np.diff(numbers[order])) + 1
            for chosen in np.split(order, ends):
                key = _Key(grace_ms, int(numbers[chosen[0]]))
                if key.until_ms > passed_ms:
                    self._add(known, key, [arrived.ids[i] for i in chosen], arrived, chosen)
        _drop(known, [key for key in known if key.until_ms <= passed_ms])
        return is_new

    def forget(self, watermark: Callable[[str], int]) -> None:
        """Drop the generations that no prediction can be a duplicate of any more.

        Parameters
        ----------
        watermark
            Gives the watermark of a model's predictions.
        """
        for (model, version), known in list(self._versions.items()):
            passed_ms = watermark(model)
            _drop(
                known,
                [
                    key
                    for key, generation in known.items()
                    if key.until_ms <= passed_ms
                    or self.clock_ms > generation.appended_ms + held_ms(key.grace_ms) + _UNSURE_MS
                ],
            )
            if not known:
                del self._versions[model, version]

    def holds(self, prediction_id: str, watermark: Callable[[str], int]) -> bool:
        """Say whether a prediction of this id is still held."""
        return any(
            key.until_ms > watermark(model)
            for (model, _), known in self._versions.items()
            for key, generation in known.items()
            if prediction_id in generation.ids
        )

    def _add(
        self,
        known: dict[_Key, _Generation],
        key: _Key,
        ids: Iterable[str],
        arrived: Arrived,
        chosen: _Ints | slice,
    ) -> None:
        generation = known.get(key)
        if generation is None:
            generation = known[key] = _Generation()
        generation.ids.update(ids)
        first = 0 if isinstance(chosen, slice) else int(chosen[0])
        generation.first_offset = min(generation.first_offset, arrived.offsets[first])
        appended_ms = int(arrived.appended_ms[chosen].max())
        generation.appended_ms = max(generation.appended_ms, appended_ms)

    def _duplicates(
        self,
        known: dict[_Key, _Generation],
        grace_ms: int,
        arrived: Arrived,
        numbers: _Ints,
        suspects: set[str],
    ) -> Iterable[int]:
        """Give where the duplicates are among the suspects, in offset order."""
        here: dict[str, list[_Key]] = {}
        for i, name in enumerate(arrived.ids):
            if name not in suspects:
                continue
            reached_ms = max(int(arrived.times_ms[i]), int(arrived.watermarks_ms[i]))
            before = [key for key, generation in known.items() if name in generation.ids]
            mine = here.setdefault(name, [])
            if any(
                reached_ms < key.until_ms
                and _is_recent(key, known.get(key), arrived, numbers == key.number, i)
                for key in (*before, *mine)
            ):
                yield i
            mine.append(_Key(grace_ms, int(numbers[i])))


def _is_recent(
    key: _Key,
    generation: _Generation | None,
    arrived: Arrived,
    inside: NDArray[np.bool_],
    i: int,
) -> bool:
    """Say whether ids of a generation are still held when record ``i`` is appended."""
    last_ms = int(arrived.appended_ms[i]) - held_ms(key.grace_ms)
    if generation is not None and last_ms < generation.appended_ms:
        return True
    beside = arrived.appended_ms[:i][inside[:i]]
    return bool(beside.size) and last_ms < int(beside.max())


def _repeated(ids: Sequence[str]) -> set[str]:
    """Give the ids that come more than once."""
    seen: set[str] = set()
    again: set[str] = set()
    for name in ids:
        (again if name in seen else seen).add(name)
    return again


def _drop(known: dict[_Key, _Generation], keys: Sequence[_Key]) -> None:
    for key in keys:
        del known[key]
