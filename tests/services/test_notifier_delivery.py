"""Notifications: what is sent, to whom, and when it is tried again."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.events import Alert
from kedge.monitor import Monitor
from kedge_services.core.retrying import GIVE_UP_S, next_pause_s, retry_after_s
from kedge_services.notifier.delivery import Deliveries, Destination, deliver
from kedge_services.notifier.routing import Router
from kedge_services.notifier.webhook import Notification, notification
from kedge_services.runtime.http import Answer

ALERT = Alert(
    alert_id="00f1/1795220224000",
    fingerprint="00f1",
    model='fraud "eu"',
    version="k3",
    rule="accuracy-low",
    kind="rule",
    severity="critical",
    status="firing",
    starts_ms=1795220224624,
    value=0.71,
    threshold=0.75,
    summary="accuracy 0.71 is below 0.75 for 2 windows",
    window_ids=["a", "b"],
)
ONE = Destination("webhook ONE", "http://one")
TWO = Destination("webhook TWO", "http://two")
NOTE = Notification("k", b"{}")


def monitor(*notify: dict[str, object]) -> Monitor:
    return Monitor.model_validate(
        {
            "model": ALERT.model,
            "task": "binary",
            "classes": [0, 1],
            "features": {"x": "numeric"},
            "notify": list(notify),
        }
    )


# ------------------------------------------------------------------- payload


def test_webhook_is_alertmanagers_version_4() -> None:
    payload = json.loads(notification(ALERT).body)
    assert payload["version"] == "4"
    assert payload["groupKey"] == '{}:{model="fraud \\"eu\\""}'
    assert payload["status"] == "firing"
    (one,) = payload["alerts"]
    assert one["startsAt"] == "2026-11-21T00:17:04.624Z"
    assert one["endsAt"] == "0001-01-01T00:00:00Z"
    assert one["fingerprint"] == "00f1"
    assert one["labels"] == {
        "alertname": "accuracy-low",
        "model": 'fraud "eu"',
        "version": "k3",
        "kind": "rule",
        "severity": "critical",
    }
    assert one["annotations"]["summary"] == ALERT.summary
    assert one["annotations"]["window_ids"] == "a,b"


def test_the_key_tells_firing_from_resolved_and_is_ascii() -> None:
    resolved = ALERT.model_copy(update={"status": "resolved", "ends_ms": 1795220234000})
    assert notification(ALERT).key == "00f1/1795220224000/firing"
    assert notification(resolved).key == "00f1/1795220224000/resolved"
    assert json.loads(notification(resolved).body)["alerts"][0]["endsAt"].startswith("2026-11-21")
    assert notification(ALERT.model_copy(update={"alert_id": "é\n"})).key.isascii()


def test_the_signature_is_over_the_raw_body_and_only_with_a_secret() -> None:
    note = notification(ALERT)
    expected = hmac.new(b"s3cret", note.body, hashlib.sha256).hexdigest()
    assert note.headers("s3cret")["X-Kedge-Signature"] == f"sha256={expected}"
    assert "X-Kedge-Signature" not in note.headers(None)


# ------------------------------------------------------------------- routing


def test_told_are_webhooks_whose_url_is_set_once_each_for_their_severities() -> None:
    declared = monitor(
        {"kind": "webhook", "url_env": "A"},
        {"kind": "webhook", "url_env": "A_AGAIN"},
        {"kind": "webhook", "url_env": "NOT_SET"},
        {"kind": "webhook", "url_env": "NO_URL"},
        {"kind": "slack", "url_env": "A"},
        {"kind": "webhook", "url_env": "INFO_ONLY", "severities": ["info"]},
        {"kind": "webhook", "url_env": "B"},
    )
    router = Router(
        {"A": "http://a", "A_AGAIN": "http://a", "NO_URL": "ftp://a", "INFO_ONLY": "http://i",
         "B": "https://b", "B_SECRET": "s"}
    )  # fmt: skip
    assert router.destinations(ALERT, declared) == [
        Destination("webhook A", "http://a"),
        Destination("webhook B", "https://b", "s"),
    ]


@pytest.mark.parametrize(("status", "count"), [("pending", 0), ("firing", 1), ("resolved", 1)])
def test_pending_is_told_to_nobody(status: str, count: int) -> None:
    router = Router({"A": "http://a"})
    alert = ALERT.model_copy(update={"status": status})
    declared = monitor({"kind": "webhook", "url_env": "A"})
    assert len(router.destinations(alert, declared)) == count
    assert router.destinations(alert, None) == []


# ------------------------------------------------------------------ schedule


@given(attempts=st.integers(1, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_pauses_lie_in_the_upper_half_of_a_doubling_ceiling(attempts: int, jitter: float) -> None:
    ceiling = min(300.0, 2.0 ** min(attempts - 1, 60))
    pause = next_pause_s(attempts=attempts, elapsed_s=0.0, asked_s=None, jitter=jitter)
    assert pause is not None
    assert ceiling / 2 <= pause <= ceiling


@given(elapsed_s=st.floats(0, 2 * GIVE_UP_S), asked_s=st.floats(0, 2 * GIVE_UP_S))
def test_what_the_receiver_asks_for_wins_unless_it_ends_after_the_hour(
    elapsed_s: float, asked_s: float
) -> None:
    pause = next_pause_s(attempts=3, elapsed_s=elapsed_s, asked_s=asked_s, jitter=0.5)
    assert pause == (asked_s if elapsed_s + asked_s <= GIVE_UP_S else None)


def test_retry_after_without_zone_is_utc_and_the_past_is_now() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after_s("Thu, 01 Jan 2026 00:01:00", now) == 60
    assert retry_after_s("Thu, 01 Jan 2015 00:00:00 GMT", now) == 0
    assert retry_after_s("-5", now) is None


# ------------------------------------------------------------------ delivery


class Scripted:
    """A network that answers by script and a clock that pauses move on."""

    def __init__(self, **answers: Sequence[Answer]) -> None:
        self.answers = {f"http://{name}": list(script) for name, script in answers.items()}
        self.sent: list[tuple[str, str, float]] = []
        self.clock_s = 1_000_000.0
        self.dead = asyncio.Event()

    async def post(self, destination: Destination, note: Notification) -> Answer:
        self.sent.append((destination.url, note.key, self.clock_s - 1_000_000.0))
        script = self.answers[destination.url]
        if not script:
            await self.dead.wait()
        return script.pop(0) if len(script) > 1 else script[0]

    def now_s(self) -> float:
        return self.clock_s

    def jitter(self) -> float:
        return 0.5

    async def pause(self, seconds: float) -> None:
        self.clock_s += seconds
        await asyncio.sleep(0)


def test_a_failing_receiver_is_asked_again_with_the_same_key() -> None:
    network = Scripted(
        one=[Answer(503), Answer(429, "7"), Answer(None, problem="ConnectError"), Answer(204)]
    )
    assert asyncio.run(deliver(ONE, NOTE, post=network.post, times=network)) is None
    assert [key for _, key, _ in network.sent] == ["k"] * 4
    #            503: 1 s · .75   429: as asked   3rd failure: 4 s · .75
    assert [at for _, _, at in network.sent] == [0, 0.75, 7.75, 10.75]


def test_a_refusal_is_final() -> None:
    network = Scripted(one=[Answer(404)])
    problem = asyncio.run(deliver(ONE, NOTE, post=network.post, times=network))
    assert problem == "webhook ONE refused it: status 404"
    assert len(network.sent) == 1


def test_a_dead_receiver_is_given_up_within_the_hour() -> None:
    network = Scripted(one=[Answer(500)])
    problem = asyncio.run(deliver(ONE, NOTE, post=network.post, times=network))
    assert problem is not None
    assert "did not take it" in problem
    assert GIVE_UP_S - 300 <= network.sent[-1][2] <= GIVE_UP_S


def test_a_dead_receiver_delays_no_other_and_order_is_kept() -> None:
    async def scenario() -> list[str]:
        network = Scripted(one=[], two=[Answer(200)])
        crashed: list[BaseException] = []

        async def on_crash(error: BaseException) -> None:
            crashed.append(error)

        deliveries = Deliveries(post=network.post, times=network, on_crash=on_crash)
        delivered: list[str] = []
        finished = asyncio.Event()
        for number in range(20):
            key = f"{number}"

            async def done(problem: str | None, key: str = key) -> None:
                assert problem is None
                delivered.append(key)
                if len(delivered) == 20:
                    finished.set()

            async def never(problem: str | None) -> None:
                raise AssertionError(problem)

            deliveries.send(ONE, Notification(key, b""), never)
            deliveries.send(TWO, Notification(key, b""), done)
        await asyncio.wait_for(finished.wait(), 5)
        await deliveries.close()
        assert not crashed
        return delivered

    assert asyncio.run(scenario()) == [str(number) for number in range(20)]


def test_what_nobody_expected_reaches_on_crash() -> None:
    async def scenario() -> BaseException:
        crashed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

        async def post(destination: Destination, note: Notification) -> Answer:
            raise ZeroDivisionError(destination.name, note.key)

        async def on_crash(error: BaseException) -> None:
            crashed.set_result(error)

        async def done(problem: str | None) -> None:
            raise AssertionError(problem)

        deliveries = Deliveries(post=post, times=Scripted(), on_crash=on_crash)
        deliveries.send(ONE, NOTE, done)
        error = await asyncio.wait_for(crashed, 5)
        await deliveries.close()
        return error

    assert isinstance(asyncio.run(scenario()), ZeroDivisionError)


@pytest.mark.parametrize("destinations", [[], [ONE], [ONE, TWO]])
def test_all_destinations_have_it_before_it_counts_as_done(
    destinations: list[Destination],
) -> None:
    async def scenario() -> list[str | None]:
        network = Scripted(one=[Answer(404)], two=[Answer(503), Answer(204)])
        finished, told = asyncio.Event(), list[str | None]()

        async def each(problem: str | None) -> None:
            assert not finished.is_set()
            told.append(problem)

        async def on_crash(error: BaseException) -> None:
            raise error

        deliveries = Deliveries(post=network.post, times=network, on_crash=on_crash)
        deliveries.send_all(destinations, NOTE, each=each, after_all=finished.set)
        await asyncio.wait_for(finished.wait(), 5)
        await deliveries.close()
        return told

    expected = ["webhook ONE refused it: status 404", None][: len(destinations)]
    assert asyncio.run(scenario()) == expected
