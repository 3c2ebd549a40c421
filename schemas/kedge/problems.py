"""What pydantic found wrong, as fields, expectations and values a person can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pydantic import ValidationError

__all__ = ["Problem", "field_name", "problems", "show"]

Location = tuple[str | int, ...]

#: Pydantic tries every member of a union and appends its name to the location.
_UNION_MEMBERS = {
    ("bool_type", "bool"),
    ("int_type", "int"),
    ("float_type", "float"),
    ("string_type", "str"),
}
_EXPECTED = {
    "missing": "this field is required",
    "extra_forbidden": "no such field",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "list_type": "a list",
    "tuple_type": "a list",
    "string_too_short": "a text that is not empty",
}
_GIVEN_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is, what belongs there, what was found.

    Attributes
    ----------
    location
        Field names and list positions from the outside in; empty for the whole.
    kind
        Pydantic's error type, ``scalar_type`` for a value that no member of a
        union of scalars takes.
    expected
        What belongs there, to be read after "expected"; a sentence of its own
        for the kinds ``missing``, ``extra_forbidden`` and ``value_error``.
    given
        The value found; None for a missing field.
    """

    location: Location
    kind: str
    expected: str
    given: Any

    @property
    def field(self) -> str:
        """Give the location as it is written: ``rules[1].below``."""
        return field_name(self.location)

    @property
    def sentence(self) -> str:
        """Say what was expected, and what was found where that is not obvious."""
        if self.kind == "missing":
            return self.expected
        if self.kind in {"extra_forbidden", "value_error"}:
            return self.expected
        return f"expected {self.expected} (got {show(self.given)})"


def field_name(location: Location) -> str:
    """Write a location.

    >>> field_name(("rules", 1, "below"))
    'rules[1].below'
    """
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def show(value: object) -> str:
    """Write a value short enough for one line.

    >>> show("x" * 100)[-8:]
    "xxxx...'"
    """
    if isinstance(value, dict | list | tuple):
        kind = "an object" if isinstance(value, dict) else "a list"
        return f"{kind} of {len(value)}" if value else f"{kind}, empty"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and len(value) > _GIVEN_LENGTH:
        return repr(value[:_GIVEN_LENGTH] + "...")
    text = repr(value)
    return text if len(text) <= _GIVEN_LENGTH + 5 else text[:_GIVEN_LENGTH] + "..."


def problems(error: ValidationError) -> list[Problem]:
    """Give the mistakes of a validation, one for each place, in order."""
    errors = error.errors(include_url=False)
    return [
        _problem(location, list(group))
        for location, group in groupby(errors, key=lambda item: _location(item, errors))
    ]


def _location(item: Any, errors: Sequence[Any]) -> Location:
    loc: Location = item["loc"]
    if loc and (item["type"], loc[-1]) in _UNION_MEMBERS:
        siblings = sum(other["loc"][:-1] == loc[:-1] for other in errors)
        # Alone it is no union: a field or key that happens to have this name.
        return loc[:-1] if siblings > 1 else loc
    return loc


def _problem(location: Location, group: Sequence[Any]) -> Problem:
    first = group[0]
    kind: str = first["type"]
    given = None if kind == "missing" else first["input"]
    if len(group) > 1:
        kind, expected = "scalar_type", "a number, a text, true or false"
    elif kind == "value_error":
        expected = str(first["ctx"]["error"])
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind]
    else:
        expected = str(first["msg"]).removeprefix("Input should be ").removeprefix("Input should ")
        expected = expected[:1].lower() + expected[1:]
    return Problem(location, kind, expected, given)
