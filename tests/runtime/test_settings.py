from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from kedge.errors import UsageError
from kedge_services.runtime.settings import Settings


@pytest.fixture(autouse=True)
def empty_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty directory, with no KEDGE_ variable set."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("KEDGE_")]:
        monkeypatch.delenv(name)


def write(text: str, name: str = "kedge.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def test_defaults_hold_without_file_and_environment() -> None:
    settings = Settings.load()
    assert (settings.prefix, settings.request_partitions, settings.model_partitions) == (
        "kedge.", 8, 4,
    )  # fmt: skip
    assert settings.kafka.bootstrap_servers is None
    assert (settings.loop.commit_interval_ms, settings.time.idle_after_ms) == (500, 30_000)


def test_the_environment_beats_the_file_and_the_file_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(
        'prefix = "file."\nordinal = 1\n'
        '[kafka]\nbootstrap_servers = "file:1"\nreplication_factor = 3\n'
        '[kafka.properties]\n"security.protocol" = "SSL"\n'
    )
    monkeypatch.setenv("KEDGE_PREFIX", "env.")
    monkeypatch.setenv("KEDGE_KAFKA__BOOTSTRAP_SERVERS", "env:1")
    settings = Settings.load()
    assert (settings.prefix, settings.ordinal) == ("env.", 1)
    assert settings.kafka.bootstrap_servers == "env:1"
    assert settings.kafka.replication_factor == 3
    assert settings.kafka.properties == {"security.protocol": "SSL"}
    assert Settings.load(prefix="argument.").prefix == "argument."


def test_a_named_file_replaces_the_one_in_the_directory() -> None:
    write('prefix = "here."\n')
    other = write("ordinal = 2\n", "other.toml")
    settings = Settings.load(other)
    assert (settings.prefix, settings.ordinal) == ("kedge.", 2)


def test_properties_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDGE_KAFKA__PROPERTIES", '{"sasl.username": "me"}')
    assert Settings.load().kafka.properties == {"sasl.username": "me"}
    monkeypatch.setenv("KEDGE_KAFKA__PROPERTIES", "{")
    with pytest.raises(UsageError, match="KEDGE_… variable cannot be read"):
        Settings.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('prefx = "a"\n', 'prefx: no such setting; did you mean "prefix"?'),
        (
            '[kafka]\nbootstrap = "a"\n',
            'kafka.bootstrap: no such setting; did you mean "bootstrap_servers"?',
        ),
        ("[loop]\ncommit_interval_ms = 0\n", "loop.commit_interval_ms: expected greater than"),
        ('log_format = "xml"\n', "log_format: expected 'console' or 'json' (got 'xml')"),
        ("ordinal = \n", "kedge.toml: not valid TOML: Invalid value (at line 1"),
    ],
)
def test_a_wrong_setting_names_itself_and_what_is_expected(text: str, message: str) -> None:
    write(text)
    with pytest.raises(UsageError) as raised:
        Settings.load()
    assert message in str(raised.value)
    assert "kedge.toml" in str(raised.value)


def test_a_wrong_variable_of_a_section_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDGE_LOOP__COMIT_RECORDS", "5")
    with pytest.raises(UsageError, match=r"comit_records: no such setting; did you mean"):
        Settings.load()


def test_a_named_file_must_exist() -> None:
    with pytest.raises(UsageError, match=r"nothing\.toml: no such settings file"):
        Settings.load(Path("nothing.toml"))


def test_settings_do_not_change_after_they_were_read() -> None:
    settings = Settings.load()
    with pytest.raises(ValidationError):
        settings.prefix = "other."  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    def undescribed(model: type[BaseModel], path: str = "") -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            if not (field.description or "").endswith((".", "…")):
                found.append(path + name)
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found += undescribed(inner, f"{path}{name}.")
        return found

    assert undescribed(Settings) == []
