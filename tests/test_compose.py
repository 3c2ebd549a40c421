"""The container files are held against the commands, topics and settings that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedge_services.local.catalogue import SERVICES
from kedge_services.runtime.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = {name: s for name, s in COMPOSE["services"].items() if name != "kafka"}


def test_every_service_of_the_catalogue_has_a_container_of_its_name() -> None:
    assert set(OURS) == {*SERVICES, "topics"}
    for name in SERVICES:
        assert OURS[name]["command"] == ["run", name]


def test_topics_are_created_before_any_service_starts() -> None:
    assert OURS["topics"]["command"] == ["topics", "create"]
    assert OURS["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    for name in SERVICES:
        assert "topics" in OURS[name]["depends_on"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_environment_variable_is_a_setting(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment = {key: str(value) for key, value in OURS[name]["environment"].items()}
    assert all(key.startswith("KEDGE_") for key in environment)
    monkeypatch.chdir(tmp_path)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    defaults = Settings.model_construct()
    settings = Settings.load()
    for key, value in environment.items():
        found: Any = settings
        default: Any = defaults
        for part in key.removeprefix("KEDGE_").lower().split("__"):
            found, default = getattr(found, part), getattr(default, part)
        assert str(found) == value, key
        assert found != default, f"{key} says what is the default anyway"


def test_kafka_and_topics_meet_at_the_same_address() -> None:
    kafka = COMPOSE["services"]["kafka"]["environment"]
    address = OURS["panes"]["environment"]["KEDGE_KAFKA__BOOTSTRAP_SERVERS"]
    assert f"INTERNAL://{address}" in kafka["KAFKA_ADVERTISED_LISTENERS"]


def test_nothing_is_published_beyond_the_host() -> None:
    for name, service in COMPOSE["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name


def test_the_image_copies_what_exists_and_installs_what_is_pinned() -> None:
    dockerfile = (ROOT / "infra" / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    assert "--constraint constraints.txt" in dockerfile
    environment = re.findall(r"(KEDGE_[A-Z_]+)=", dockerfile)
    fields = {f"KEDGE_{name.upper()}" for name in Settings.model_fields}
    assert environment
    assert set(environment) <= fields


def test_volumes_lie_where_the_image_keeps_its_state() -> None:
    dockerfile = (ROOT / "infra" / "Dockerfile").read_text()
    for volume in COMPOSE["x-kedge"]["volumes"]:
        name, path = volume.split(":")
        assert name in COMPOSE["volumes"]
        assert f"={path}" in dockerfile
