"""The frontier: what retraining at the best places would have been worth, known afterwards."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench_stats import data
from bench_stats.peers import CACHE

__all__ = ["Frontier", "best_of", "frontier"]

WARM_UP, BLOCK, BUFFERS = 1_000, 500, (1_000, 4_000, 1_000_000)
_MOST = 120
_Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Frontier:
    """Accuracy by the number of retrains."""

    by_retrains: list[float]

    def accuracy(self, retrains: int) -> float:
        return self.by_retrains[min(retrains, len(self.by_retrains) - 1)]


def frontier(limit: int | None = None) -> Frontier | None:
    """Give the frontier of Elec2, trained and scored once and kept.

    f[k][c] = max over a < c of f[k-1][a] + seg(a, c), where seg(a, c) is the number of
    correct answers in the blocks [a, c) of a model trained at the start of block a.
    """
    table, labels = data.elec2(), data.elec2_labels()
    if table is None or labels is None:
        return None
    rows, labels = table.rows[:limit], labels[:limit]
    digest = hashlib.sha256(rows.tobytes() + labels.tobytes()).hexdigest()[:12]
    kept = CACHE / f"frontier-{digest}.json"
    if kept.exists():
        return Frontier(json.loads(kept.read_text()))
    made = Frontier(best_of(_segments(rows, labels), rows=len(rows) - WARM_UP))
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps(made.by_retrains))
    return made


def _segments(rows: data.Floats, labels: _Counts) -> _Counts:
    """Give seg(a, c), shape (blocks + 1, blocks + 1)."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    starts = np.arange(WARM_UP, len(rows), BLOCK)
    blocks = starts.size
    seg = np.zeros((blocks + 1, blocks + 1), dtype=np.int64)
    for a, start in enumerate(starts.tolist()):
        for buffer in BUFFERS:
            first = max(0, start - buffer)
            if buffer != BUFFERS[0] and start - first <= BUFFERS[0]:
                continue
            model = HistGradientBoostingClassifier(
                max_iter=60, learning_rate=0.15, max_leaf_nodes=31, early_stopping=False,
                random_state=0,
            )  # fmt: skip
            # More threads than cores wait for each other longer than they compute.
            with warnings.catch_warnings(), threadpool_limits(1):
                warnings.simplefilter("ignore")
                model.fit(rows[first:start], labels[first:start])
                right = model.predict(rows[start:]) == labels[start:]
            sums = np.add.reduceat(right.astype(np.int64), starts[a:] - start)
            seg[a, a + 1 :] = np.maximum(seg[a, a + 1 :], np.cumsum(sums))
    return seg


def best_of(seg: _Counts, *, rows: int) -> list[float]:
    """Give the accuracy with 0, 1, 2 ... retrains after the first training."""
    blocks = seg.shape[0] - 1
    least = np.iinfo(np.int64).min // 2
    best = np.where(np.arange(blocks + 1) > 0, seg[0], 0)
    found = [float(best[blocks]) / rows]
    for _ in range(min(_MOST, blocks - 1)):
        following = np.full(blocks + 1, least)
        for c in range(2, blocks + 1):
            following[c] = max(best[a] + seg[a, c] for a in range(1, c))
        best = np.maximum(best, following)
        found.append(float(best[blocks]) / rows)
    return found
