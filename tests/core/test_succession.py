from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import Artefact, Candidate, Command, FeatureReference, ModelVersion, Reference
from kedge.monitor import Rule
from kedge.versions import Lineage
from kedge_services.core.admission import Policy
from kedge_services.core.standing import Standing, Step
from kedge_services.core.succession import CHALLENGERS, count_pairs, decide, obey, offer

SHADOW, FAST = Policy(), Policy("fast")
WINS = {32: 60, 0: 200}
LOSSES = {-32: 60, 0: 200}


def candidate(request: str, **changes: Any) -> Candidate:
    artefact = Artefact(uri="a", sha256="0" * 64, format="skops", size=1)
    fields = {"model": "m", "created_ms": 1, "artefact": artefact, **changes}
    return Candidate(request_id=request, **fields)


def reference(**changes: Any) -> Reference:
    fields: dict[str, Any] = {
        "reference_id": "r", "model": "m", "version": "?", "effective_ms": 7, "origin": "held-out",
        "rows": 1, "features": {"x": FeatureReference(kind="numeric", counts=[1], total=1)},
    }  # fmt: skip
    return Reference(**{**fields, **changes})


def command(action: str, **changes: Any) -> Command:
    fields = {"command_id": f"c-{action}-{changes}", "model": "m", "by": "ann", "event_time_ms": 5}
    return Command.model_validate({**fields, "action": action, **changes})


def standing_of(*candidates: Candidate, policy: Policy = SHADOW) -> Standing:
    standing = Standing("m")
    for each in candidates:
        standing = offer(standing, each, policy, 10).standing
    return standing


def statuses(standing: Standing) -> dict[str, str]:
    return {name: version.status for name, version in standing.versions.items()}


def paired(standing: Standing, version: str, champion: str, differences: Mapping[int, int]) -> Step:
    standing = count_pairs(standing, version=version, champion=champion, differences=differences)
    return decide(standing, 20)


# ------------------------------------------------------------------------ gate


def test_the_first_version_becomes_champion_and_brings_its_reference() -> None:
    step = offer(Standing("m"), candidate("r", reference=reference()), SHADOW, 10)
    assert statuses(step.standing) == {"k1": "champion"}
    assert step.reference == reference(version="k1", effective_ms=0)
    assert step.written[0].reference_id == "r"
    assert step.written[0].evidence["decision"] == "first"


def test_a_failed_candidate_changes_nothing() -> None:
    step = offer(Standing("m"), candidate("r", artefact=None, failure="no memory"), SHADOW, 10)
    assert (step.standing, step.written, step.happened) == (Standing("m"), (), "failed")
    assert "no memory" in step.note


def test_a_candidate_without_artefact_is_rejected_unless_it_is_served_elsewhere() -> None:
    own = offer(Standing("m"), candidate("r", artefact=None, reference=reference()), SHADOW, 10)
    assert statuses(own.standing) == {"k1": "rejected"}
    assert own.reference is None
    foreign = offer(Standing("m"), candidate("r", artefact=None, version="2024-03"), SHADOW, 10)
    assert statuses(foreign.standing) == {"2024-03": "champion"}


@pytest.mark.parametrize(
    ("metrics", "parents", "passes"),
    [
        ({"accuracy": 0.8}, {"accuracy": 0.7}, True),
        ({"accuracy": 0.7}, {"accuracy": 0.7}, False),
        ({"mae": 2.0}, {"mae": 3.0}, True),
        ({"mae": 3.0}, {"mae": 2.0}, False),
        ({"accuracy": 0.6}, {}, True),
        ({"accuracy": 0.8, "auc": 0.5}, {"accuracy": 0.7, "auc": 0.9}, True),
        ({"accuracy": float("nan")}, {"accuracy": 0.7}, False),
    ],
)
def test_a_candidate_has_to_beat_its_parent_on_the_same_rows(
    metrics: dict[str, float], parents: dict[str, float], *, passes: bool
) -> None:
    step = offer(
        standing_of(candidate("a")),
        candidate("b", parent="k1", metrics=metrics, parent_metrics=parents),
        SHADOW,
        10,
    )
    assert step.standing.versions["k2"].status == ("shadow" if passes else "rejected")


