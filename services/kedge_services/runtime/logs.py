"""Structured logs on stderr: readable lines for people, JSON for machines."""

from __future__ import annotations

import logging
import sys

import structlog

from kedge.errors import UsageError
from kedge_services.runtime.settings import Settings

__all__ = ["configure_logs"]


def configure_logs(settings: Settings, service: str | None = None) -> None:
    """Set the process's logging up; ``service`` stands on every line.

    Raises
    ------
    UsageError
        The setting ``log_level`` is no level.
    """
    levels = logging.getLevelNamesMapping()
    level = levels.get(settings.log_level.upper())
    if level is None:
        raise UsageError(
            f"log_level: {settings.log_level!r} is no level; use debug, info, warning or error"
        )
    renderer: list[structlog.typing.Processor]
    if settings.log_format == "json":
        renderer = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        renderer = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # The stream is looked up at each line, so that it can be replaced.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    if service is not None:
        structlog.contextvars.bind_contextvars(service=service)
    # Libraries log through the standard module; what they have to say is seldom ours.
    logging.basicConfig(
        level=max(level, logging.WARNING),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        force=True,
    )
