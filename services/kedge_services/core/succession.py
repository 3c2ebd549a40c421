"""Who serves a model: the registry's state machine, as functions of a frozen state.

::

    candidate ─ gate ─┬─▶ rejected
                      ├─▶ shadow ─ paired test ─┬─▶ champion ─▶ shadow (watch) ─▶ retired
                      │                         └─▶ rejected         └─▶ champion again
                      └─▶ champion: the first version; "fast"; a person's wish

A promotion leaves the old champion in shadow; for 20,000 pairs the same
test, with the roles swapped, may bring it back.  Up to :data:`CHALLENGERS`
versions are in shadow beside it, each with a test of its own.  When one more
comes, the one with the least evidence makes room: so the newest always gets its
chance, and frequent retrains cannot push out a version that is about to win.

Every change of a version is written with the model's next ``sequence``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from kedge import Candidate, Command, ModelVersion
from kedge.base import VersionStatus
from kedge.errors import Reason
from kedge_services.core.admission import Policy, is_empty, new_version, objection
from kedge_services.core.promotion import (
    WATCH,
    Differences,
    confidence_interval,
    e_value,
    verdict,
)
from kedge_services.core.standing import Contest, Happening, Standing, Step

__all__ = ["count_pairs", "decide", "obey", "offer"]

#: Versions that may challenge the champion at the same time.
CHALLENGERS = 2
#: Earlier champions and answered commands that are remembered.
REMEMBERED = 100
#: A pause without end.
FOREVER_MS = 1 << 62


@dataclass(frozen=True, slots=True)
class _Why:
    """What a version's record will say about its change."""

    decision: str
    reason: str
    at_ms: int


# ------------------------------------------------------------------ candidates


def offer(standing: Standing, candidate: Candidate, policy: Policy, at_ms: int) -> Step:
    """Judge a candidate; ``at_ms`` is the time of its record."""
    if (step := _no_version(standing, candidate)) is not None:
        return step
    step, name = _enter(standing, candidate)
    if (problem := objection(candidate, policy)) is not None:
        step = _write(step, name, "rejected", _Why("gate", problem, at_ms))
        return replace(step, happened="rejected", note=f"{name} is rejected: {problem}")
    if candidate.reference is not None:
        changes = {"model": standing.model, "version": name, "effective_ms": 0}
        step = replace(step, reference=candidate.reference.model_copy(update=changes))
    champion = standing.champion
    if champion is None:
        return _crown(step, name, _Why("first", "the first version of the model", at_ms))
    if candidate.as_champion:
        return _crown(step, name, _Why("registered", "registered as champion", at_ms))
    # A comparison with another parent says nothing about the champion of today.
    is_compared = candidate.parent == champion and bool(candidate.parent_metrics)
    if policy.promotion == "fast" and is_compared and at_ms >= standing.paused_until_ms:
        reason = f"better than {champion} on the same held-out labels"
        return _crown(step, name, _Why("fast", reason, at_ms))
    return _challenge(step, name, champion, at_ms)


def _no_version(standing: Standing, candidate: Candidate) -> Step | None:
    who = f"candidate {candidate.request_id}#{candidate.ordinal} of {standing.model}"
    if candidate.failure is not None:
        return Step(standing, "failed", f"{who} failed: {candidate.failure}")
    same = (candidate.request_id, candidate.ordinal)
    if any((v.request_id, v.ordinal) == same for v in standing.versions.values()):
        return Step(standing, "repeated", f"{who} is known already")
    if candidate.version in standing.versions:
        detail = f"{candidate.version} is a version already, and a version never changes"
        refused: tuple[Reason, str] = ("conflicting-duplicate", detail)
        return Step(standing, "refused", f"{who} is refused: {detail}", refused=refused)
    return None


def _enter(standing: Standing, candidate: Candidate) -> tuple[Step, str]:
    numbered, name = standing.numbered, candidate.version
    while name is None or (candidate.version is None and name in standing.versions):
        numbered += 1
        name = f"k{numbered}"
    versions = {**standing.versions, name: new_version(candidate, name)}
    return Step(replace(standing, numbered=numbered, versions=versions)), name