@pytest.mark.parametrize(
    ("recall", "parent", "passes"), [(0.4, 0.6, False), (0.4, 0.3, True), (0.5, None, True)]
)
def test_a_users_floor_vetoes_unless_the_parent_is_worse_still(
    recall: float, parent: float | None, *, passes: bool
) -> None:
    policy = Policy(rules=(Rule(name="recall-low", metric="recall", below=0.5),))
    parents = {"accuracy": 0.7} | ({} if parent is None else {"recall": parent})
    offered = candidate("b", metrics={"accuracy": 0.8, "recall": recall}, parent_metrics=parents)
    step = offer(standing_of(candidate("a")), offered, policy, 10)
    assert step.standing.versions["k2"].status == ("shadow" if passes else "rejected")
    assert passes or "recall-low" in step.note


def test_a_repeated_candidate_is_recognised() -> None:
    standing = standing_of(candidate("a"), candidate("b"))
    again = offer(standing, candidate("b"), SHADOW, 11)
    assert (again.standing, again.written, again.happened) == (standing, (), "repeated")
    other = offer(standing, candidate("b", ordinal=1), SHADOW, 11)
    assert other.standing.versions["k3"].status == "shadow"


def test_foreign_versions_keep_their_names_and_numbers_go_round_them() -> None:
    standing = standing_of(candidate("a", version="k1"), candidate("b"), candidate("c"))
    assert list(standing.versions) == ["k1", "k2", "k3"]


def test_a_version_never_changes() -> None:
    standing = standing_of(candidate("a", version="7"))
    step = offer(standing, candidate("b", version="7"), SHADOW, 10)
    assert step.standing == standing
    assert step.refused is not None
    assert step.refused[0] == "conflicting-duplicate"


# ------------------------------------------------------------------- promotion


def test_the_paired_test_promotes_and_names_its_evidence() -> None:
    lineage = Lineage(alert_ids=["f/1"])
    standing = standing_of(candidate("a"), candidate("b", lineage=lineage))
    step = paired(standing, "k2", "k1", WINS)
    assert [(v.version, v.status) for v in step.written] == [("k2", "champion"), ("k1", "shadow")]
    evidence = step.written[0].evidence
    assert evidence["decision"] == "paired-test"
    assert (evidence["n"], evidence["wins"], evidence["losses"]) == (260, 60, 0)
    assert evidence["e_value"] >= 20
    assert evidence["interval"][0] > 0.005
    assert (evidence["alert_ids"], evidence["request_id"]) == (["f/1"], "b")
    assert "60 wins and 0 losses in 260 pairs" in step.written[0].reason


def test_a_worse_challenger_is_dropped_and_an_equal_one_is_not_promoted() -> None:
    standing = standing_of(candidate("a"), candidate("b"))
    assert statuses(paired(standing, "k2", "k1", LOSSES).standing)["k2"] == "rejected"
    assert statuses(paired(standing, "k2", "k1", {0: 20_000}).standing)["k2"] == "rejected"
    assert statuses(paired(standing, "k2", "k1", {0: 19_999}).standing)["k2"] == "shadow"


def test_pairs_with_another_champion_do_not_count() -> None:
    standing = standing_of(candidate("a"), candidate("b"))
    assert count_pairs(standing, version="k2", champion="k0", differences=WINS) == standing


def test_who_still_answers_elsewhere_after_a_promotion_is_watched_in_its_successors_shadow() -> (
    None
):
    foreign = candidate("a", version="12", artefact=None)
    step = paired(standing_of(foreign, candidate("b")), "k1", "12", WINS)
    assert statuses(step.standing) == {"12": "shadow", "k1": "champion"}
    promoted_ms = step.standing.versions["k1"].changed_ms

    def answered(differences: Mapping[int, int], start_ms: int) -> Standing:
        return count_pairs(
            step.standing, version="k1", champion="12", differences=differences, start_ms=start_ms
        )

    assert answered(LOSSES, promoted_ms - 1) == step.standing
    back = decide(answered(LOSSES, promoted_ms), 30)
    assert (back.happened, back.standing.champion) == ("rolled-back", "12")
    assert statuses(back.standing) == {"12": "champion", "k1": "retired"}
    stays = decide(answered(WINS, promoted_ms), 30)
    assert stays.standing.champion == "k1"


