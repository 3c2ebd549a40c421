"""NannyML's verdicts on windows and its estimates; runs in an environment of its own.

Reads a line of JSON for each job and answers with a line.  ``{"path": ...}`` of
an .npz file as for Evidently: flags by window and feature, and by window for the
reconstruction error (not when ``"methods"`` asks for the default only).
``{"estimate": ..., "chunk": rows}`` of an .npz file with ``scores``, ``answers``,
``labels`` and the number of ``reference`` rows: what CBPE estimates by chunk, and
the scores it is computed from.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from typing import Any

#: Metrics of an estimate: NannyML's name and ours.
METRICS = {"accuracy": "accuracy", "f1": "f1", "roc_auc": "auc"}


def main() -> None:
    """Answer jobs until the input ends."""
    import numpy as np

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    np.seterr(all="ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    for line in sys.stdin:
        job = json.loads(line)
        told = _estimate(job) if "estimate" in job else _drift(job)
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def _drift(job: dict[str, Any]) -> dict[str, Any]:
    import nannyml
    import numpy as np

    data = np.load(job["path"])
    windows = data["windows"]
    names = data["names"].tolist()
    old = _frame(data, data["reference"])
    new = _frame(data, windows.reshape(-1, windows.shape[2]))
    size = windows.shape[1]
    univariate = nannyml.UnivariateDriftCalculator(column_names=names, chunk_size=size)
    univariate.fit(old)
    found = univariate.calculate(new).filter(period="analysis").to_df()
    flags = [found[name, "jensen_shannon", "alert"].tolist() for name in names]
    told: dict[str, Any] = {"default": [list(map(bool, row)) for row in zip(*flags, strict=True)]}
    if "methods" not in job and not np.isnan(windows).any():
        whole = nannyml.DataReconstructionDriftCalculator(column_names=names, chunk_size=size)
        whole.fit(old)
        found = whole.calculate(new).filter(period="analysis").to_df()
        told["pca"] = list(map(bool, found["reconstruction_error", "alert"].tolist()))
    return told


def _frame(data: Any, rows: Any) -> Any:
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame(rows, columns=data["names"].tolist())
    for name, is_categorical in zip(data["names"].tolist(), data["categorical"], strict=True):
        if is_categorical:
            texts = np.char.add("k", frame[name].astype(int).astype(str).to_numpy(dtype=str))
            frame[name] = pd.Series(texts).astype("category")
    return frame


def _estimate(job: dict[str, Any]) -> dict[str, Any]:
    import nannyml
    import numpy as np
    import pandas as pd

    data = np.load(job["estimate"])
    rows = int(data["reference"])
    frame = pd.DataFrame({name: data[name] for name in ("scores", "answers", "labels")})
    cbpe = nannyml.CBPE(
        y_pred_proba="scores", y_pred="answers", y_true="labels",
        problem_type="classification_binary", metrics=list(METRICS), chunk_size=job["chunk"],
    )  # fmt: skip
    cbpe.fit(frame[:rows])
    found = cbpe.estimate(frame[rows:].drop(columns="labels"))
    found = found.filter(period="analysis").to_df()
    scores = data["scores"]
    if cbpe.needs_calibration:
        scores = cbpe.calibrator.calibrate(scores)
    path = job["estimate"] + ".calibrated.npy"
    np.save(path, scores)
    told: dict[str, Any] = {
        ours: found[theirs, "value"].tolist() for theirs, ours in METRICS.items()
    }
    alerts = {ours: found[theirs, "alert"].tolist() for theirs, ours in METRICS.items()}
    return {**told, "alerts": alerts, "calibrated": path}


if __name__ == "__main__":
    main()