def _challenge(step: Step, name: str, champion: str, at_ms: int) -> Step:
    rivals = [contest for contest in step.standing.contests if not contest.watch]
    if len(rivals) >= CHALLENGERS:
        weakest = min(rivals, key=lambda c: e_value(c.differences, c.test.margin))
        reason = f"made room for {name}: it had the least evidence against {champion}"
        step = _leave(step, weakest, "rejected", _Why("replaced", reason, at_ms))
    contests = (*step.standing.contests, Contest(name, champion))
    step = replace(step, standing=replace(step.standing, contests=contests))
    reason = f"in shadow beside {champion} until the paired test decides"
    step = _write(step, name, "shadow", _Why("shadow", reason, at_ms))
    return replace(step, happened="shadowed", note=f"{name} is {reason}")


# -------------------------------------------------------------------- evidence


def count_pairs(
    standing: Standing,
    *,
    version: str,
    champion: str,
    differences: Differences,
    start_ms: int = 0,
) -> Standing:
    """Add pairs to the contest they belong to; pairs of any other are of no use.

    Of a model served elsewhere the former champion may go on answering after a
    promotion, and its successor be the one in shadow.  Such pairs belong to the watch,
    with the other sign, as long as their pane starts (``start_ms``) after the promotion;
    those from before it were the successor's own contest.
    """
    for i, contest in enumerate(standing.contests):
        rivals = (contest.version, contest.champion)
        is_turned = contest.watch and (champion, version) == rivals
        if is_turned and start_ms < standing.versions[version].changed_ms:
            return standing
        if is_turned or (version, champion) == rivals:
            if is_turned:
                differences = {-d: count for d, count in differences.items()}
            total = dict(contest.differences)
            for d, count in differences.items():
                total[d] = total.get(d, 0) + count
            contests = list(standing.contests)
            contests[i] = replace(contest, differences=total)
            return replace(standing, contests=tuple(contests))
    return standing


def decide(standing: Standing, at_ms: int) -> Step:
    """Look at the evidence; at most one version changes places.

    The watch comes first: a champion that has to go meets no challenger.
    """
    if at_ms >= standing.paused_until_ms:
        for contest in sorted(standing.contests, key=lambda c: not c.watch):
            step = (_watched if contest.watch else _challenged)(Step(standing), contest, at_ms)
            if step.written:
                return step
    return Step(standing)


def _challenged(step: Step, contest: Contest, at_ms: int) -> Step:
    found, name, champion = verdict(contest.differences), contest.version, contest.champion
    score = f"{found.wins} wins and {found.losses} losses in {found.n} pairs"
    if found.decision == "promote":
        return _crown(step, name, _Why("paired-test", f"{score} against {champion}", at_ms))
    if found.decision == "undecided":
        return step
    worse = found.decision == "drop"
    reason = f"{'worse' if worse else 'no better'} than {champion}: {score}"
    return _leave(step, contest, "rejected", _Why("worse" if worse else "keep", reason, at_ms))


def _watched(step: Step, contest: Contest, at_ms: int) -> Step:
    found, name, champion = verdict(contest.differences, WATCH), contest.version, contest.champion
    if found.decision == "promote":
        score = f"{found.wins} wins and {found.losses} losses in {found.n} pairs"
        reason = f"rolled back: {score} against its successor {champion}"
        return _crown(step, name, _Why("rollback", reason, at_ms))
    if found.n < WATCH.most:
        return step
    reason = f"{champion} has served {found.n} labelled pairs without being worse"
    return _leave(step, contest, "retired", _Why("watch-over", reason, at_ms))


# -------------------------------------------------------------------- commands


def obey(standing: Standing, command: Command, at_ms: int) -> Step:
    """Do what a person asks for, if it is the registry's business and can be done."""
    if command.action not in ("promote", "rollback", "pause", "resume"):
        return Step(standing)
    if command.command_id in standing.commands:
        return Step(standing, "repeated", f"command {command.command_id} is answered already")
    commands = (*standing.commands, command.command_id)[-REMEMBERED:]
    standing = replace(standing, commands=commands)
    if command.action in ("pause", "resume"):
        return _hold(standing, command)
    problem = _obstacle(standing, command)
    if problem is not None:
        note = f"{command.action} of {standing.model} by {command.by} is refused: {problem[1]}"
        return Step(standing, "refused", note, refused=problem)
    reason = f"{command.action} by {command.by}" + (command.reason and f": {command.reason}")
    if command.action == "rollback":
        return _crown(
            Step(standing), standing.former[-1], _Why("rollback-command", reason, at_ms)
        )  # fmt: skip
    return _crown(Step(standing), command.version or "", _Why("command", reason, at_ms))


def _hold(standing: Standing, command: Command) -> Step:
    is_pause = command.action == "pause"
    until_ms = 0 if not is_pause else FOREVER_MS if command.until_ms is None else command.until_ms
    note = f"{command.by} {command.action}s automatic decisions about {standing.model}"
    standing = replace(standing, paused_until_ms=until_ms)
    return Step(standing, "paused" if is_pause else "resumed", note)


