"""What was declared: are the monitors valid, and are the variables set that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from kedge.codec import decode
from kedge.errors import DeadLetter, UsageError
from kedge.monitor import Monitor
from kedge.monitor_checks import mistakes
from kedge.problems import field_name
from kedge_services.core.schedule import check_schedule
from kedge_services.local.doctor.findings import Finding, failed, ok, warning
from kedge_services.runtime.ports import Backend, Record
from kedge_services.runtime.reading import TableReader

__all__ = ["check_monitors"]

_APPLY = "correct its file and `kedge apply` it again"


class _Values:
    """The last value of every key."""

    topic = "monitors"

    def __init__(self) -> None:
        self.by_model: dict[str, bytes] = {}

    def apply(self, record: Record) -> None:
        """Take one record."""
        model = (record.key or b"").decode(errors="replace")
        if record.value is None:
            self.by_model.pop(model, None)
        else:
            self.by_model[model] = record.value


def check_monitors(backend: Backend, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Read all monitors and look at each."""
    values = _Values()
    reader = TableReader(backend, [values])
    try:
        reader.refresh()
    finally:
        reader.close()
    if not values.by_model:
        move = "`kedge init DATA` writes a first one, `kedge apply` publishes it"
        yield warning("monitors", "there is none: nothing is watched", move)
    for model, value in sorted(values.by_model.items()):
        monitor, problem = _read(value)
        if monitor is None or problem is not None:
            yield failed("monitors", f"{model}: {problem}", _APPLY)
            continue
        yield ok("monitors", f"{model} is valid")
        yield from _variables(model, monitor, environ)


def _read(value: bytes) -> tuple[Monitor | None, str | None]:
    try:
        monitor = decode(Monitor, value)
        if monitor.retrain is not None and monitor.retrain.schedule is not None:
            check_schedule(monitor.retrain.schedule)
    except (DeadLetter, UsageError) as error:
        return None, str(error)
    found = mistakes(monitor)
    return monitor, f"{field_name(found[0][0])}: {found[0][1]}" if found else None


class _Variable(NamedTuple):
    name: str
    service: str
    is_url: bool


def _variables(model: str, monitor: Monitor, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look for the variables a monitor names; their values are secrets and stay here."""
    for variable in dict.fromkeys(_named(monitor)):
        what = f"${variable.name}, which {model} names for `{variable.service}`,"
        value = environ.get(variable.name)
        if value is None:
            move = f"set it where `kedge run {variable.service}` runs"
            yield warning("variables", f"{what} is not set here", move)
        elif variable.is_url and not _is_url(value):
            yield failed("variables", f"{what} holds no http(s) URL", "set it to the whole URL")
        else:
            yield ok("variables", f"{what} is set")


def _named(monitor: Monitor) -> Iterator[_Variable]:
    for notify in monitor.notify:
        yield _Variable(notify.url_env, "notifier", is_url=True)
    for executor in monitor.executors:
        yield _Variable(executor.url_env, "executors", is_url=True)
        if executor.secret_env is not None:
            yield _Variable(executor.secret_env, "executors", is_url=False)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)
