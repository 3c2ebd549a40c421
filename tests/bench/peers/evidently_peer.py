"""Evidently's verdicts on windows; runs in an environment of its own.

Reads a line of JSON for each job, ``{"path": ...}`` of an .npz file with
``reference`` (rows, features), ``windows`` (windows, rows, features), ``names``
and ``categorical``; answers with a line of flags by window and feature.  ``"methods"``
asks for some of them only, and for no check beside them.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any


def main() -> None:
    """Answer jobs until the input ends."""
    import numpy as np

    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    for number, line in enumerate(sys.stdin):
        job = json.loads(line)
        data = np.load(job["path"])
        old, windows = _frame(data, data["reference"]), data["windows"]
        kinds = dict(zip(data["names"].tolist(), data["categorical"].tolist(), strict=True))
        told: dict[str, Any] = {
            method: [_flags(old, _frame(data, rows), kinds, method) for rows in windows]
            for method in job.get("methods", ("default", "psi"))
        }
        if number == 0 and "methods" not in job:
            told["checked"] = _agrees_with_report(old, _frame(data, windows[0]), told["default"][0])
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def _frame(data: Any, rows: Any) -> Any:
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame(rows, columns=data["names"].tolist())
    for name, is_categorical in zip(data["names"].tolist(), data["categorical"], strict=True):
        if is_categorical:
            frame[name] = np.char.add("k", frame[name].astype(int).astype(str).to_numpy(dtype=str))
    return frame


def _flags(old: Any, new: Any, kinds: dict[str, bool], method: str) -> list[bool]:
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    flags = []
    for name, is_categorical in kinds.items():
        kind = ColumnType.Categorical if is_categorical else ColumnType.Numerical
        before, now = old[name].dropna(), new[name].dropna()
        test = get_stattest(before, now, kind, None if method == "default" else method)
        flags.append(bool(test(before, now, kind, None).drifted))
    return flags


def _agrees_with_report(old: Any, new: Any, flags: list[bool]) -> bool:
    """Say whether the public report gives as many drifted columns as these flags."""
    from evidently import Dataset, Report
    from evidently.presets import DataDriftPreset

    report = Report([DataDriftPreset()])
    snapshot = report.run(Dataset.from_pandas(new), Dataset.from_pandas(old))
    for metric in snapshot.dict()["metrics"]:
        value = metric.get("value")
        if isinstance(value, dict) and "count" in value:
            return bool(int(value["count"]) == sum(flags))
    return False


if __name__ == "__main__":
    main()
