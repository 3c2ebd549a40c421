"""Pipelines that are started by a webhook and say at a URL how they are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from kedge.base import Contract
from kedge_services.core.retrying import retry_after_s, verdict
from kedge_services.core.signing import HEADER, signature
from kedge_services.executors.pursuing import Again
from kedge_services.executors.reports import Report, read
from kedge_services.executors.runs import Plan, RunFailed, Started
from kedge_services.runtime.http import Answer, Web, origin, resolve
from kedge_services.runtime.times import Times

__all__ = ["Webhook"]

#: A report may bring a reference, a megabyte for 500 features; a candidate has to stay below 8.
_REPORT_BYTES = 3 << 20


class _Taken(Contract):
    """A webhook's answer."""

    run_id: str | int
    status_url: str


class Webhook:
    """One receiver; its URL, its secret and what it answers stay out of every message.

    Parameters
    ----------
    name
        What it is called instead.
    url, secret
        Where to, and what requests are signed with.
    origins
        Further origins that may be asked besides the URL's own.
    web, times
        The network and the clock.

    Raises
    ------
    ValueError
        The URL is none.
    """

    def __init__(
        self,
        name: str,
        url: str,
        secret: str | None,
        *,
        origins: list[str],
        web: Web,
        times: Times,
    ) -> None:
        self._name = name
        self._url = url
        self._secret = secret
        self._origins = {origin(url), *map(origin, origins)}
        self._web = web
        self._times = times

    async def start(self, plan: Plan, key: str) -> Started | Again:
        """Post the payload."""
        body = plan.payload.encode()
        headers = {"Content-Type": "application/json", **self._headers(body, key)}
        answer = await self._web.post(self._url, body, headers)
        if (again := self._again(answer, "refused the run")) is not None:
            return again
        taken = read(_Taken, answer.body)
        if not isinstance(taken, _Taken):
            wrong = taken or "it is no JSON"
            raise RunFailed(f"{self._name} answered without run_id and status_url: {wrong}",
                            "refused")  # fmt: skip
        try:
            status_url = resolve(self._url, taken.status_url)
        except ValueError:
            status_url = ""
        if not self.may_visit(status_url):
            raise RunFailed(
                f"{self._name} gave a status_url of another origin; name it in `origins` if it "
                "is to be trusted", "refused",
            )  # fmt: skip
        return Started(run_id=str(taken.run_id), status_url=status_url)

    async def look(self, started: Started, key: str) -> Report | Again:
        """Get the status."""
        # There is no body to sign; the key is what tells one run from another.
        headers = {"Accept": "application/json", **self._headers(key.encode(), key)}
        answer = await self._web.get(
            started.status_url, headers, may_visit=self.may_visit, limit=_REPORT_BYTES
        )
        if (again := self._again(answer, "does not tell the status")) is not None:
            return again
        report = read(Report, answer.body)
        if report is None:  # a page of some proxy
            return Again("a status that is no JSON")
        if isinstance(report, str):
            raise RunFailed(f"{self._name} told a status that cannot be read: {report}", "unusable")
        return report

    def may_visit(self, url: str) -> bool:
        """Say whether a URL is of one of the origins."""
        try:
            return origin(url) in self._origins
        except ValueError:
            return False

    def _headers(self, signed: bytes, key: str) -> dict[str, str]:
        headers = {"Idempotency-Key": key}
        if self._secret:
            headers[HEADER] = signature(signed, self._secret)
        return headers

    def _again(self, answer: Answer, refusal: str) -> Again | None:
        """Give None for a success.

        Raises
        ------
        RunFailed
            Asking again would not help.
        """
        what = answer.problem or f"status {answer.status}"
        meaning: Literal["delivered", "retry", "refused"] = "retry"
        if answer.status is not None:
            meaning = verdict(answer.status)
        if meaning == "refused" or (meaning == "delivered" and answer.problem):
            raise RunFailed(f"{self._name} {refusal}: {what}", "refused")
        if meaning == "delivered":
            return None
        now = datetime.fromtimestamp(self._times.now_s(), UTC)
        return Again(what, retry_after_s(answer.retry_after, now))
