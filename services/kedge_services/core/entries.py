"""What the join holds of one prediction id, and what follows from it.

Everything here is a function of an :class:`Entry`, the set of predictions and
labels that came under an id.  What a record adds to a pane is the difference
between what follows from the entry after it and before it, so the sum depends
only on the records themselves: not on their order between the two topics, not
on batches and commits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct

from kedge.base import label_text

__all__ = [
    "MAX_LABELS",
    "NOTHING",
    "Entry",
    "Held",
    "LabelState",
    "Labelled",
    "Pair",
    "champion_of",
    "decode_entry",
    "encode_entry",
    "id_state",
    "is_nothing",
    "label_state",
    "matches",
    "pairs",
]

#: An empty JSON object.
NOTHING = Raw(b"{}")
#: Labels kept for one id; an id whose label changes more often is not believed.
MAX_LABELS = 64


class Held(Struct, array_like=True, gc=False):
    """A prediction in the join, with what its monitor and reference said when it was read.

    ``predicted`` is the label's text, for regression the value; ``output`` and
    ``features`` are JSON as examples carry it, :data:`NOTHING` for the features
    of a shadow beside its champion.  ``pane_ms`` and ``cell_ms`` are the lengths of
    its performance pane and its cells.  ``score`` is that of the ``positive`` class,
    or, where that is empty, of the top class.
    """

    model: str
    version: str
    champion: bool
    time_ms: int
    offset: int
    horizon_ms: int
    wait_ms: int
    pane_ms: int
    cell_ms: int
    reference_id: str = ""
    predicted: str | float | None = None
    output: Raw = NOTHING
    features: Raw = NOTHING
    segments: dict[str, bool | int | float | str] = {}
    score: float | None = None
    positive: str = ""

    @property
    def span_ms(self) -> int:
        """How long after its event time it may matter: to labels, or only to duplicates."""
        return max(self.horizon_ms, 0) + self.wait_ms

    @property
    def until_ms(self) -> int:
        """It is no longer needed once both watermarks are beyond this."""
        return self.time_ms + self.span_ms


class Labelled(Struct, array_like=True, gc=False):
    """A label in the join; it belongs to these models, for None to all that have the id."""

    offset: int
    time_ms: int
    label: bool | int | float | str
    models: list[str] | None = None

    @property
    def text(self) -> str:
        """The label as it is compared."""
        label = self.label
        return label if type(label) is str else label_text(label)


class Entry(Struct, array_like=True, gc=False, frozen=True):
    """All that is held of one prediction id, in offset order.

    Tuples, as the garbage collector soon leaves tuples of structs alone.
    """

    predictions: tuple[Held, ...] = ()
    labels: tuple[Labelled, ...] = ()


class LabelState(NamedTuple):
    """What the labels of a prediction say, taken in offset order.

    The highest (event time, offset) wins.  ``first`` is the first label,
    ``current`` the one that brought the present text, ``best`` the one a new
    label has to beat, ``changes`` how often the text changed.
    """

    first: Labelled
    current: Labelled
    best: Labelled
    changes: int


def matches(held: Held, labelled: Labelled) -> bool:
    """Say whether the two are a pair: a function of these two records alone.

    ``-outcome_wait <= outcome time - prediction time < label_horizon``.
    """
    models = labelled.models
    return -held.wait_ms <= labelled.time_ms - held.time_ms < held.horizon_ms and (
        models is None or held.model in models
    )


def label_state(held: Held, labels: Sequence[Labelled]) -> LabelState | None:
    """Fold the labels that match a prediction; None when none does."""
    return _fold([labelled for labelled in labels if matches(held, labelled)])


def id_state(predictions: Sequence[Held], labels: Sequence[Labelled]) -> LabelState | None:
    """Fold the labels that match any of these predictions of one id: what its example says."""
    return _fold([o for o in labels if any(matches(held, o) for held in predictions)])


def _fold(labels: Sequence[Labelled]) -> LabelState | None:
    state: LabelState | None = None
    for labelled in labels:
        if state is None:
            state = LabelState(labelled, labelled, labelled, 0)
        elif labelled.time_ms >= state.best.time_ms:
            if labelled.text == state.current.text:
                state = state._replace(best=labelled)
            else:
                state = LabelState(state.first, labelled, labelled, state.changes + 1)
    return state


def champion_of(predictions: Sequence[Held], model: str) -> Held | None:
    """Give the first champion by offset; predictions are in offset order."""
    for held in predictions:
        if held.champion and held.model == model:
            return held
    return None


class Pair(NamedTuple):
    """A champion's and a shadow's prediction of the same id."""

    champion: Held
    shadow: Held


def pairs(predictions: Sequence[Held], model: str) -> Iterator[tuple[int, int]]:
    """Give where the champion of an id is and where the first of each shadow version is."""
    champion = champion_of(predictions, model)
    if champion is None:
        return
    at = next(i for i, held in enumerate(predictions) if held is champion)
    seen = {champion.version}
    for i, held in enumerate(predictions):
        if held.model == model and not held.champion and held.version not in seen:
            seen.add(held.version)
            yield at, i


def is_nothing(json: Raw) -> bool:
    """Say whether this is :data:`NOTHING`, also when it was read from a store."""
    return memoryview(json).nbytes == 2


# JSON, not MessagePack: labels and segments may be integers of any size.
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)


def encode_entry(entry: Entry) -> bytes:
    """Give an entry as it lies in the store."""
    return _encoder.encode(entry)


def decode_entry(data: bytes) -> Entry:
    """Read what :func:`encode_entry` gave."""
    return _decoder.decode(data)
