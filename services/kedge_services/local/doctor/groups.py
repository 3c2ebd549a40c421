"""The services: who runs, and how far behind."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from kedge.errors import Stop
from kedge_services.local.doctor.findings import Finding, failed, ok, warning
from kedge_services.local.doctor.lag import Lag, counted, judge_lag, processes
from kedge_services.runtime.admin import client_properties
from kedge_services.runtime.app import wall_clock
from kedge_services.runtime.ports import Backend, TopicPartition
from kedge_services.runtime.reading import RangeReader
from kedge_services.runtime.settings import Settings

__all__ = ["check_groups"]

_TIMEOUT_S = 10.0
#: Offsets up to which records are counted, not offsets.
_NEAR = 1_000
#: Between two looks at a service that is far behind; a few of its commits.
_BETWEEN_S = 2.0
#: How long the records that wait longest are looked for.
_AGE_S = 5.0


Offsets = Mapping[TopicPartition, int]


class _Group(NamedTuple):
    """Members of a service's consumer group; ``lag`` is None when it has read nothing yet.

    ``positions`` and ``ends`` are what it was counted from, at ``at_s``.
    """

    service: str
    members: int
    lag: int | None
    positions: Offsets
    ends: Offsets
    at_s: float


def check_groups(
    settings: Settings, backend: Backend, services: Sequence[str]
) -> Iterator[Finding]:
    """Look at the consumer group of every service."""
    admin = AdminClient({**client_properties(settings.kafka), "log_level": 2})
    try:
        groups = _groups(admin, backend, settings.prefix, services)
    except KafkaException as error:
        what = f"the consumer groups cannot be described ({error.args[0].str()})"
        yield failed("services", what, f"allow this user to describe {settings.prefix}*")
        return
    if not any(group.members for group in groups):
        waiting = sum(group.lag or 0 for group in groups)
        what = "none is running" + (f"; {counted(waiting)} wait" if waiting else "")
        yield warning("services", what, "`kedge up` runs all, `kedge run SERVICE` one")
        return
    far = [group for group in groups if group.members and (group.lag or 0) > _NEAR]
    if far:
        # A second look tells who catches up and who does not.
        time.sleep(_BETWEEN_S)
    for group in groups:
        if group in far:
            yield judge_lag(group.service, _look_again(admin, backend, settings.prefix, group))
        else:
            yield _judged(group)


def _look_again(admin: Any, backend: Backend, prefix: str, first: _Group) -> Lag:
    """See what has come and what has been read since the first look."""
    positions = {**first.positions, **_positions(admin, prefix, prefix + first.service)}
    ends = {**first.ends, **_ends(admin, prefix, positions)}
    seconds = time.monotonic() - first.at_s

    def moved(now: Offsets, before: Offsets) -> int:
        return sum(max(0, now[place] - offset) for place, offset in before.items())

    waiting = {place: offset for place, offset in positions.items() if offset < ends[place]}
    return Lag(
        records=sum(ends[place] - offset for place, offset in waiting.items()),
        age_s=_age_s(backend, waiting),
        came=moved(ends, first.ends),
        read=moved(positions, first.positions),
        seconds=seconds,
        members=first.members,
        partitions=len({place.partition for place in positions}),
    )


def _age_s(backend: Backend, waiting: Offsets) -> float | None:
    """Say for how long the oldest of the records has waited that are next in a partition."""
    oldest: dict[TopicPartition, int] = {}
    with closing(backend.consumer(group=None)) as consumer:
        consumer.assign(waiting)
        deadline = time.monotonic() + _AGE_S
        while len(oldest) < len(waiting) and time.monotonic() < deadline:
            try:
                batches = consumer.poll(1_000, 0.05)
            except Stop:
                return None  # deleted before it was read: there is no time to be told
            for batch in batches:
                place = TopicPartition(batch.topic, batch.partition)
                oldest.setdefault(place, batch.timestamps_ms[0])
                consumer.pause([place])
    if not oldest:
        return None
    return max(0.0, (wall_clock() - min(oldest.values())) / 1_000)


def _judged(group: _Group) -> Finding:
    lag = f"{counted(group.lag)} behind" if group.lag else "nothing waits"
    if group.lag is None:
        lag = "nothing read yet"
    if group.members:
        return ok("services", f"{group.service}: {processes(group.members)}, {lag}")
    move = f"`kedge run {group.service}`, if it is wanted"
    return warning("services", f"{group.service}: not running, {lag}", move)


def _groups(admin: Any, backend: Backend, prefix: str, services: Sequence[str]) -> list[_Group]:
    names = {prefix + service: service for service in services}
    described = admin.describe_consumer_groups(list(names), request_timeout=_TIMEOUT_S)
    positions = {name: _positions(admin, prefix, name) for name in names}
    at_s = time.monotonic()
    ends = _ends(admin, prefix, {place for places in positions.values() for place in places})
    return [
        _Group(
            service=names[name],
            members=len(future.result().members),
            lag=_lag(backend, positions[name], ends) if positions[name] else None,
            positions=positions[name],
            ends={place: ends[place] for place in positions[name]},
            at_s=at_s,
        )
        for name, future in described.items()
    ]


def _positions(admin: Any, prefix: str, group: str) -> dict[TopicPartition, int]:
    """Give the next offsets a group will read, by topic without prefix."""
    asked = [ConsumerGroupTopicPartitions(group)]
    answers = admin.list_consumer_group_offsets(asked, request_timeout=_TIMEOUT_S)
    return {
        TopicPartition(place.topic.removeprefix(prefix), place.partition): place.offset
        for future in answers.values()
        for place in future.result().topic_partitions
        if place.offset >= 0
    }


def _ends(admin: Any, prefix: str, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    """Give where what can be read ends."""
    if not places:
        return {}
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {KafkaPartition(prefix + p.topic, p.partition): latest for p in places}
    answers = admin.list_offsets(
        asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_TIMEOUT_S
    )
    return {
        TopicPartition(place.topic.removeprefix(prefix), place.partition): future.result().offset
        for place, future in answers.items()
    }


def _lag(backend: Backend, positions: Offsets, ends: Offsets) -> int:
    """Count the records that wait; the ends of transactions take offsets, and are none."""
    far, near = 0, {}
    for place, offset in positions.items():
        if (distance := ends[place] - offset) > _NEAR:
            far += distance
        elif distance > 0:
            near[place] = (offset, ends[place])
    return far + _read(backend, near)


def _read(backend: Backend, ranges: Mapping[TopicPartition, tuple[int, int]]) -> int:
    """Count the records of some short ranges."""
    found = 0
    with closing(RangeReader(backend)) as reader:
        for place, (offset, end) in ranges.items():
            reader.add(place, offset, end)
        deadline = time.monotonic() + _TIMEOUT_S
        while not all(map(reader.is_done, ranges)) and time.monotonic() < deadline:
            found += sum(len(batch) for batch in reader.poll(1_000, 0.02))
    return found
