"""Several monitors on the same data: each in a directory of its own, all in one table and page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedge.monitor import Monitor
from kedge_services.local.replay.compare_page import Contender, compare_page
from kedge_services.local.replay.report_case import Case
from kedge_services.local.replay.run import Options, Source, replay_results
from kedge_services.runtime.settings import Settings

__all__ = ["Candidate", "compare", "names_of"]

#: Names a directory must not have: the files that stand beside them.
_TAKEN = frozenset({"compare.json", "compare.html"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A monitor to be compared, the file it is from, and its name in the table."""

    name: str
    file: Path
    monitor: Monitor


def names_of(files: Sequence[Path]) -> list[str]:
    """Name monitors by their files; of equal ones the folders tell, then a number.

    >>> names_of([Path("a/m.toml"), Path("b/m.toml"), Path("c/n.toml")])
    ['a-m', 'b-m', 'n']
    """
    names: list[str] = []
    stems = [file.stem.casefold() for file in files]
    for file in files:
        name = file.stem
        if stems.count(name.casefold()) > 1:
            name = f"{file.absolute().parent.name}-{name}"
        chosen, number = name, 1
        while chosen.casefold() in {*_TAKEN, *(known.casefold() for known in names)}:
            number += 1
            chosen = f"{name}-{number}"
        names.append(chosen)
    return names


def compare(
    source: Source,
    candidates: Sequence[Candidate],
    settings: Settings,
    options: Options,
    out: Path,
    *,
    tell: Callable[[str, int, int], None] = lambda _name, _rows, _of: None,
) -> dict[str, Any]:
    """Replay a stream with each monitor; write ``compare.json`` and ``.html``, give the first.

    Parameters
    ----------
    tell
        Is told which monitor is being replayed, and how many rows of how many were.

    Raises
    ------
    KedgeError
        The input cannot be replayed with one of them; the message says why.
    """
    contenders, costs = [], {}
    for candidate in candidates:
        results, cost = replay_results(
            source, candidate.monitor, settings, options, out / candidate.name,
            tell=lambda rows, of, name=candidate.name: tell(name, rows, of),  # type: ignore[misc]
        )  # fmt: skip
        case = Case.of(results, candidate.monitor, str(source), options.told())
        # Only what the page draws is kept, not every window.
        contenders.append(Contender.of(candidate.name, case))
        costs[candidate.name] = cost
    written = {
        "data": str(source),
        "options": options.told(),
        "monitors": [
            {
                "name": candidate.name,
                "file": str(candidate.file),
                "report": f"{candidate.name}/report.html",
                **contender.figures,
            }
            for candidate, contender in zip(candidates, contenders, strict=True)
        ],
        "cost": costs,
    }
    text = json.dumps(written, indent=2, ensure_ascii=False) + "\n"
    (out / "compare.json").write_text(text, encoding="utf-8")
    page = compare_page(contenders, data=str(source), options=options.told())
    (out / "compare.html").write_text(page, encoding="utf-8")
    return written
