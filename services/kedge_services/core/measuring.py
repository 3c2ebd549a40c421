"""Making measures by the thousand: a pane of 500 features has 16,000 over four scales."""

from __future__ import annotations

from kedge import Measure

__all__ = ["trusted_measure"]

_FIELDS = set(Measure.model_fields)


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
