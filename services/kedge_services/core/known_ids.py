"""The ids of predictions without labels, kept for as long as a repetition may come.

Nothing will ever be joined to them, so all there is to know is whether an id has come
before, and 128 bits of hash stand for it (:func:`kedge_services.core.id_texts.hashes_of`).
Ids lie in *generations*, sets of those whose event times lie in the same interval,
which are forgotten whole.  An id is held until the end of its generation plus the grace: a
prediction is a duplicate when one of the same model, version and id came before it, and
neither its event time nor the watermark that stood before it has reached that moment.  So
that a model which falls silent does not hold its ids for ever, a generation is also
forgotten when no record of it was appended for some time; one that comes then begins it anew.

All of this follows from the records alone, wherever batches and commits fall, and every
record counts, duplicate or not: reading again from :attr:`KnownIds.low` brings it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge_services.core.id_sets import IdSet, keys_of
from kedge_services.core.id_texts import Hashes, IdTexts

__all__ = ["Arrived", "KnownIds", "held_ms", "held_until"]

_Ints = NDArray[np.int64]
_SHORTEST_MS: Final = 1_000
_LEAST_HELD_MS: Final = 3_600_000
#: Append times of a partition may go back by a little, when its leader changes.
_UNSURE_MS: Final = 60_000
#: Places of which each of the ids of a batch looks for one of its own.
_SLOTS_AN_ID: Final = 4


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

    ``ids`` are their hashes, ``watermarks_ms`` stood before them, ``appended_ms`` are the
    records' append times.
    """

    ids: Hashes
    times_ms: _Ints
    watermarks_ms: _Ints
    appended_ms: _Ints
    offsets: Sequence[int]

    def part(self, chosen: slice) -> Arrived:
        """Give some of them."""
        return Arrived(
            self.ids[chosen], self.times_ms[chosen], self.watermarks_ms[chosen],
            self.appended_ms[chosen], self.offsets[chosen],
        )  # fmt: skip


class _Key(NamedTuple):
    """A generation: the grace it was made with, and the number of its interval."""

    grace_ms: int
    number: int

    @property
    def until_ms(self) -> int:
        return held_until(self.number * _generation_ms(self.grace_ms), self.grace_ms)


@dataclass(slots=True)
class _Generation:
    ids: IdSet
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
        numbers = arrived.times_ms // _generation_ms(grace_ms)
        if _has_pause(known, grace_ms, arrived, numbers):
            if len(arrived.ids) > 1:
                half = len(arrived.ids) // 2
                parts = arrived.part(slice(0, half)), arrived.part(slice(half, None))
                return np.concatenate([
                    self.take(model, version, grace_ms=grace_ms, arrived=part) for part in parts
                ])  # fmt: skip
            del known[_Key(grace_ms, int(numbers[0]))]
        suspects = _repeated(arrived.ids)
        held: dict[_Key, NDArray[np.bool_]] = {}
        for key, generation in known.items():
            among = generation.ids.among(arrived.ids)
            if among.any():
                held[key] = among
                suspects |= among
        is_new = np.ones(len(arrived.ids), dtype=np.bool_)
        are_new = not suspects.any()
        if not are_new:
            for i in _duplicates(known, held, grace_ms, arrived, numbers, suspects):
                is_new[i] = False
        self.clock_ms = max(self.clock_ms, int(arrived.appended_ms.max()))
        passed_ms = max(int(arrived.watermarks_ms[-1]), int(arrived.times_ms.max()) - grace_ms)
        first, last = int(numbers.min()), int(numbers.max())
        if first == last:
            _add(known, _Key(grace_ms, first), arrived, slice(None), are_new=are_new)
        else:
            order = np.argsort(numbers, kind="stable")
            ends = np.flatnonzero(np.diff(numbers[order])) + 1
            for chosen in np.split(order, ends):
                key = _Key(grace_ms, int(numbers[chosen[0]]))
                if key.until_ms > passed_ms:
                    _add(known, key, arrived, chosen, are_new=are_new)
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
        name = IdTexts.of([prediction_id]).hashes()
        return any(
            key.until_ms > watermark(model) and bool(generation.ids.among(name)[0])
            for (model, _), known in self._versions.items()
            for key, generation in known.items()
        )


def _add(
    known: dict[_Key, _Generation],
    key: _Key,
    arrived: Arrived,
    chosen: _Ints | slice,
    *,
    are_new: bool,
) -> None:
    generation = known.get(key)
    if generation is None:
        expected = max((len(other.ids) for other in known.values()), default=0)
        generation = known[key] = _Generation(IdSet(expected))
    ids = arrived.ids[chosen]
    if are_new:
        generation.ids.add_new(ids)
    else:
        generation.ids.add(ids)
    first = 0 if isinstance(chosen, slice) else int(chosen[0])
    generation.first_offset = min(generation.first_offset, arrived.offsets[first])
    appended_ms = int(arrived.appended_ms[chosen].max())
    generation.appended_ms = max(generation.appended_ms, appended_ms)


def _duplicates(
    known: Mapping[_Key, _Generation],
    held: Mapping[_Key, NDArray[np.bool_]],
    grace_ms: int,
    arrived: Arrived,
    numbers: _Ints,
    suspects: NDArray[np.bool_],
) -> Iterable[int]:
    """Give where the duplicates are among the suspects, in offset order.

    ``held`` says which ids a generation had before.
    """
    here: dict[bytes, list[_Key]] = {}
    places = np.flatnonzero(suspects).tolist()
    for i, name in zip(places, keys_of(arrived.ids[suspects]), strict=True):
        reached_ms = max(int(arrived.times_ms[i]), int(arrived.watermarks_ms[i]))
        before = [key for key, among in held.items() if among[i]]
        mine = here.setdefault(name, [])
        if any(
            reached_ms < key.until_ms
            and _is_recent(key, known.get(key), arrived, numbers == key.number, i)
            for key in (*before, *mine)
        ):
            yield i
        mine.append(_Key(grace_ms, int(numbers[i])))


def _has_pause(
    known: Mapping[_Key, _Generation], grace_ms: int, arrived: Arrived, numbers: _Ints
) -> bool:
    """Say whether the records may make a generation begin anew."""
    last_ms = int(arrived.appended_ms.max()) - held_ms(grace_ms)
    if last_ms >= int(arrived.appended_ms.min()):
        return True
    first, last = int(numbers.min()), int(numbers.max())
    return any(
        key.grace_ms == grace_ms
        and first <= key.number <= last
        and last_ms >= generation.appended_ms
        and bool((numbers == key.number).any())
        for key, generation in known.items()
    )


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


def _repeated(ids: Hashes) -> NDArray[np.bool_]:
    """Say which ids may come more than once: half of their hash does."""
    first = np.ascontiguousarray(ids[:, 0])
    # Nearly all ids have a slot of their own, and need not be sorted.
    slots = 1 << (_SLOTS_AN_ID * first.size).bit_length()
    rows = np.arange(first.size, dtype=np.int32)
    at, owners = (first & np.uint64(slots - 1)).astype(np.int64), np.empty(slots, np.int32)
    owners[at] = rows
    owner = owners.take(at)
    beside = np.flatnonzero(owner != rows)
    ordered = np.sort(first[beside])
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if not again.size and not (first[beside] == first[owner[beside]]).any():
        return np.zeros(first.size, dtype=np.bool_)
    ordered = np.sort(first)
    return np.isin(first, ordered[1:][ordered[1:] == ordered[:-1]])


def _drop(known: dict[_Key, _Generation], keys: Sequence[_Key]) -> None:
    for key in keys:
        del known[key]
