"""Which kinds of executors there are; a new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kedge.monitor import Executor
from kedge_services.executors.pursuing import Pipeline
from kedge_services.executors.runs import RunFailed
from kedge_services.executors.webhook import Webhook
from kedge_services.runtime.http import Web
from kedge_services.runtime.times import Times

__all__ = ["KINDS", "PipelineOf", "pipelines"]

PipelineOf = Callable[[Executor], Pipeline]

#: What makes the pipeline of each kind that a monitor may name.
KINDS = {"webhook": Webhook}


def pipelines(environ: Mapping[str, str], web: Web, times: Times) -> PipelineOf:
    """Give what finds the pipeline of a declaration; raises RunFailed where it cannot be used."""

    def find(executor: Executor) -> Pipeline:
        name = f"executor {executor.name}"
        url = _value(environ, executor.url_env, name)
        # What is to be signed must not be sent unsigned.
        secret = executor.secret_env and _value(environ, executor.secret_env, name)
        try:
            make = KINDS[executor.kind]
            return make(name, url, secret, origins=executor.origins, web=web, times=times)
        except ValueError as error:
            raise RunFailed(f"{name}: {executor.url_env} holds {error}", "refused") from error

    return find


def _value(environ: Mapping[str, str], variable: str, name: str) -> str:
    value = environ.get(variable, "")
    if not value:
        raise RunFailed(
            f"{name}: the environment variable {variable} is not set for the service executors",
            "refused",
        )
    return value