def test_fast_promotes_only_what_beat_the_champion_of_today() -> None:
    better = {"metrics": {"accuracy": 0.9}, "parent_metrics": {"accuracy": 0.8}}
    standing = standing_of(candidate("a"))
    step = offer(standing, candidate("b", parent="k1", **better), FAST, 10)
    assert statuses(step.standing) == {"k1": "shadow", "k2": "champion"}
    step = offer(step.standing, candidate("c", parent="k1", **better), FAST, 10)
    assert statuses(step.standing)["k3"] == "shadow"


def test_a_worse_successor_is_rolled_back() -> None:
    standing = paired(standing_of(candidate("a"), candidate("b")), "k2", "k1", WINS).standing
    step = paired(standing, "k1", "k2", WINS)
    assert step.happened == "rolled-back"
    assert statuses(step.standing) == {"k1": "champion", "k2": "retired"}
    assert step.written[0].evidence["decision"] == "rollback"
    assert step.written[0].reason.startswith("rolled back: 60 wins")
    assert step.standing.contests == ()


def test_the_watch_ends_after_20000_pairs_and_not_before() -> None:
    standing = paired(standing_of(candidate("a"), candidate("b")), "k2", "k1", WINS).standing
    early = paired(standing, "k1", "k2", {0: 19_000, -32: 999})
    assert early.written == ()
    late = paired(early.standing, "k1", "k2", {0: 1})
    assert statuses(late.standing) == {"k1": "retired", "k2": "champion"}


def test_a_third_challenger_takes_the_place_of_the_one_with_the_least_evidence() -> None:
    standing = standing_of(candidate("a"), candidate("b"), candidate("c"))
    standing = count_pairs(standing, version="k2", champion="k1", differences={32: 20, 0: 100})
    standing = count_pairs(standing, version="k3", champion="k1", differences={32: 1, 0: 100})
    step = offer(standing, candidate("d"), SHADOW, 10)
    assert statuses(step.standing) == {
        "k1": "champion", "k2": "shadow", "k3": "rejected", "k4": "shadow",
    }  # fmt: skip
    assert "made room for k4" in step.standing.versions["k3"].reason


def test_a_promotion_lets_other_challengers_start_anew() -> None:
    standing = standing_of(candidate("a"), candidate("b"), candidate("c"))
    standing = count_pairs(standing, version="k3", champion="k1", differences={32: 20})
    standing = paired(standing, "k2", "k1", WINS).standing
    contest = next(c for c in standing.contests if c.version == "k3")
    assert (contest.champion, contest.differences) == ("k2", {})


# -------------------------------------------------------------------- commands


def test_promote_and_rollback_by_hand() -> None:
    standing = standing_of(candidate("a"), candidate("b"))
    step = obey(standing, command("promote", version="k2", reason="it is Monday"), 12)
    assert statuses(step.standing) == {"k1": "shadow", "k2": "champion"}
    assert step.written[0].reason == "promote by ann: it is Monday"
    step = obey(step.standing, command("rollback"), 13)
    assert statuses(step.standing) == {"k1": "champion", "k2": "retired"}
    assert obey(step.standing, command("rollback", until_ms=1), 14).refused is not None


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (command("promote", version="k2", expected_champion="k9"), "invalid"),
        (command("promote", version="k9"), "unknown-version"),
        (command("promote"), "missing-field"),
        (command("promote", version="k1"), "invalid"),
        (command("promote", version="k3"), "invalid"),
        (command("rollback"), "invalid"),
    ],
)
def test_a_command_that_cannot_be_obeyed_changes_no_version(wrong: Command, reason: str) -> None:
    standing = standing_of(candidate("a"), candidate("b"), candidate("c", artefact=None))
    step = obey(standing, wrong, 12)
    assert step.refused is not None
    assert step.refused[0] == reason
    assert (step.written, step.standing.versions) == ((), standing.versions)