def _obstacle(standing: Standing, command: Command) -> tuple[Reason, str] | None:
    champion, wanted = standing.champion, command.version
    problem: tuple[Reason, str] | None = None
    if command.expected_champion not in (None, champion):
        problem = "invalid", f"the champion is {champion}, not {command.expected_champion}"
    elif command.action == "rollback":
        if not standing.former:
            problem = "invalid", "there is no earlier champion to go back to"
        elif wanted not in (None, standing.former[-1]):
            problem = "invalid", f"the earlier champion is {standing.former[-1]}, not {wanted}"
    elif wanted is None:
        problem = "missing-field", "a promote command names the `version`"
    elif wanted not in standing.versions:
        problem = "unknown-version", f"{standing.model} has no version {wanted}"
    elif wanted == champion:
        problem = "invalid", f"{wanted} is the champion already"
    elif is_empty(standing.versions[wanted]):
        problem = "invalid", f"{wanted} has no artefact that could be served"
    return problem


# --------------------------------------------------------------- what all share


def _crown(step: Step, name: str, why: _Why) -> Step:
    """Let ``name`` serve.

    A rollback retires the champion; any other change leaves it in shadow, watched.
    Challengers stay, but start anew: their pairs were with another champion.
    """
    standing, old = step.standing, step.standing.champion
    back = why.decision in ("rollback", "rollback-command")
    own = next((c for c in standing.contests if c.version == name), None)
    contests = [Contest(c.version, name) for c in standing.contests if not c.watch and c is not own]
    former = tuple(v for v in standing.former if v != name)

    step = _write(step, name, "champion", why, own)
    for watch in standing.contests:
        if watch.watch and watch is not own:
            gone = replace(why, decision="superseded", reason=f"{name} serves now")
            step = _write(step, watch.version, "retired", gone, watch)
    if old is not None and back:
        gone = replace(why, decision="rolled-back", reason=f"{name} is back: {why.reason}")
        step = _write(step, old, "retired", gone, own)
    elif old is not None:
        former = (*former, old)[-REMEMBERED:]
        contests.append(Contest(old, name, watch=True))
        stays = f"{name} serves; in shadow in case {name} turns out to be worse"
        step = _write(step, old, "shadow", replace(why, decision="watch", reason=stays), own)

    standing = replace(step.standing, champion=name, former=former, contests=tuple(contests))
    note = f"{name} {'is back as' if back else 'is'} champion of {standing.model}: {why.reason}"
    happened: Happening = "rolled-back" if back else "promoted"
    return replace(step, standing=standing, happened=happened, note=note)


def _leave(step: Step, contest: Contest, status: VersionStatus, why: _Why) -> Step:
    contests = tuple(c for c in step.standing.contests if c.version != contest.version)
    step = replace(step, standing=replace(step.standing, contests=contests))
    step = _write(step, contest.version, status, why, contest)
    happened: Happening = "retired" if status == "retired" else "rejected"
    return replace(step, happened=happened, note=f"{contest.version} is {status}: {why.reason}")


def _write(
    step: Step, name: str, status: VersionStatus, why: _Why, contest: Contest | None = None
) -> Step:
    sequence = step.standing.sequence + 1
    old = step.standing.versions[name]
    changes = {
        "status": status,
        "reason": why.reason,
        "sequence": sequence,
        "changed_ms": why.at_ms,
        "evidence": _evidence(old, why.decision, contest),
    }
    version = old.model_copy(update=changes)
    versions = {**step.standing.versions, name: version}
    standing = replace(step.standing, sequence=sequence, versions=versions)
    return replace(step, standing=standing, written=(*step.written, version))


def _evidence(version: ModelVersion, decision: str, contest: Contest | None) -> dict[str, Any]:
    evidence: dict[str, Any] = {
        "decision": decision,
        "request_id": version.request_id,
        "alert_ids": version.lineage.alert_ids,
    }
    if contest is not None:
        found = verdict(contest.differences, contest.test)
        interval = confidence_interval(contest.differences, contest.test.alpha)
        evidence |= {
            "champion": contest.champion,
            "challenger": contest.version,
            "n": found.n,
            "wins": found.wins,
            "losses": found.losses,
            "e_value": found.e_value,
            "interval": list(interval),
            "margin": contest.test.margin,
            "alpha": contest.test.alpha,
        }
    return evidence
