"""One request, one run, one candidate: what is sent, what is believed, what is given up."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import ModelVersion, Monitor
from kedge_services.core.admission import Policy
from kedge_services.core.standing import Standing
from kedge_services.core.succession import offer
from kedge_services.executors.ledger import CHANGELOG
from kedge_services.executors.runs import run_key
from kedge_services.runtime.artefacts import ArtefactStore
from kedge_services.runtime.formats import load_predictor
from kedge_services.runtime.metrics import OPEN_RUNS, RUNS

if TYPE_CHECKING:
    from tests.executors.conftest import Elsewhere, World

    from kedge_services.trainer.training import Trained


# ------------------------------------------------------------------ the way it goes


def test_a_run_that_succeeds_becomes_a_version_the_registry_takes(
    world: World, tmp_path: Path
) -> None:
    world.elsewhere.result = {"metrics": {"accuracy": 0.9}, "rows": 97, "seed": 4}
    candidate = world.one()
    assert candidate.failure is None
    assert (candidate.request_id, candidate.ordinal, candidate.parent) == ("m.1", 0, "v7")
    assert candidate.trainer == "webhook:theirs"
    assert candidate.lineage.examples == {0: (0, 100), 1: (3, 70)}
    assert candidate.lineage.parameters == {"executor": "theirs", "run_id": "run-0"}
    assert candidate.lineage.alert_ids == ["alert/1"]
    assert (candidate.lineage.rows, candidate.lineage.seed) == (97, 4)
    # queued at once, running after 10 s, succeeded after 20 s
    assert world.clock.pauses == [10.0, 10.0]
    assert candidate.cost == {"wall_seconds": 20.0}

    step = offer(Standing("m"), candidate, Policy.of(world.monitors["m"]), 0)
    assert step.happened == "promoted"
    (version,) = step.written
    assert isinstance(version, ModelVersion)
    store = ArtefactStore(str(tmp_path / "artefacts"))
    assert version.artefact is not None
    predictor = load_predictor(version, store.get(version.artefact))
    outputs = predictor.predict([{"a": 0.1, "k": "u"}, {"a": 0.9, "k": None}])
    assert [output.label for output in outputs] == ["no", "yes"]
    assert world.metrics.value(RUNS, result="succeeded") == 1
    assert world.metrics.value(OPEN_RUNS, status="running") == 0


def test_the_payload_says_what_to_train_on_and_the_key_is_the_request(world: World) -> None:
    world.one()
    (post,) = world.elsewhere.posts()
    assert post.headers["Idempotency-Key"] == "m.1"
    assert "X-Kedge-Signature" not in post.headers
    sent = world.elsewhere.body()
    assert sent["cause"]["alert_ids"] == ["alert/1"]
    assert {name: sent[name] for name in sent if name != "cause"} == {
        "schema": 1,
        "run_key": "m.1",
        "model": "m",
        "base_version": "v7",
        "mode": "auto",
        "since_ms": None,
        "event_time_ms": 5,
        "feature_schema": [
            {"name": "a", "type": "numeric"},
            {"name": "k", "type": "categorical"},
        ],
        "classes": ["no", "yes"],
        "examples": [
            {"topic": "kedge.examples", "partition": 0, "start": 0, "end": 100},
            {"topic": "kedge.examples", "partition": 1, "start": 3, "end": 70},
        ],
        "deadline_ms": round((world.started_s + 3600) * 1000),
    }


def test_the_champion_is_the_base_where_the_request_names_none(world: World) -> None:
    asked = world.request().model_copy(update={"base_version": None})
    assert world.one(asked).parent == "v8"
    assert world.elsewhere.body()["base_version"] == "v8"


def test_bodies_and_keys_are_signed_with_the_secret(world: World) -> None:
    world.monitors["m"] = world.monitor(secret_env="SECRET")  # noqa: S106 -- a variable's name
    world.environ |= {"SECRET": "hush"}
    world.one()
    post, look = world.elsewhere.requests[:2]
    for request, signed in ((post, post.content), (look, b"m.1")):
        expected = hmac.new(b"hush", signed, hashlib.sha256).hexdigest()
        assert request.headers["X-Kedge-Signature"] == f"sha256={expected}"
    # The address of the model is not ours to sign for.
    assert "X-Kedge-Signature" not in world.elsewhere.requests[-1].headers


@given(st.text(min_size=1, max_size=255), st.text(min_size=1, max_size=255))
def test_keys_are_of_safe_characters_and_differ_where_requests_do(one: str, other: str) -> None:
    for text in (one, other):
        assert re.fullmatch(r"[A-Za-z0-9_.~:+-]{1,200}", run_key(text))
    assert (run_key(one) == run_key(other)) == (one == other)


def test_requests_for_the_local_trainer_and_unreadable_ones_are_left_to_it(world: World) -> None:
    local = world.request("m.0", executor="local")
    (candidate,) = world.run(local, b"\xff", b"{}", world.request(), answers=1)
    assert candidate.request_id == "m.1"
    assert len(world.elsewhere.posts()) == 1


def test_runs_of_a_model_follow_each_other_and_models_do_not_wait(world: World) -> None:
    def started() -> list[str]:
        return [post.headers["Idempotency-Key"] for post in world.elsewhere.posts()]

    async def scenario() -> None:
        world.clock.gate = asyncio.Event()
        desk = world.desk()
        await desk.open()
        for offset, (name, model) in enumerate([("m.1", "m"), ("m.2", "m"), ("n.1", "n")]):
            assert await desk.take(world.record(offset, world.request(name, model)))
        # m.1 and n.1 are looked at and found queued; m.2 waits for m.1.
        await world.until(lambda: world.metrics.value(OPEN_RUNS, status="queued") == 2)
        assert sorted(started()) == ["m.1", "n.1"]
        assert world.metrics.value(OPEN_RUNS, status="waiting") == 1
        world.clock.gate.set()
        await world.until(lambda: len(world.candidates()) == 3)
        await desk.close()

    asyncio.run(scenario())
    assert started().index("m.1") < started().index("m.2")
    assert [c.request_id for c in world.candidates() if c.model == "m"] == ["m.1", "m.2"]


# ----------------------------------------------------------------- what is repeated


def test_what_may_pass_is_sent_again_with_the_same_key_and_body(world: World) -> None:
    world.elsewhere.instead["POST"] = [
        httpx.ConnectError("no route to https://pipelines.example"),
        httpx.Response(503),
        httpx.Response(429, headers={"Retry-After": "7"}),
        httpx.Response(408),
    ]
    assert world.one().failure is None
    posts = world.elsewhere.posts()
    assert len(posts) == 5
    assert len({(post.headers["Idempotency-Key"], post.content) for post in posts}) == 1
    # Upper half of 1, 2, (as asked), 8 seconds; then two looks.
    assert world.clock.pauses == [0.75, 1.5, 7.0, 6.0, 10.0, 10.0]


def test_looks_that_fail_are_repeated_until_there_is_an_answer(world: World) -> None:
    world.elsewhere.instead["GET"] = [
        httpx.ReadTimeout("slow"),
        httpx.Response(502),
        httpx.Response(200, text="<html>maintenance</html>"),
        httpx.Response(429, headers={"Retry-After": "60"}),
    ]
    assert world.one().failure is None
    assert world.clock.pauses[:4] == [10.0, 10.0, 10.0, 60.0]
    assert len(world.elsewhere.posts()) == 1


def test_a_model_that_is_not_there_yet_is_fetched_again(world: World) -> None:
    world.elsewhere.statuses = ["succeeded"]
    looks: list[httpx.Response | Exception] = [httpx.Response(500), httpx.ConnectError("")]
    answer = world.elsewhere.__call__

    def flaky(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/models/") and looks:
            problem = looks.pop(0)
            if isinstance(problem, Exception):
                raise problem
            return problem
        return answer(request)

    world.elsewhere = flaky  # type: ignore[assignment]  # all a transport asks for
    assert world.one().failure is None
    assert looks == []


# ------------------------------------------------------------------- what is given up


def failure(world: World, result: str) -> str:
    candidate = world.one()
    assert candidate.artefact is None
    assert candidate.failure is not None
    assert candidate.trainer in ("webhook:theirs", "theirs")
    assert world.metrics.value(RUNS, result=result) == 1
    # Neither the URL nor what is behind it is told.
    assert "s3cret" not in candidate.model_dump_json()
    assert "pipelines.example" not in candidate.failure
    assert offer(Standing("m"), candidate, Policy(), 0).happened == "failed"
    return candidate.failure


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("failed", "executor theirs: the run failed: as the pipeline says"),
        ("cancelled", "executor theirs: the run was cancelled: as the pipeline says"),
    ],
)
def test_a_run_that_failed_says_so(world: World, status: str, said: str) -> None:
    world.elsewhere.statuses = ["running", status]
    assert failure(world, status) == said


def test_a_run_is_looked_at_until_its_deadline_and_no_longer(world: World) -> None:
    world.monitors["m"] = world.monitor(deadline="1m", poll="25s")
    world.elsewhere.statuses = ["running"]
    said = failure(world, "late")
    assert said == "executor theirs was not done after 1m; last heard: running"
    assert world.clock.pauses == [25.0, 25.0, 10.0]


def test_a_dead_receiver_is_given_up_at_the_deadline(world: World) -> None:
    world.elsewhere.instead["POST"] = [httpx.ConnectError("") for _ in range(100)]
    said = failure(world, "late")
    assert re.fullmatch(
        r"executor theirs did not take the run after \d+ attempts, last: ConnectError", said
    )
    assert world.started_s + 3300 <= world.clock.seconds <= world.started_s + 3600


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(400), "refused the run: status 400"),
        (httpx.Response(302, headers={"Location": "/other"}), "refused the run: status 302"),
        (httpx.Response(200, text="ok"), "without run_id and status_url: it is no JSON"),
        (httpx.Response(200, json={"run_id": "1"}), "status_url: this field is required"),
        (httpx.Response(200, content=b"x" * 70_000), "it is larger than 65536 bytes"),
        (
            httpx.Response(200, json={"run_id": 1, "status_url": "http://169.254.169.254/"}),
            "a status_url of another origin",
        ),
        (
            httpx.Response(200, json={"run_id": 1, "status_url": "file:///etc/passwd"}),
            "a status_url of another origin",
        ),
    ],
)
def test_a_refusal_is_final_and_is_sent_once(
    world: World, answer: httpx.Response, said: str
) -> None:
    world.elsewhere.instead["POST"] = [answer]
    assert said in failure(world, "refused")
    assert len(world.elsewhere.requests) == 1


@pytest.mark.parametrize(
    ("answer", "result", "said"),
    [
        (httpx.Response(404), "refused", "does not tell the status: status 404"),
        (httpx.Response(200, json={"status": "done"}), "unusable", "(got 'done')"),
        (httpx.Response(200, json={"status": "succeeded"}), "unusable", "without a result"),
        (
            httpx.Response(302, headers={"Location": "http://127.0.0.1/"}),
            "refused",
            "an origin that is not allowed",
        ),
        (httpx.Response(200, content=b" " * (4 << 20)), "refused", "it is larger than"),
    ],
)
def test_a_status_that_nobody_can_use_ends_the_run(
    world: World, answer: httpx.Response, result: str, said: str
) -> None:
    world.elsewhere.instead["GET"] = [answer]
    assert said in failure(world, result)


def test_redirects_are_followed_within_the_origin_but_not_for_ever(world: World) -> None:
    here = httpx.Response(307, headers={"Location": "/status/run-0"})
    world.elsewhere.instead["GET"] = [here]
    assert world.one().failure is None
    world.elsewhere.instead["GET"] = [here] * 9
    again = world.request("m.2")
    found = world.run(world.request(), again, answers=2)
    assert found[1].failure == "executor theirs does not tell the status: it redirects without end"


def test_other_origins_are_asked_where_they_are_named(world: World) -> None:
    world.monitors["m"] = world.monitor(origins=["http://status.example:8080"])
    url = "http://status.example:8080/x"
    world.elsewhere.instead["POST"] = [httpx.Response(202, json={"run_id": "r", "status_url": url})]
    assert world.one().failure is None
    assert str(world.elsewhere.requests[1].url) == url


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"monitor": None}, "no monitor declares a model 'm'"),
        ({"executor": "gone"}, "the monitor of m declares no executor 'gone'"),
        ({"environ": {}}, "the environment variable URL is not set for the service executors"),
        ({"environ": {"URL": "ftp://x"}}, "executor theirs: URL holds no http(s) URL"),
        ({"secret": "SECRET"}, "the environment variable SECRET is not set"),
    ],
)
def test_what_is_not_set_up_is_told_and_nothing_is_sent(
    world: World, change: dict[str, Any], said: str
) -> None:
    asked = world.request(executor=change.get("executor", "theirs"))
    if "monitor" in change:
        world.monitors.clear()
    if "secret" in change:
        world.monitors["m"] = world.monitor(secret_env=change["secret"])
    world.environ = change.get("environ", world.environ)
    candidate = world.one(asked)
    assert candidate.failure is not None
    assert said in candidate.failure
    assert world.elsewhere.requests == []


# ----------------------------------------------------------------------- the model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "0" * 64}, "is not what was announced, the sha256 differs"),
        ({"format": "pickle"}, "result.model.format: expected 'skops', 'river-json' or 'onnx'"),
        ({"format": "skops"}, "its model is not taken: a skops file cannot be read"),
        ({"uri": "https://elsewhere.example/m"}, "leads to an origin that is not allowed"),
        ({"uri": "ftp://pipelines.example/m"}, "lies at a ftp address"),
        ({"uri": "s3::http://169.254.169.254/"}, "only http, https, file"),
        ({"uri": "simplecache::https://pipelines.example/models/1"}, "only http, https, file"),
        ({"uri": "file:///nowhere/model"}, "cannot be fetched: there is no such file"),
        ({"uri": "file:///dev/zero"}, "cannot be fetched: there is no such file"),
        ({"uri": "model.json"}, "lies at a missing address"),
    ],
)
def test_a_model_that_is_not_safe_is_not_taken(
    world: World, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    world.elsewhere.model |= change
    assert said in failure(world, "unusable")
    assert not list((tmp_path / "artefacts").rglob("*.*"))


def test_a_model_that_cannot_be_had_is_final_at_once_when_it_is_not_there(world: World) -> None:
    world.elsewhere.statuses = ["succeeded"]
    world.elsewhere.instead["GET"] = []
    answer = world.elsewhere.__call__

    def without(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/models/"):
            return httpx.Response(403)
        return answer(request)

    world.elsewhere = without  # type: ignore[assignment]  # all a transport asks for
    candidate = world.one()
    assert candidate.failure == "executor theirs: its model cannot be fetched: status 403"


def test_a_model_may_be_no_larger_than_allowed(world: World) -> None:
    world.monitors["m"] = world.monitor(max_artefact_mb=1)
    world.elsewhere.data = b"x" * ((1 << 20) + 1)
    assert failure(world, "unusable").endswith("cannot be fetched: it is larger than 1048576 bytes")


def test_a_model_may_lie_in_a_file(world: World, tmp_path: Path) -> None:
    file = tmp_path / "there.json"
    file.write_bytes(world.elsewhere.data)
    world.elsewhere.model["uri"] = file.as_uri()
    assert world.one().failure is None
    # Nothing is left of what was on its way.
    assert list((tmp_path / "incoming").iterdir()) == []


def test_classes_in_another_order_would_turn_scores_around(world: World) -> None:
    world.elsewhere.result = {"classes": ["yes", "no"]}
    assert "its classes are not those of the monitor, in order" in failure(world, "unusable")


# ------------------------------------------------------------------- the reference


def given_reference(trained: Trained) -> dict[str, Any]:
    assert trained.candidate.reference is not None
    found: dict[str, Any] = json.loads(trained.candidate.reference.model_dump_json())
    return found


def test_a_reference_comes_with_the_version(world: World, trained: Trained) -> None:
    world.elsewhere.result = {"reference": given_reference(trained)}
    candidate = world.one()
    assert candidate.reference is not None
    assert trained.candidate.reference is not None
    assert candidate.reference.features == trained.candidate.reference.features
    step = offer(Standing("m"), candidate, Policy(), 0)
    assert step.reference is not None
    assert step.written[0].reference_id == step.reference.reference_id


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("features", "a", "counts"), [1], "features.a.counts: 1 where its"),
        (("features", "a", "cuts", 1), -1e9, "features.a.cuts: they do not rise"),
        (("features", "a", "total"), 3, "features.a.counts: their sum is not within"),
        (("features", "k", "kind"), "numeric", "features.k.kind: numeric where the monitor says"),
        (("features", "z"), {"kind": "numeric", "counts": [0], "total": 0}, "features.z: is not"),
        (("features", "a", "kind"), "ordinal", "features.a.kind: expected 'numeric'"),
        (("rows",), 0, "reference.rows: expected"),
    ],
)
def test_a_reference_that_nothing_can_be_held_to_is_refused(
    world: World, trained: Trained, path: tuple[str | int, ...], value: object, said: str
) -> None:
    reference: Any = given_reference(trained)
    inner = reference
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    world.elsewhere.result = {"reference": reference}
    assert said in failure(world, "unusable")


# --------------------------------------------------------------- what a kill leaves


STEPS = [
    *[("commit", n) for n in range(4)],
    *[("committed", n) for n in range(4)],
    *[("request", n) for n in range(5)],
    *[("answer", n) for n in range(5)],
    ("inspection", 0),
]


@pytest.mark.parametrize(("step", "number"), STEPS)
def test_whatever_step_it_dies_at_there_is_one_run_and_one_candidate(
    world: World, step: str, number: int
) -> None:
    from kedge_services.runtime.memory import Crash

    if step in ("commit", "committed"):
        world.broker.inject(step, Crash(), after=number)  # type: ignore[arg-type]
    elif step == "request":
        world.elsewhere.crash_before = number
    elif step == "answer":
        world.elsewhere.crash_after = number
    else:
        world.crash_in_inspection = True

    # The first version of a model: what is saved has nothing but what it must have.
    world.champion = None
    asked = world.request().model_copy(update={"base_version": None})

    async def process() -> None:
        """Live until it is killed, or until everything is answered."""
        desk = world.desk()
        await desk.open()
        try:
            # Faust acknowledges what was taken, but commits that later.
            assert await desk.take(world.record(7, asked))
            await world.until(lambda: bool(world.crashes) or bool(world.candidates()))
        except Crash as crash:
            world.crashes.append(crash)
        await desk.close()

    asyncio.run(process())
    if world.crashes:
        world.crashes.clear()
        asyncio.run(process())
    assert world.crashes == []
    # Once more, with nothing left to do.
    before = len(world.elsewhere.requests)
    asyncio.run(process())
    assert len(world.elsewhere.requests) == before

    (candidate,) = world.candidates()
    assert candidate.failure is None
    assert list(world.elsewhere.runs) == ["m.1"]
    posts = world.elsewhere.posts()
    assert {post.headers["Idempotency-Key"] for post in posts} == {"m.1"}
    assert len({post.content for post in posts}) == 1
    assert candidate.lineage.examples[0][1] == world.elsewhere.body()["examples"][0]["end"]
    open_runs = {r.key: r.value for r in world.broker.records(CHANGELOG)}
    assert open_runs.pop(b"taken") == b"7"
    assert set(open_runs.values()) == {None}


def test_every_scripted_death_happens(world: World) -> None:
    """Hold the list of steps: a run has four commits and five requests."""
    world.one()
    assert len(world.elsewhere.requests) == 5
    runs = [r for r in world.broker.records(CHANGELOG) if r.key != b"taken"]
    assert len(runs) == 4


def test_a_run_that_succeeded_while_nobody_looked_counts_even_after_its_deadline(
    world: World, elsewhere: Elsewhere
) -> None:
    elsewhere.crash_before = 1

    async def process() -> None:
        desk = world.desk()
        await desk.open()
        await desk.take(world.record(0, world.request()))
        await world.until(lambda: bool(world.crashes) or bool(world.candidates()))
        await desk.close()

    asyncio.run(process())
    world.crashes.clear()
    world.clock.seconds += 10_000
    elsewhere.statuses = ["succeeded"]
    asyncio.run(process())
    (candidate,) = world.candidates()
    assert candidate.failure is None


def test_a_second_owner_of_the_partition_fences_the_first(world: World) -> None:
    from kedge.errors import Fenced

    async def scenario() -> None:
        first, second = world.desk(), world.desk()
        await first.open()
        await second.open()
        with pytest.raises(Fenced):
            await first.take(world.record(0, world.request()))
        assert await second.take(world.record(0, world.request()))
        await world.until(lambda: len(world.candidates()) == 1)
        await first.close()
        await second.close()

    asyncio.run(scenario())
    assert len(world.elsewhere.posts()) == 1


def test_the_monitor_of_the_tests_is_one_that_check_takes(world: World) -> None:
    from kedge.monitor_checks import mistakes

    declared: Monitor = world.monitors["m"]
    assert mistakes(declared) == []
