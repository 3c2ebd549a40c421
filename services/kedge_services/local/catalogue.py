"""The services there are, and how each is run."""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Callable
from typing import Any, cast

from pydantic import BaseModel

from kedge.errors import UsageError
from kedge.monitor_checks import suggestion
from kedge_services.runtime.ports import Service
from kedge_services.runtime.settings import Settings

__all__ = ["SERVICES", "require", "run", "settings_env"]

#: Name and what it does, in the order of the flow.
SERVICES: dict[str, str] = {
    "serving": "answers requests with the champion, lets challengers predict in its shadow",
    "panes": "folds predictions and outcomes into panes, joins them to examples",
    "windows": "adds panes up to windows of drift and accuracy, learns references",
    "alerts": "turns windows that break a rule into alerts",
    "triggers": "asks for a retrain when alerts, schedules, labels or people want one",
    "trainer": "trains candidates on labelled examples",
    "executors": "has pipelines elsewhere train, where a monitor names one",
    "registry": "decides which version serves",
    "notifier": "tells people and other systems about alerts",
}


def require(name: str) -> None:
    """Make sure that there is such a service.

    Raises
    ------
    UsageError
        There is none; the message says which may have been meant.
    """
    if name not in SERVICES:
        raise UsageError(f"there is no service {name!r}; {suggestion(name, list(SERVICES))}")


def run(name: str, settings: Settings, stop: threading.Event) -> None:
    """Run one service until ``stop`` is set.

    A service that is more than the loop brings its own ``run``; the others are
    run by :func:`kedge_services.runtime.app.run_service`.

    Raises
    ------
    UsageError
        There is no such service.
    """
    require(name)
    module = importlib.import_module(f"kedge_services.{name}.service")
    own = cast("Callable[[Settings, threading.Event], None] | None", getattr(module, "run", None))
    if own is not None:
        own(settings, stop)
        return
    from kedge_services.runtime.app import run_service

    make = cast("Callable[[Settings], Service]", module.make)
    run_service(make(settings), settings, stop)


def settings_env(settings: Settings) -> dict[str, str]:
    """Give the ``KEDGE_…`` variables with which another process reads the same settings."""
    return {
        f"KEDGE_{name}".upper(): value
        for field in type(settings).model_fields
        for name, value in _flat(field, getattr(settings, field))
    }


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if value is None:
        return []
    if isinstance(value, BaseModel):
        return [
            pair
            for field in type(value).model_fields
            for pair in _flat(f"{name}__{field}", getattr(value, field))
        ]
    if isinstance(value, dict | list | bool):
        return [(name, json.dumps(value))]
    return [(name, str(value))]
