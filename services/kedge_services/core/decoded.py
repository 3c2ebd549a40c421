"""Decoded predictions of a batch, and the columns that are needed of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kedge.errors import DeadLetter
from kedge_services.core.id_texts import IdTexts

if TYPE_CHECKING:
    from kedge_services.core.decoding import PredictionRow

__all__ = ["Decoded"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of the values of a batch.

    Attributes
    ----------
    rows
        By position: a row, or why there is none.
    kinds
        The types of these.
    at, good
        Where there are rows, and these.
    ids, texts, versions
        Of the rows: prediction ids, the same as bytes, and versions.
    """

    rows: Sequence[PredictionRow | DeadLetter]
    kinds: frozenset[type]
    at: Sequence[int]
    good: Sequence[PredictionRow]
    ids: list[str]
    texts: IdTexts
    versions: list[str]

    @classmethod
    def of(cls, rows: Sequence[PredictionRow | DeadLetter]) -> Decoded:
        """Look at rows."""
        kinds = frozenset(map(type, rows))
        at: Sequence[int] = range(len(rows))
        if any(issubclass(kind, DeadLetter) for kind in kinds):
            at = [i for i in at if not isinstance(rows[i], DeadLetter)]
        good: Sequence[PredictionRow] = rows if len(at) == len(rows) else [rows[i] for i in at]  # type: ignore[assignment,misc]
        ids = [row.prediction_id for row in good]
        return cls(rows, kinds, at, good, ids, IdTexts.of(ids), [row.version for row in good])

    def have_names(self) -> bool:
        """Say whether no id and no version is empty or too long for a name."""
        versions = self.versions
        # Mostly it is one: to compare it is quicker than to look for others.
        if versions and versions.count(versions[0]) == len(versions):
            versions = versions[:1]
        return self.texts.are_names(self.ids) and IdTexts.of(versions).are_names(versions)
