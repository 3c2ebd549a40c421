"""The topic dead-letters: read from end to end, and sent back from, each letter once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice

from kedge.errors import BrokerUnavailable, Fenced, Retry, UsageError
from kedge_services.local.letters import (
    Book,
    Letter,
    Note,
    Place,
    Wanted,
    back,
    note_of,
    read_letter,
    read_note,
    why_not,
)
from kedge_services.runtime.dead_letters import TOPIC
from kedge_services.runtime.ports import Backend, Producer, Record, TopicPartition
from kedge_services.runtime.reading import RangeReader

__all__ = ["LetterBox", "SendingBack"]

#: Everybody who sends back has this transactional id, so that there is one at a time.
_SENDER = "dead-letters-resend"
_BATCH = 500
_BATCH_BYTES = 8 * 1024 * 1024
#: Longer than a dead process can hold the last stable offset back.
_STILL_S = 30.0


class LetterBox:
    """Reads dead letters, outside any group."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def book(self, wanted: Wanted) -> Book:
        """Read all letters there are now and group those that are meant."""
        book = Book(wanted)
        for record in self.records():
            book.take(record)
        return book

    def find(self, place: Place) -> tuple[Letter, list[Note]]:
        """Give a letter and what is noted about its sending back.

        Raises
        ------
        UsageError
            There is none at this place.
        """
        partitions = self._backend.partitions(TOPIC)
        if place.partition >= partitions:
            raise UsageError(
                f"no dead letter at {place}: dead-letters has the partitions 0 to {partitions - 1}"
            )
        letter: Letter | None = None
        notes = []
        for record in self.records(place):
            if record.offset == place.offset:
                letter = read_letter(record)
            elif (note := read_note(record)) is not None and note.place == place:
                notes.append(note)
        if letter is None:
            raise UsageError(f"no dead letter at {place}; see `kedge dead-letters list`")
        return letter, notes

    def records(self, begin: Place | None = None) -> Iterator[Record]:
        """Go through what is there now, by partition in order; from a place: its partition.

        Raises
        ------
        BrokerUnavailable
            The end is not reached, because nothing comes any more.
        """
        partitions = range(self._backend.partitions(TOPIC)) if begin is None else [begin.partition]
        places = [TopicPartition(TOPIC, partition) for partition in partitions]
        with closing(self._backend.consumer(group=None)) as asked:
            bounds = {place: asked.bounds(place) for place in places}
        with closing(RangeReader(self._backend)) as reader:
            for place, (low, end) in bounds.items():
                reader.add(place, low if begin is None else max(low, begin.offset), end)
            still = time.monotonic()
            while not all(map(reader.is_done, places)):
                for batch in reader.poll(1_000, 0.02):
                    still = time.monotonic()
                    yield from batch.records()
                if time.monotonic() - still > _STILL_S:
                    raise BrokerUnavailable(
                        f"dead-letters could not be read to the end: nothing came for "
                        f"{_STILL_S:.0f} s"
                    )


class SendingBack:
    """One run of sending back; make it before looking, as it shuts out all others.

    A letter and the note that it was sent back are one transaction, and who
    looked before another one sent can send no more: no letter goes twice
    unless that is asked for.

    Parameters
    ----------
    backend
        Where the letters are.
    by
        Who sends, for the notes.
    """

    def __init__(self, backend: Backend, by: str) -> None:
        self._backend = backend
        self._by = by
        self._producer: Producer = backend.producer(_SENDER)

    def send(self, book: Book, *, again: bool = False, limit: int | None = None) -> Counter[str]:
        """Send back the letters of a book; give their number by topic.

        Parameters
        ----------
        book
            Read after this was made.
        again
            Also those that were sent back before.
        limit
            Send no more than this.

        Raises
        ------
        Retry
            Not everything was sent; the message says how much was.
        """
        sent: Counter[str] = Counter()
        batch: list[Letter] = []
        size = 0
        for letter in islice(self._chosen(book, again=again), limit):
            batch.append(letter)
            size += len(letter.value or b"")
            if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                self._commit(batch, sent)
                batch, size = [], 0
        if batch:
            self._commit(batch, sent)
        return sent

    def close(self) -> None:
        """Let others send."""
        self._producer.close()

    def _chosen(self, book: Book, *, again: bool) -> Iterator[Letter]:
        for record in LetterBox(self._backend).records():
            letter = read_letter(record)
            if letter is None or letter.place not in book or why_not(letter.topic) is not None:
                continue
            if again or letter.place not in book.resent:
                yield letter

    def _commit(self, letters: Sequence[Letter], sent: Counter[str]) -> None:
        so_far = f"{sent.total():,} were sent back before that, and are noted as such"
        try:
            self._producer.begin()
            for letter in letters:
                self._producer.produce(back(letter, self._backend.partitions))
                self._producer.produce(note_of(letter, self._by))
            self._producer.commit()
        except Fenced as error:
            raise Retry(f"somebody else began to send back; {so_far}") from error
        except Retry as error:
            raise Retry(f"Kafka took no more ({error}); {so_far}") from error
        sent.update(letter.topic for letter in letters)
