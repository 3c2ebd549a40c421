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
    at, good
        Where there are rows, and these.
    kinds
        The types of the rows.
    ids, texts, versions
        Of the rows: prediction ids, the same as bytes, and versions.
    """

    rows: Sequence[PredictionRow | DeadLetter]
    at: Sequence[int]
    good: Sequence[PredictionRow]
    kinds: frozenset[type]
    ids: list[str]
    texts: IdTexts
    versions: list[str]

    @classmethod
    def of(cls, rows: Sequence[PredictionRow | DeadLetter]) -> Decoded:
        """Look at rows."""
        kinds = frozenset(map(type, rows))
        at: Sequence[int] = range(len(rows))
        letters = {kind for kind in kinds if issubclass(kind, DeadLetter)}
        if letters:
            at = [i for i, row in enumerate(rows) if type(row) not in letters]
        good: Sequence[PredictionRow] = rows if len(at) == len(rows) else [rows[i] for i in at]  # type: ignore[assignment,misc]
        ids = [row.prediction_id for row in good]
        versions = [row.version for row in good]
        return cls(rows, at, good, kinds - letters, ids, IdTexts.of(ids), versions)

    def have_names(self) -> bool:
        """Say whether no id and no version is empty or too long for a name."""
        versions = self.versions
        # Mostly it is one: to compare it is quicker than to look for others.
        if versions and versions.count(versions[0]) == len(versions):
            versions = versions[:1]
        return self.texts.are_names(self.ids) and IdTexts.of(versions).are_names(versions)
