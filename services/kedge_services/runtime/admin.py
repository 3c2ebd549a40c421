"""The cluster's side: is it there, and are the topics what they must be."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kedge.errors import BrokerUnavailable, Misconfigured, UsageError
from kedge.topics import CHANGELOGS, TOPICS
from kedge_services.runtime.settings import KafkaSettings, Settings

__all__ = [
    "TopicPlan",
    "check_topics",
    "client_properties",
    "create_topics",
    "plan_topics",
    "require_topics",
    "wait_for_kafka",
]

_TIMEOUT_S = 15.0
_POLL_S = 0.02
#: librdkafka prints every refused connection; ours is one sentence at the end.
_QUIET = {"log_level": 2}


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """One topic as it must be in the cluster, with its full name."""

    name: str
    partitions: int
    config: dict[str, str]


def plan_topics(settings: Settings, names: Sequence[str] | None = None) -> list[TopicPlan]:
    """Give all topics (or the named ones) with the prefix, M and N of the settings."""
    table = [*TOPICS.values(), *CHANGELOGS.values()]
    return [
        TopicPlan(
            settings.prefix + topic.name,
            topic.partitions(
                requests=settings.request_partitions, models=settings.model_partitions
            ),
            topic.config(),
        )
        for topic in table
        if names is None or topic.name in names
    ]


def client_properties(kafka: KafkaSettings) -> dict[str, Any]:
    """Give librdkafka's properties for any client of this cluster.

    Raises
    ------
    BrokerUnavailable
        No address is known.
    """
    if kafka.bootstrap_servers is None:
        raise BrokerUnavailable(
            "no Kafka is known: start one with `kedge up` or `kedge broker`, or name yours with "
            "--bootstrap-servers, KEDGE_KAFKA__BOOTSTRAP_SERVERS or [kafka] in kedge.toml"
        )
    return {**kafka.properties, "bootstrap.servers": kafka.bootstrap_servers}


def wait_for_kafka(kafka: KafkaSettings, *, timeout_s: float | None = None) -> None:
    """Return as soon as the cluster answers.

    Raises
    ------
    BrokerUnavailable
        It did not within the time-out (of the settings, else 15 s).
    UsageError
        A property is none of librdkafka's.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    timeout_s = timeout_s or kafka.timeout_s or _TIMEOUT_S
    # A local broker that starts must not be met by a client that backs off for seconds.
    backoff = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200}
    try:
        admin = AdminClient({**backoff, **client_properties(kafka), **_QUIET})
    except KafkaException as error:
        raise UsageError(f"[kafka] properties are not valid: {error.args[0].str()}") from error
    try:
        admin.list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise BrokerUnavailable(
            f"no Kafka answers at {kafka.bootstrap_servers} ({error.args[0].str()}): start one "
            "with `kedge up` or `kedge broker`, or name yours with --bootstrap-servers, "
            "KEDGE_KAFKA__BOOTSTRAP_SERVERS or [kafka] in kedge.toml"
        ) from error


def create_topics(settings: Settings, names: Sequence[str] | None = None) -> list[str]:
    """Create what is missing; give the full names of what was created.

    Topics that exist are left as they are: :func:`check_topics` judges them.

    Raises
    ------
    BrokerUnavailable
        No Kafka answers.
    Misconfigured
        The cluster refuses a topic.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # not re-exported

    admin = _admin(settings)
    existing = set(admin.list_topics(timeout=_TIMEOUT_S).topics)
    wanted = [
        NewTopic(
            plan.name,
            num_partitions=plan.partitions,
            replication_factor=settings.kafka.replication_factor,
            config=plan.config,
        )
        for plan in plan_topics(settings, names)
        if plan.name not in existing
    ]
    if not wanted:
        return []
    created = []
    for name, future in admin.create_topics(wanted, operation_timeout=_TIMEOUT_S).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                reason = error.args[0].str()
                raise Misconfigured(f"topic {name} cannot be created: {reason}") from error
        else:
            created.append(name)
    _await_topics(admin, {topic.topic for topic in wanted})
    return sorted(created)


def _await_topics(admin: Any, names: set[str]) -> None:
    """Wait until the brokers know what the controller has created, and who leads it.

    Before that a client is told that the topic does not exist.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        topics = admin.list_topics(timeout=_TIMEOUT_S).topics
        missing = sorted(
            name
            for name in names
            if name not in topics
            or topics[name].error is not None
            or any(p.leader < 0 or p.error is not None for p in topics[name].partitions.values())
        )
        if not missing:
            return
        if time.monotonic() > deadline:
            raise Misconfigured(f"created, but without leaders: {', '.join(missing)}")
        time.sleep(_POLL_S)


def check_topics(settings: Settings, names: Sequence[str] | None = None) -> list[str]:
    """Compare the cluster with the table of topics; give one sentence per difference.

    Raises
    ------
    BrokerUnavailable
        No Kafka answers.
    """
    from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not re-exported
        ConfigResource,
        ResourceType,
    )

    admin = _admin(settings)
    existing = admin.list_topics(timeout=_TIMEOUT_S).topics
    plans = plan_topics(settings, names)
    problems = [f"{plan.name} is missing" for plan in plans if plan.name not in existing]
    present = [plan for plan in plans if plan.name in existing]
    resources = [ConfigResource(ResourceType.TOPIC, plan.name) for plan in present]
    answers = admin.describe_configs(resources) if resources else {}
    for plan, resource in zip(present, resources, strict=True):
        found = len(existing[plan.name].partitions)
        if found != plan.partitions:
            problems.append(f"{plan.name} has {found} partitions, must have {plan.partitions}")
        config = answers[resource].result()
        problems += [
            f"{plan.name} has {key}={config[key].value}, must have {value}"
            for key, value in plan.config.items()
            if _normal(config[key].value) != _normal(value)
        ]
    return problems


def require_topics(settings: Settings, names: Sequence[str] | None = None) -> None:
    """Make sure that the topics exist with the right partitions and configuration.

    Raises
    ------
    Misconfigured
        They are not; the message names every difference.
    """
    problems = check_topics(settings, names)
    if problems:
        raise Misconfigured("; ".join(problems) + " (see `kedge topics create`)")


def _normal(value: str) -> list[str]:
    """Make lists comparable: ``compact,delete`` is ``delete,compact``."""
    return sorted(part.strip() for part in value.split(","))


def _admin(settings: Settings) -> Any:
    from confluent_kafka.admin import AdminClient

    wait_for_kafka(settings.kafka)
    return AdminClient({**client_properties(settings.kafka), **_QUIET})
