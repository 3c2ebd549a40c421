"""Events of records, be they one JSON event or a batch of many."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from kedge.batch_layout import is_batch
from kedge.errors import DeadLetter
from kedge_services.runtime.ports import Headers

__all__ = ["Events", "events_of"]


class Events(NamedTuple):
    """What a record holds.

    Attributes
    ----------
    number
        Of its rows, or 1.
    values
        JSON events; of a batch those of its good rows.
    """

    number: int
    values: Sequence[bytes]


def events_of(value: bytes | None, headers: Headers, declared: Collection[str] = ()) -> Events:
    """Give the events of a record; a batch that is wrong as a whole has none.

    Parameters
    ----------
    declared
        Columns that a monitor declares: of a type that nobody can read they put a batch aside.
    """
    if not is_batch(headers):
        return Events(1, (value or b"",))
    from kedge_services.panes.arrow import ArrowReader
    from kedge_services.panes.arrow_rows import ArrowRows

    try:
        layout, rows, _ = ArrowReader().open(value)
    except DeadLetter:
        return Events(1, ())
    if not layout.unreadable.keys().isdisjoint(declared):
        return Events(1, ())
    return Events(rows.num_rows, ArrowRows.of(layout, [rows]).events())
