"""What many predictions of the join have in common, stored once.

An entry in the store names its kind by number; what is left of a prediction are a few
numbers.  The kinds of a store lie in what it says of itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from msgspec import Struct

__all__ = ["Kind", "Kinds", "Shape"]


class Kind(Struct, array_like=True, gc=False, frozen=True):
    """All of a :class:`kedge_services.core.entries.Held` but its numbers.

    Attributes
    ----------
    features
        Names of the features that are kept.
    numeric
        Positions of those that are numbers or missing in every row of the kind.
    is_value
        Whether a row's number is the predicted value (regression), not a score.
    has_number
        Whether rows have that number.
    predicted
        The predicted class as it is compared.
    output
        Whether the output is there and made of ``label`` and the number alone; in the
        ``tail`` a row carries it itself.
    """

    model: str
    version: str
    champion: bool
    horizon_ms: int
    wait_ms: int
    pane_ms: int
    cell_ms: int
    reference_id: str
    positive: str
    features: tuple[str, ...]
    numeric: tuple[int, ...]
    is_value: bool
    has_number: bool
    predicted: str | None
    output: Literal["none", "plain", "tail"]
    label: bool | int | float | str | None = None


@dataclass(slots=True)
class Shape:
    """A kind, and what is derived from it.

    Attributes
    ----------
    struct
        Encodes to the features of an example; its fields are in the order of their names.
    outputs
        Encodes to the outputs of an example: the only field is named like the version.
    others
        Positions of the features that are no numbers.
    """

    number: int
    kind: Kind
    struct: type[Any] = field(init=False)
    outputs: type[Any] = field(init=False)
    others: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = self.kind.features
        self.struct = msgspec.defstruct(
            "Features",
            [(f"f{i}", Any, msgspec.field(name=name)) for i, name in enumerate(names)],
            gc=False,
            frozen=True,
        )
        name = msgspec.field(name=self.kind.version)
        self.outputs = msgspec.defstruct("Outputs", [("output", Any, name)], gc=False, frozen=True)
        self.others = tuple(sorted(set(range(len(names))) - set(self.kind.numeric)))


class Kinds:
    """The kinds of a store by number.

    Parameters
    ----------
    known
        What the store has already.
    """

    __slots__ = ("_encoded", "_numbers", "_shapes")

    def __init__(self, known: Mapping[int, Kind] | None = None) -> None:
        self._shapes = {number: Shape(number, kind) for number, kind in (known or {}).items()}
        self._numbers = {_key(shape.kind): shape for shape in self._shapes.values()}
        self._encoded: msgspec.Raw | None = None

    def __getitem__(self, number: int) -> Shape:
        """Give the kind of this number."""
        return self._shapes[number]

    def of(self, kind: Kind) -> Shape:
        """Give a kind its number, or the one it has already."""
        key = _key(kind)
        shape = self._numbers.get(key)
        if shape is None:
            number = max(self._shapes, default=0) + 1
            shape = self._shapes[number] = self._numbers[key] = Shape(number, kind)
            self._encoded = None
        return shape

    def keep(self, used: Iterable[int]) -> None:
        """Forget all others."""
        gone = self._shapes.keys() - set(used)
        for number in gone:
            del self._numbers[_key(self._shapes.pop(number).kind)]
        if gone:
            self._encoded = None

    def encode(self) -> msgspec.Raw:
        """Give all of them by number, as JSON."""
        if self._encoded is None:
            kinds = {number: shape.kind for number, shape in self._shapes.items()}
            self._encoded = msgspec.Raw(msgspec.json.encode(kinds))
        return self._encoded


def _key(kind: Kind) -> bytes:
    # As JSON, true and 1 and 1.0 differ.
    return msgspec.json.encode(kind)
