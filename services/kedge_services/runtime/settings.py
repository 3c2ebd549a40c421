"""Settings: ``kedge.toml`` and ``KEDGE_…`` variables, built once and passed on.

The environment comes before the file, the file before the defaults, e.g.
``KEDGE_KAFKA__BOOTSTRAP_SERVERS`` or ``[kafka]`` ``bootstrap_servers``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from kedge.topics import DEFAULT_PREFIX, MODEL_PARTITIONS, REQUEST_PARTITIONS

__all__ = ["KafkaSettings", "LoopSettings", "ServingSettings", "Settings"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(_Section):
    """Where Kafka is; ``properties`` go to librdkafka as they are (TLS, SASL, …)."""

    bootstrap_servers: str | None = None
    properties: dict[str, str | int | float | bool] = {}
    replication_factor: int = Field(default=1, ge=1)


class LoopSettings(_Section):
    """The transactional loop."""

    commit_interval_ms: int = Field(default=500, ge=1)
    commit_records: int = Field(default=200_000, ge=1, description="Commit at the latest after.")
    poll_records: int = Field(default=10_000, ge=1)
    idle_commit_interval_ms: int = Field(default=1_000, ge=1)
    dead_letter_ratio: float = Field(default=0.5, gt=0, le=1)
    dead_letter_minimum: int = Field(default=1_000, ge=1)
    accept_loss: bool = Field(
        default=False, description="Go on, counting, where records were deleted before being read."
    )


class ServingSettings(_Section):
    """The HTTP side of serving."""

    host: str = "127.0.0.1"
    port: int = Field(default=9180, ge=0, le=65535)
    max_pending: int = Field(default=1_000, ge=1, description="Requests waiting; beyond: 503.")


class TimeSettings(_Section):
    """Event time, where a monitor does not say otherwise."""

    max_skew_ms: int = Field(default=300_000, ge=0)
    idle_after_ms: int = Field(default=30_000, ge=0)
    revise_interval_ms: int = Field(default=5_000, ge=0)


class Settings(BaseSettings):
    """All settings of a process."""

    model_config = SettingsConfigDict(
        env_prefix="KEDGE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        toml_file="kedge.toml",
    )

    kafka: KafkaSettings = KafkaSettings()
    loop: LoopSettings = LoopSettings()
    serving: ServingSettings = ServingSettings()
    time: TimeSettings = TimeSettings()
    prefix: str = DEFAULT_PREFIX
    request_partitions: int = Field(default=REQUEST_PARTITIONS, ge=1)
    model_partitions: int = Field(default=MODEL_PARTITIONS, ge=1)
    state_dir: Path = Path(".kedge/state")
    artefacts: str = Field(default=".kedge/artefacts", description="Directory or fsspec URL.")
    ordinal: int = Field(default=0, ge=0, description="The slot of this process in its service.")
    host: str = Field(default="127.0.0.1", description="Where /metrics and /healthz listen.")
    port: int = Field(default=0, ge=0, le=65535, description="Their port; 0 takes a free one.")
    log_level: str = "info"
    log_format: str = Field(default="console", pattern="^(console|json)$")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- Kedge reads no .env
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, environment, file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @classmethod
    def load(cls, file: Path | None = None, **overrides: Any) -> Settings:
        """Read the settings; ``file`` replaces ``./kedge.toml``.

        Raises
        ------
        UsageError
            A setting is unknown or wrong; the message names it.
        """
        from pydantic import ValidationError

        from kedge.errors import UsageError

        if file is not None and not file.is_file():
            raise UsageError(f"{file}: no such settings file")
        loader = cls
        if file is not None:
            loader = type(
                "Settings", (cls,), {"model_config": {**cls.model_config, "toml_file": file}}
            )
        try:
            return loader(**overrides)
        except ValidationError as error:
            lines = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()
            )
            raise UsageError(f"settings are not valid: {lines}") from error
