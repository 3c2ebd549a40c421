"""Outcomes that are the first label of the only prediction of their id, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedge.base import Scalar, label_text
from kedge_services.core.book import Book, Placed
from kedge_services.core.kinds import Kinds, Shape
from kedge_services.core.label_folding import LabelFold, Rows
from kedge_services.core.lanes import in_segments, spans
from kedge_services.core.packing import HEAD_BYTES, decode_tail, heads, pack_labels

__all__ = ["FirstExamples", "FirstLabels"]

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


class FirstExamples(NamedTuple):
    """Predictions of one kind, packed, each with its first label.

    Times and numbers are those of the predictions, but for ``label_times_ms``.
    """

    shape: Shape
    prediction_ids: list[str]
    values: list[bytes]
    labels: list[Scalar]
    times_ms: list[int]
    label_times_ms: list[int]
    numbers: list[float]
    has_tails: bool


@dataclass(slots=True)
class FirstLabels:
    """Outcomes and the packed entries of their ids, of which none has a label.

    Attributes
    ----------
    at
        int64, positions of the outcomes in their batch, ascending.
    shapes, which
        The kinds of the predictions, and for each its position there.
    times_ms, numbers
        Of the predictions; numbers that are not there are NaN.
    label_times_ms
        int64, of the outcomes.
    tails
        int64, bytes of the predictions' tails.
    """

    at: _Ints
    shapes: list[Shape]
    which: _Ints
    times_ms: _Ints
    numbers: _Floats
    label_times_ms: _Ints
    tails: _Ints

    @classmethod
    def of(
        cls, found: Sequence[Placed | None], kinds: Kinds, *, at: _Ints, label_times_ms: _Ints
    ) -> FirstLabels:
        """Read the entries that are packed and have no label yet.

        Parameters
        ----------
        found
            The entries of the outcomes' ids.
        kinds
            Those of the store.
        at, label_times_ms
            Of the outcomes.
        """
        values = [None if placed is None else placed[1] for placed in found]
        head = heads(values)
        used, which = np.unique(head.kinds, return_inverse=True)
        shapes = [kinds[number] for number in used.tolist()]
        widths = np.array([8 * len(shape.kind.numeric) for shape in shapes], dtype=np.int64)
        sizes = np.fromiter(
            (len(values[i] or b"") for i in head.at.tolist()), np.int64, head.at.size
        )
        is_first = sizes == HEAD_BYTES + widths[which] + head.tails
        chosen = head.at[is_first]
        return cls(
            at[chosen],
            shapes,
            which[is_first],
            head.times_ms[is_first],
            head.numbers[is_first],
            label_times_ms[chosen],
            head.tails[is_first],
        )

    def __len__(self) -> int:
        """Give their number."""
        return self.at.size

    def only(self, kept: NDArray[np.bool_]) -> FirstLabels:
        """Give some of them."""
        if kept.all():
            return self
        return FirstLabels(
            self.at[kept], self.shapes, self.which[kept], self.times_ms[kept],
            self.numbers[kept], self.label_times_ms[kept], self.tails[kept],
        )  # fmt: skip

    def by_kind(self, values: Sequence[int]) -> _Ints:
        """Give for each of them the value of its kind."""
        return np.array(values, dtype=np.int64)[self.which]

    def matching(self, belongs: NDArray[np.bool_]) -> FirstLabels:
        """Give those that are a pair, see :func:`kedge_services.core.entries.matches`.

        Parameters
        ----------
        belongs
            Of each, whether the label may be one of its prediction's model.
        """
        delays = self.label_times_ms - self.times_ms
        kinds = [shape.kind for shape in self.shapes]
        waits = self.by_kind([kind.wait_ms for kind in kinds])
        horizons = self.by_kind([kind.horizon_ms for kind in kinds])
        return self.only(belongs & (-waits <= delays) & (delays < horizons))

    def store(
        self,
        book: Book,
        names: Sequence[str],
        found: Sequence[Placed],
        labels: Sequence[tuple[int, int, Scalar, list[str] | None]],
    ) -> None:
        """Put the labels into the entries.

        Parameters
        ----------
        book
            Where these are.
        names, found, labels
            Of each its id, its entry and the label as it is stored.
        """
        ends = pack_labels(labels)
        now = [(segment, value + end) for (segment, value), end in zip(found, ends, strict=True)]
        book.label(names, now, [label[0] for label in labels])

    def fold(
        self,
        fold: LabelFold,
        found: Sequence[Placed],
        labels: Sequence[Scalar],
        codes: _Ints,
        closed_ms: _Ints,
    ) -> None:
        """Count the labels in panes and cells.

        Parameters
        ----------
        fold
            Counts.
        found, labels
            Of each its entry and its label.
        codes
            int64, equal where the label is the same.
        closed_ms
            int64, up to where cells are closed, for each as it was before it.
        """
        kinds = [shape.kind for shape in self.shapes]
        is_value = np.array([kind.is_value for kind in kinds], dtype=np.bool_)[self.which]
        codes = np.where(is_value, 0, codes)
        values = np.zeros(len(self))
        for i in np.flatnonzero(is_value).tolist():
            values[i] = float(labels[i])
        starts = self.times_ms - self.times_ms % self.by_kind([kind.pane_ms for kind in kinds])
        for at in spans(starts, codes, self.which):
            fold.many_labelled(self._rows(at, labels, values), "", int(starts[at[0]]))
        for text, of_segment in in_segments(self._segments(found)):
            for part in spans(starts[of_segment], codes[of_segment], self.which[of_segment]):
                at = of_segment[part]
                fold.many_labelled(self._rows(at, labels, values), text, int(starts[at[0]]))
        answered = np.array(
            [kind.has_number if kind.is_value else kind.predicted is not None for kind in kinds]
        )[self.which]
        cells = self.by_kind([kind.cell_ms for kind in kinds])
        times = np.maximum(self.times_ms, self.label_times_ms)
        starts = times - times % cells
        is_open = starts + cells > closed_ms
        fold.after_cell += int((answered & ~is_open).sum())
        counted = np.flatnonzero(answered & is_open)
        for part in spans(starts[counted], codes[counted], self.which[counted]):
            at = counted[part]
            fold.many_first(self._rows(at, labels, values), int(starts[at[0]]))

    def examples(
        self, names: Sequence[str], found: Sequence[Placed], labels: Sequence[Scalar]
    ) -> list[FirstExamples]:
        """Give the examples that follow, kind by kind."""
        parts = []
        for at in spans(self.which):
            rows = at.tolist()
            parts.append(
                FirstExamples(
                    self.shapes[self.which[at[0]]],
                    [names[i] for i in rows],
                    [found[i][1] for i in rows],
                    [labels[i] for i in rows],
                    self.times_ms[at].tolist(),
                    self.label_times_ms[at].tolist(),
                    self.numbers[at].tolist(),
                    bool(self.tails[at].any()),
                )
            )
        return parts

    def _rows(self, at: _Ints, labels: Sequence[Scalar], values: _Floats) -> Rows:
        kind = self.shapes[self.which[at[0]]].kind
        if kind.is_value:
            return Rows(kind, self.numbers[at], labels=values[at])
        label = labels[at[0]]
        text = label if type(label) is str else label_text(label)
        return Rows(kind, self.numbers[at], text)

    def _segments(self, found: Sequence[Placed]) -> list[dict[str, Scalar]]:
        """Give the segments of each; nothing at all where none has a tail."""
        if not self.tails.any():
            return []
        segments: list[dict[str, Scalar]] = [{}] * len(self)
        starts = self.by_kind([HEAD_BYTES + 8 * len(s.kind.numeric) for s in self.shapes])
        ends = (starts + self.tails).tolist()
        for i, (start, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
            if start < end:
                segments[i] = decode_tail(found[i][1][start:end]).segments
        return segments
