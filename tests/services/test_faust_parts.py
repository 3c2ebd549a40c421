"""What Faust is given and what is watched around it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.errors import UsageError
from kedge_services.runtime.faust_app import PrefixAcks, StallWatch
from kedge_services.runtime.faust_auth import faust_options


class Event:
    """An event of Faust's, as far as acknowledging goes."""

    def __init__(self, partition: int, offset: int, acked: list[tuple[int, int]]) -> None:
        self.message = SimpleNamespace(topic="alerts", partition=partition, offset=offset)
        self._acked = acked

    def ack(self) -> None:
        self._acked.append((self.message.partition, self.message.offset))


@given(order=st.permutations([(p, o) for p in range(3) for o in range(5)]), done=st.integers(0, 15))
def test_nothing_is_acknowledged_before_what_came_before_it(
    order: list[tuple[int, int]], done: int
) -> None:
    acked: list[tuple[int, int]] = []
    acks = PrefixAcks(100)
    marks = {(p, o): acks.add(Event(p, o, acked)) for o in range(5) for p in range(3)}
    for place in order[:done]:
        marks[place]()
    for partition in range(3):
        finished = {o for p, o in order[:done] if p == partition}
        prefix = next(n for n in range(6) if n not in finished)
        assert [o for p, o in acked if p == partition] == list(range(prefix))
    assert len(acks) == 15 - len(acked)


def test_reading_rests_while_enough_is_in_work() -> None:
    async def scenario() -> None:
        acks = PrefixAcks(2)
        first, _ = acks.add(Event(0, 0, [])), acks.add(Event(0, 1, []))
        assert acks.is_full
        waiting = asyncio.create_task(acks.wait_for_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        first()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())


def test_a_stall_is_no_progress_with_something_to_read() -> None:
    place = ("alerts", 0)
    watch = StallWatch(limit_s=10)
    #         time  position  end
    for now, position, end in [(0, 5, 9), (9, 6, 9), (18, 7, 9), (19, 9, 9), (500, 9, 9)]:
        assert watch.look(now, {place: (position, end)}) == []
    assert watch.look(501, {place: (9, 10)}) == []
    assert watch.look(510, {place: (9, 10)}) == []
    assert watch.look(512, {place: (9, 10)}) == [place]
    assert watch.look(513, {}) == []  # taken away
    assert watch.look(600, {place: (9, 10)}) == []  # and given back: it starts anew


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sasl_and_tls_are_passed_on(mechanism: str) -> None:
    options = faust_options(
        {
            "security.protocol": "SASL_SSL",
            "sasl.mechanisms": mechanism,
            "sasl.username": "u",
            "sasl.password": "p",
            "ssl.endpoint.identification.algorithm": "none",
            "client.id": "kedge",
            "linger.ms": 5,
        }
    )
    credentials = options.pop("broker_credentials")
    assert options == {"broker_client_id": "kedge"}
    assert credentials.mechanism.value == mechanism
    assert credentials.protocol.value == "SASL_SSL"
    assert (credentials.username, credentials.password) == ("u", "p")
    assert not credentials.ssl_context.check_hostname
    assert credentials.ssl_context.verify_mode.name == "CERT_REQUIRED"


def test_tls_alone_verifies_by_default() -> None:
    credentials = faust_options({"security.protocol": "ssl"})["broker_credentials"]
    assert credentials.protocol.value == "SSL"
    assert credentials.context.check_hostname
    off = faust_options({"security.protocol": "ssl", "enable.ssl.certificate.verification": False})[
        "broker_credentials"
    ]
    assert off.context.verify_mode.name == "CERT_NONE"


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ({"sasl.kerberos.service.name": "kafka"}, "sasl.kerberos.service.name"),
        ({"socket.nagle.disable": True, "client.id": "k"}, "socket.nagle.disable"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"}, "sasl.mechanism"),
        ({"security.protocol": "TLS"}, "security.protocol"),
        ({"security.protocol": "SSL", "ssl.ca.location": "/none.pem"}, "TLS files"),
    ],
)
def test_what_cannot_be_passed_on_fails_at_the_start(
    properties: dict[str, str | float | bool], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        faust_options(properties)


def test_plain_text_needs_nothing() -> None:
    assert faust_options({}) == {}
