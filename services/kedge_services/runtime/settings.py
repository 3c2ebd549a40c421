"""Settings: ``kedge.toml`` and ``KEDGE_…`` variables, built once and passed on.

The environment comes before the file, the file before the defaults, e.g.
``KEDGE_KAFKA__BOOTSTRAP_SERVERS`` or ``[kafka]`` ``bootstrap_servers``.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from kedge.errors import UsageError
from kedge.monitor_checks import suggestion
from kedge.problems import Problem, problems
from kedge.topics import DEFAULT_PREFIX, MODEL_PARTITIONS, REQUEST_PARTITIONS

__all__ = ["PROMPT_MS", "KafkaSettings", "LoopSettings", "ServingSettings", "Settings"]

#: How often a service commits whose answers are waited for, unless the setting is shorter.
PROMPT_MS = 100


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(_Section):
    """Where Kafka is; ``properties`` go to librdkafka as they are (TLS, SASL, …)."""

    bootstrap_servers: str | None = Field(
        default=None,
        description="Addresses, `host:port,…`; without them the local broker that "
        "`kedge up` or `kedge broker` announces in `.kedge/broker.json`.",
    )
    properties: dict[str, str | int | float | bool] = Field(
        default={}, description="librdkafka's properties, as they are: TLS, SASL, …"
    )
    replication_factor: int = Field(
        default=1, ge=1, description="Of the topics that `kedge topics create` makes."
    )
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="How long Kafka's first answer is waited for, in seconds: 5 in commands, "
        "15 in services, which may be started before their Kafka.",
    )


class LoopSettings(_Section):
    """The transactional loop."""

    commit_interval_ms: int = Field(
        default=500,
        ge=1,
        description="A transaction is committed this often while records come, in `windows`, "
        "`alerts` and `serving` at least every 100 ms; while what comes is old, after half its "
        "age, up to four times as long.",
    )
    commit_records: int = Field(
        default=200_000, ge=1, description="And at the latest after so many records."
    )
    poll_records: int = Field(
        default=10_000, ge=1, description="Records taken from Kafka at a time, at most."
    )
    idle_commit_interval_ms: int = Field(
        default=1_000, ge=1, description="How often progress is told while no records come."
    )
    dead_letter_ratio: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of unreadable records of a partition and model that is an alarm.",
    )
    dead_letter_minimum: int = Field(
        default=1_000, ge=1, description="Records before that share is judged."
    )
    accept_loss: bool = Field(
        default=False, description="Go on, counting, where records were deleted before being read."
    )


class ServingSettings(_Section):
    """The HTTP side of serving."""

    host: str = Field(default="127.0.0.1", description="Where the Open Inference Protocol listens.")
    port: int = Field(default=9180, ge=0, le=65535, description="Its port; 0 takes a free one.")
    max_pending: int = Field(default=1_000, ge=1, description="Requests waiting; beyond: 503.")
    drain_ms: int = Field(
        default=3_000,
        ge=0,
        description="How long a server that was told to stop still answers by HTTP, no longer "
        "ready: the time a load balancer needs to notice.",
    )


class TrainerSettings(_Section):
    """What the training's subprocess may do."""

    allow: list[str] = Field(
        default=[],
        description="Modules that a monitor's `package.module:function` may be imported from, "
        "with all that is in them; none by default, as a monitor could then run any of their code.",
    )


class PanesSettings(_Section):
    """What panes writes beside deltas."""

    examples: bool = Field(
        default=True,
        description="Write every prediction with its label to `examples`. Without them nothing "
        "can be trained, and the join keeps no features and answers.",
    )


class TimeSettings(_Section):
    """Event time, where a monitor does not say otherwise."""

    max_skew_ms: int = Field(
        default=300_000,
        ge=0,
        description="How far an event time may lie beyond the append time of its record.",
    )
    idle_after_ms: int = Field(
        default=30_000,
        ge=0,
        description="A partition quiet for so long no longer holds back a model's watermark.",
    )
    revise_interval_ms: int = Field(
        default=5_000, ge=0, description="A window is revised for display no more often than this."
    )


class Settings(BaseSettings):
    """All settings of a process."""

    model_config = SettingsConfigDict(
        env_prefix="KEDGE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        toml_file="kedge.toml",
    )

    kafka: KafkaSettings = Field(default=KafkaSettings(), description="Where Kafka is.")
    loop: LoopSettings = Field(default=LoopSettings(), description="The transactional loop.")
    panes: PanesSettings = Field(default=PanesSettings(), description="The join.")
    serving: ServingSettings = Field(
        default=ServingSettings(), description="The HTTP side of serving."
    )
    trainer: TrainerSettings = Field(
        default=TrainerSettings(),
        description="What the training's subprocess may do.",
    )
    time: TimeSettings = Field(
        default=TimeSettings(), description="Event time, where a monitor does not say otherwise."
    )
    prefix: str = Field(default=DEFAULT_PREFIX, description="What all names of topics start with.")
    request_partitions: int = Field(
        default=REQUEST_PARTITIONS,
        ge=1,
        description="Partitions of predictions, outcomes, requests, examples; never changed later.",
    )
    model_partitions: int = Field(
        default=MODEL_PARTITIONS,
        ge=1,
        description="Partitions of topics partitioned by model; never changed later.",
    )
    state_dir: Path = Field(
        default=Path(".kedge/state"), description="Local stores; can be lost, Kafka restores them."
    )
    artefacts: str = Field(
        default=".kedge/artefacts", description="Store of model files: directory or fsspec URL."
    )
    ordinal: int = Field(default=0, ge=0, description="The slot of this process in its service.")
    host: str = Field(default="127.0.0.1", description="Where /metrics and /healthz listen.")
    port: int = Field(default=0, ge=0, le=65535, description="Their port; 0 takes a free one.")
    log_level: str = Field(default="info", description="debug, info, warning or error.")
    log_format: Literal["console", "json"] = Field(
        default="console", description="Lines for people, or JSON for machines."
    )

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
        if file is not None and not file.is_file():
            raise UsageError(f"{file}: no such settings file")
        path = Path("kedge.toml") if file is None else file
        loader = cls
        if file is not None:
            config = {**cls.model_config, "toml_file": file}
            loader = type("Settings", (cls,), {"model_config": config})
        try:
            return loader(**overrides)
        except ValidationError as error:
            lines = "; ".join(map(_sentence, problems(error)))
            raise UsageError(
                f"settings (KEDGE_… variables or {path}) are not valid: {lines}"
            ) from error
        except SettingsError as error:
            raise UsageError(f"settings: a KEDGE_… variable cannot be read: {error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise UsageError(f"{path}: not valid TOML: {error}") from error


def _sentence(problem: Problem) -> str:
    if problem.kind != "extra_forbidden":
        return f"{problem.field}: {problem.sentence}"
    section: type[BaseModel] = Settings
    for name in problem.location[:-1]:
        inner = section.model_fields[str(name)].annotation
        if not isinstance(inner, type) or not issubclass(inner, BaseModel):
            break
        section = inner
    known = list(section.model_fields)
    return f"{problem.field}: no such setting; {suggestion(str(problem.location[-1]), known)}"
