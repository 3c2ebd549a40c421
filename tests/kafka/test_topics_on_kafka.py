"""Topics on a cluster: created once, checked against the one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kedge.errors import Misconfigured
from kedge.topics import CHANGELOGS, TOPICS
from kedge_services.runtime.admin import check_topics, create_topics, require_topics
from kedge_services.runtime.kafka import KafkaBackend
from kedge_services.runtime.settings import Settings

if TYPE_CHECKING:
    from tests.kafka.conftest import KafkaRig

pytestmark = pytest.mark.parametrize(
    "rig", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True
)


@pytest.fixture
def settings(rig: KafkaRig) -> Settings:
    return rig.settings.model_copy(update={"request_partitions": 2, "model_partitions": 1})


def test_what_is_there_is_left_and_what_is_missing_is_created(settings: Settings) -> None:
    names = ["alerts", "windows", "predictions"]
    full = [settings.prefix + name for name in names]
    assert create_topics(settings, names[:1]) == full[:1]
    assert sorted(check_topics(settings, names)) == [
        f"{settings.prefix}predictions is missing", f"{settings.prefix}windows is missing",
    ]  # fmt: skip
    assert create_topics(settings, names) == sorted(full[1:])
    assert create_topics(settings, names) == []
    assert check_topics(settings, names) == []
    require_topics(settings, names)


def test_all_topics_are_what_the_table_says(settings: Settings) -> None:
    created = create_topics(settings)
    known = {**TOPICS, **{topic.name: topic for topic in CHANGELOGS.values()}}
    assert created == sorted(settings.prefix + name for name in known)
    assert check_topics(settings) == []
    backend = KafkaBackend(settings)
    found = {name: backend.partitions(name) for name in known}
    backend.close()
    assert found == {name: t.partitions(requests=2, models=1) for name, t in known.items()}


def test_every_difference_is_named(rig: KafkaRig, settings: Settings) -> None:
    prefix = settings.prefix
    rig.create({"predictions": 3}, message_timestamp_type="CreateTime", retention_ms="1000")
    rig.create({"windows": 1}, cleanup_policy="delete", max_message_bytes="1000000")
    names = ["predictions", "windows"]
    assert create_topics(settings, names) == []
    problems = check_topics(settings, names)
    windows, day = TOPICS["windows"].config(), 86_400_000
    assert sorted(problems) == sorted([
        f"{prefix}predictions has 3 partitions, must have 2",
        f"{prefix}predictions has message.timestamp.type=CreateTime, must have LogAppendTime",
        f"{prefix}predictions has retention.ms=1000, must have {32 * day}",
        f"{prefix}windows has cleanup.policy=delete, must have {windows['cleanup.policy']}",
        f"{prefix}windows has max.message.bytes=1000000, must have {8 << 20}",
        f"{prefix}windows has retention.ms={7 * day}, must have {90 * day}",
    ])  # fmt: skip
    with pytest.raises(Misconfigured) as error:
        require_topics(settings, names)
    assert all(problem in str(error.value) for problem in problems)
    assert "kedge topics create" in str(error.value)


def test_a_topic_that_a_cluster_refuses_is_named(settings: Settings) -> None:
    kafka = settings.kafka.model_copy(update={"replication_factor": 3})
    with pytest.raises(Misconfigured, match=r"alerts cannot be created: .*replication"):
        create_topics(settings.model_copy(update={"kafka": kafka}), ["alerts"])
