"""Pairs of champion and challenger, and the evidence by which versions were promoted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from kedge_services.local.recount.bins import Reference
from kedge_services.local.recount.joining import Joined, Predicted
from kedge_services.local.recount.panes import Deltas, absolute_error
from kedge_services.local.recount.plain import Findings, Record

__all__ = ["compare_evidence", "compare_pairs"]

_STEPS = 32
Who = tuple[str, str, str]
"""Model, champion and challenger."""
VersionRecord = tuple[Mapping[str, Any], int]
"""A record of a version, and its time."""


def compare_pairs(
    joined: Joined,
    deltas: Deltas,
    reference_of: Mapping[tuple[str, str], Reference],
    findings: Findings,
) -> None:
    """Compare the loss differences of all pairs, pane by pane.

    ``reference_of`` gives a version's reference, which says what error of a
    regression counts as a loss of 1.
    """
    expected: dict[tuple[Who, int], Counter[int]] = defaultdict(Counter)
    for predictions in joined.predictions.values():
        for model in {p.watched.model for p in predictions} if len(predictions) > 1 else ():
            mine = [p for p in predictions if p.watched.model == model]
            champion = next((p for p in mine if p.champion), None)
            if champion is None:
                continue
            scale = _scale(reference_of.get((model, champion.version)))
            loss = _loss(champion, scale)
            length = champion.watched.performance_pane_ms
            start_ms = champion.time_ms - champion.time_ms % length
            for shadow in _shadows(mine, champion):
                its = _loss(shadow, scale)
                if loss is not None and its is not None:
                    who = (model, champion.version, shadow.version)
                    expected[who, start_ms][loss - its] += 1
    found: dict[tuple[Who, int], Counter[int]] = defaultdict(Counter)
    for who, given in deltas.pairs.items():
        for _, start_ms, differences in given:
            found[who, start_ms].update(differences)
    for key in expected.keys() | found.keys():
        (model, serving, challenger), start_ms = key
        findings.compare(
            "pairs", "pairs of pane", f"{model}/{challenger} beside {serving} from {start_ms}",
            _sorted(expected[key]), _sorted(found[key]),
        )  # fmt: skip


def compare_evidence(versions: Sequence[VersionRecord], deltas: Deltas, findings: Findings) -> None:
    """Find the evidence of every decision in the pairs as they came.

    A contest takes pairs from the moment it began, so what it rests on must be
    the sum of a run of deltas that began by then.
    """
    for at, (version, _) in enumerate(versions):
        evidence = version.get("evidence", {})
        if "challenger" not in evidence:
            continue
        who = (version["model"], evidence["champion"], evidence["challenger"])
        earlier = versions[:at]
        began_ms = max((at_ms for v, at_ms in earlier if _opens(v, who)), default=0)
        sums, starts = [(0, 0, 0)], {(0, 0, 0)}
        for record, differences in _pairs_of(who, earlier, deltas):
            n, wins, losses = sums[-1]
            total = (
                n + sum(differences.values()),
                wins + sum(count for d, count in differences.items() if d > 0),
                losses + sum(count for d, count in differences.items() if d < 0),
            )
            sums.append(total)
            if record.timestamp_ms <= began_ms:
                starts.add(total)
        stated = (evidence["n"], evidence["wins"], evidence["losses"])
        possible = {tuple(a - b for a, b in zip(total, stated, strict=True)) for total in sums}
        findings.compare(
            "evidence",
            f"pairs, wins, losses by which {version['version']} is {version['status']}",
            f"{'/'.join(who)}, sequence {version['sequence']}",
            stated if starts & possible else f"a sum of deltas, {sums[-1]} in all", stated,
        )  # fmt: skip


def _pairs_of(
    who: Who, earlier: Sequence[VersionRecord], deltas: Deltas
) -> list[tuple[Record, dict[int, int]]]:
    """Give the pairs of a contest as they came, by what the challenger's loss is the smaller.

    A former champion may go on answering in the place of its successor; while it
    is watched these pairs count too, turned round, from the promotion on.
    """
    model, champion, challenger = who
    found = [(record, differences) for record, _, differences in deltas.pairs.get(who, ())]
    last = {v["version"]: v for v, _ in earlier if v["model"] == model}
    shadow = (model, challenger, "shadow")
    entered = [v for v, _ in earlier if (v["model"], v["version"], v["status"]) == shadow]
    if entered and entered[-1].get("evidence", {}).get("decision") == "watch":
        promoted_ms = last[champion]["changed_ms"]
        found += [
            (record, {-d: count for d, count in differences.items()})
            for record, start_ms, differences in deltas.pairs.get((model, challenger, champion), ())
            if start_ms >= promoted_ms
        ]
    return sorted(found, key=lambda pair: pair[0].offset)


def _opens(version: Mapping[str, Any], who: Who) -> bool:
    """Say whether with this record a contest of these two may have begun."""
    model, champion, challenger = who
    return version["model"] == model and (version["version"], version["status"]) in (
        (champion, "champion"),
        (challenger, "shadow"),
    )


def _shadows(mine: Sequence[Predicted], champion: Predicted) -> list[Predicted]:
    """Give the first prediction of every shadow version."""
    first: dict[str, Predicted] = {}
    for p in mine:
        if not p.champion and p.version != champion.version:
            first.setdefault(p.version, p)
    return list(first.values())


def _loss(p: Predicted, scale: float) -> int | None:
    if p.standing is None or p.answer is None:
        return None
    given = p.standing.since
    if isinstance(p.answer, float):
        error = absolute_error(p.answer, given.label)
        return round(_STEPS * min(1.0, error / scale))
    return 0 if p.answer == given.text else _STEPS


def _scale(reference: Reference | None) -> float:
    """Give the error that is a loss of 1: mean + 3 standard deviations of the reference's."""
    loss = (reference or {}).get("loss") or {}
    if "sum_of_squares" not in loss or not loss["n"]:
        return 1.0
    mean = loss["sum"] / loss["n"]
    variance = max(0.0, loss["sum_of_squares"] / loss["n"] - mean * mean)
    return float(mean + 3 * variance**0.5) or 1.0


def _sorted(differences: Mapping[int, int]) -> dict[int, int]:
    return {d: n for d, n in sorted(differences.items()) if n}
