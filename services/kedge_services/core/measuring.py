"""Measures as text: a pane of 500 features has 16,000 of them over four scales.

What a measure is called and which feature it is of is known beforehand; only its numbers
change.  So numbers are written in one go, and put between pieces of text that stay.  The
text is that of :class:`kedge.Measure` on Kafka, byte for byte.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence

import msgspec

from kedge import Measure

__all__ = ["as_json", "head", "measures_of", "measures_text", "numbers", "trusted_measure"]

_FIELDS = set(Measure.model_fields)
_encode = msgspec.json.Encoder().encode
#: Large exponents have a sign on Kafka.
_EXPONENT = re.compile(rb"e(?=\d)")
_LARGE = 1e16


def trusted_measure(
    name: str,
    feature: str | None,
    value: float | None,
    n: int,
    *,
    low: float | None = None,
    high: float | None = None,
    threshold: float | None = None,
    evidence: float | None = None,
    note: str | None = None,
) -> Measure:
    """Give a measure without checking its fields, which have to be of their types.

    It takes half the time of ``Measure(...)`` and a tenth of ``Measure.model_construct``, whose
    four assignments these are.
    """
    made = Measure.__new__(Measure)
    fields = {
        "name": name,
        "feature": feature,
        "value": value,
        "low": low,
        "high": high,
        "n": n,
        "threshold": threshold,
        "evidence": evidence,
        "note": note,
    }
    object.__setattr__(made, "__dict__", fields)
    object.__setattr__(made, "__pydantic_fields_set__", _FIELDS)
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made


def numbers(values: Sequence[float]) -> list[bytes]:
    """Write numbers as they stand on Kafka; whole ones of type int without a point.

    >>> numbers([1, 0.5, 1e300, math.inf])
    [b'1', b'0.5', b'1e+300', b'Infinity']
    """
    if not values:
        return []
    text = _encode(values)[1:-1]
    if b"e" in text:
        text = _EXPONENT.sub(b"e+", text)
    found = text.split(b",")
    if b"n" in text:
        for i, value in enumerate(values):
            if not math.isfinite(value):
                found[i] = _constant(value)
    return found


def _constant(value: float) -> bytes:
    if math.isnan(value):
        return b"NaN"
    return b"Infinity" if value > 0 else b"-Infinity"


def as_json(text: str) -> bytes:
    """Write a text."""
    return _encode(text)


def head(name: str, feature: str | None) -> bytes:
    """Give the beginning of a measure, up to its first number's name.

    >>> head("psi", "amount")
    b'{"name":"psi","feature":"amount"'
    """
    of = b"" if feature is None else b',"feature":' + _encode(feature)
    return b'{"name":' + _encode(name) + of


def measures_text(measures: Iterable[Measure]) -> bytes:
    """Write measures one after the other, with a comma between two."""
    return b",".join(map(_text, measures))


def _text(measure: Measure) -> bytes:
    fields = {name: value for name, value in measure.__dict__.items() if value is not None}
    if any(isinstance(value, float) and not abs(value) < _LARGE for value in fields.values()):
        return measure.model_dump_json(exclude_none=True).encode()
    return _encode(fields)


def measures_of(text: bytes) -> list[Measure]:
    """Read what :func:`measures_text` gave.

    >>> measures_of(measures_text([Measure(name="mae", value=0.5, n=3)]))
    [Measure(name='mae', feature=None, value=0.5, low=None, high=None, n=3, threshold=None, \
evidence=None, note=None)]
    """
    return [Measure.model_validate(fields) for fields in json.loads(b"[" + text + b"]")]