def test_a_repeated_command_is_obeyed_once() -> None:
    standing = standing_of(candidate("a"), candidate("b"))
    promote = command("promote", version="k2")
    standing = obey(standing, promote, 12).standing
    standing = obey(standing, command("rollback"), 13).standing
    again = obey(standing, promote, 14)
    assert (again.happened, again.written) == ("repeated", ())


def test_a_pause_holds_automatic_decisions_until_it_ends() -> None:
    standing = standing_of(candidate("a"), candidate("b"))
    paused = obey(standing, command("pause", until_ms=100), 12).standing
    step = paired(paused, "k2", "k1", WINS)
    assert step.written == ()
    assert decide(step.standing, 100).happened == "promoted"
    resumed = obey(obey(paused, command("pause"), 13).standing, command("resume"), 14).standing
    assert resumed.paused_until_ms == 0


def test_commands_for_others_are_left_alone() -> None:
    standing = standing_of(candidate("a"))
    assert obey(standing, command("retrain"), 12) == Step(standing)


# ------------------------------------------------------------------ properties

names = st.sampled_from(["k1", "k2", "k3", "k4", "7", "8"])
offers = st.builds(
    lambda request, version, gain, crown, failed: candidate(
        f"r{request}", version=version, as_champion=crown, parent="k1",
        metrics={"accuracy": 0.5 + gain}, parent_metrics={"accuracy": 0.5},
        failure="x" if failed else None,
    ),
    st.integers(0, 20), st.sampled_from([None, None, "7", "8"]), st.sampled_from([-0.1, 0.1]),
    st.booleans(), st.booleans(),
)  # fmt: skip
commands = st.builds(
    lambda i, action, version: command(action, command_id=f"c{i}", version=version),
    st.integers(0, 20), st.sampled_from(["promote", "rollback", "pause", "resume"]),
    st.none() | names,
)  # fmt: skip
pairs = st.tuples(names, names, st.sampled_from([WINS, LOSSES, {0: 10_000}]))
happenings = st.lists(st.one_of(offers, commands, pairs), max_size=25)


def one(standing: Standing, happening: Any, policy: Policy, at_ms: int) -> Step:
    if isinstance(happening, Candidate):
        return offer(standing, happening, policy, at_ms)
    if isinstance(happening, Command):
        return obey(standing, happening, at_ms)
    version, champion, differences = happening
    counted = count_pairs(standing, version=version, champion=champion, differences=differences)
    return decide(counted, at_ms)


@given(happenings, st.sampled_from([SHADOW, FAST]))
def test_there_is_one_champion_and_every_change_has_the_next_sequence(
    events: list[Any], policy: Policy
) -> None:
    standing, read = Standing("m"), dict[str, ModelVersion]()
    for at_ms, event in enumerate(events):
        step = one(standing, event, policy, at_ms)
        sequences = [version.sequence for version in step.written]
        first = standing.sequence + 1
        assert sequences == list(range(first, first + len(sequences)))
        for version in step.written:
            read[version.version] = version
            # A reader in the middle of a step takes the champion written last: there is one.
            assert any(v.status == "champion" for v in read.values()) or standing.champion is None
        standing = step.standing
        champions = [name for name, version in read.items() if version.status == "champion"]
        assert champions == ([standing.champion] if standing.champion else [])
        # What was written is what is known, and exactly the shadows are in a contest.
        assert read == dict(standing.versions)
        shadows = {name for name, version in read.items() if version.status == "shadow"}
        assert shadows == {c.version for c in standing.contests}
        assert {c.champion for c in standing.contests} <= {standing.champion}
        assert sum(not c.watch for c in standing.contests) <= CHALLENGERS
        assert sum(c.watch for c in standing.contests) <= 1


@given(happenings, st.sampled_from([SHADOW, FAST]))
def test_a_restart_after_any_step_changes_nothing(events: list[Any], policy: Policy) -> None:
    straight, restarted = Standing("m"), Standing("m")
    for at_ms, event in enumerate(events):
        straight = one(straight, event, policy, at_ms).standing
        restarted = one(restarted, event, policy, at_ms).standing
        restarted = Standing.decode("m", restarted.encode(), restarted.versions)
    assert straight == restarted
    assert replace(straight, versions={}).encode() == restarted.encode()
