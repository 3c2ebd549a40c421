"""Who is told about an alert.  Pure but for what it logs."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from kedge.events import Alert
from kedge.monitor import Monitor, Notify
from kedge_services.notifier.delivery import Destination

__all__ = ["SECRET_SUFFIX", "Router"]

#: ``ONCALL_URL`` is signed with the secret in ``ONCALL_URL_SECRET``, where that is set.
SECRET_SUFFIX = "_SECRET"  # noqa: S105 -- the name of a variable

_TOLD = {"firing", "resolved"}

_log = structlog.get_logger(__name__)


class Router:
    """Finds the destinations of alerts; says once what is wrong with a declared one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._complained: set[tuple[str, str]] = set()

    def destinations(self, alert: Alert, monitor: Monitor | None) -> list[Destination]:
        """Give where this alert has to go; nowhere while it is only pending."""
        if monitor is None or alert.status not in _TOLD:
            return []
        found: dict[str, Destination] = {}
        for notify in monitor.notify:
            if alert.severity in notify.severities:
                destination = self._destination(notify)
                if destination is not None:
                    # The same receiver twice is still one receiver.
                    found.setdefault(destination.url, destination)
        return list(found.values())

    def _destination(self, notify: Notify) -> Destination | None:
        url = self._environ.get(notify.url_env, "")
        if notify.kind != "webhook":
            self._complain(notify, f"there is no sink of kind {notify.kind} yet; use a webhook")
        elif not url:
            self._complain(notify, f"the environment variable {notify.url_env} is not set")
        elif not url.startswith(("http://", "https://")):
            self._complain(notify, f"{notify.url_env} holds no http(s) URL")
        else:
            secret = self._environ.get(notify.url_env + SECRET_SUFFIX)
            return Destination(f"{notify.kind} {notify.url_env}", url, secret)
        return None

    def _complain(self, notify: Notify, problem: str) -> None:
        if (notify.kind, notify.url_env) not in self._complained:
            self._complained.add((notify.kind, notify.url_env))
            _log.warning("nobody is told", problem=problem)
