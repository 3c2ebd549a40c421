"""The model file of a run: fetched within bounds and compared with its sha256."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kedge_services.core.retrying import verdict
from kedge_services.executors.pursuing import Again, Pipeline, insist
from kedge_services.executors.reports import ModelFile
from kedge_services.executors.runs import Plan, RunFailed
from kedge_services.runtime.http import Web
from kedge_services.runtime.times import Times

__all__ = ["fetch"]

_CHUNK = 1 << 20
#: Stores that fsspec may be asked for.  Not all of its schemes: some ask a server
#: that the text names, or hide another URL behind them.
_STORES = ("file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")


async def fetch(
    model: ModelFile, file: Path, *, plan: Plan, pipeline: Pipeline, web: Web, times: Times
) -> None:
    """Write the model file to ``file``.

    Raises
    ------
    RunFailed
        It cannot be had before the deadline, is too large, lies where nobody
        may look, or is not what its sha256 says.
    """
    limit = plan.executor.max_artefact_mb << 20
    who = f"executor {plan.executor.name}"
    scheme = urlsplit(model.uri).scheme

    async def attempt() -> Again | str:
        if scheme in ("http", "https"):
            answer = await web.download(model.uri, file, may_visit=pipeline.may_visit, limit=limit)
            what = answer.problem or f"status {answer.status}"
            if answer.status is None or verdict(answer.status) == "retry":
                return Again(what)
            is_there = verdict(answer.status) == "delivered" and not answer.problem
            return "" if is_there else what
        return await asyncio.to_thread(_copy, model.uri, file, limit)

    if scheme not in (*_STORES, "http", "https") or "::" in model.uri:
        raise RunFailed(
            f"{who}: its model lies at a {scheme or 'missing'} address; "
            f"only http, https, {', '.join(_STORES)} are read",
            "unusable",
        )
    if problem := await insist(attempt, plan, times, "hand its model over"):
        raise RunFailed(f"{who}: its model cannot be fetched: {problem}", "unusable")
    if await asyncio.to_thread(_sha256, file) != model.sha256:
        raise RunFailed(
            f"{who}: its model is not what was announced, the sha256 differs", "unusable"
        )


def _copy(uri: str, file: Path, limit: int) -> Again | str:
    """Copy from a store; give what is wrong, which may pass or not."""
    import fsspec

    try:
        store: Any
        store, path = fsspec.core.url_to_fs(uri)
        # Nothing that never ends: a device, a pipe.
        if uri.startswith("file:") and not Path(path).is_file():
            return "there is no such file"
        with store.open(path, "rb") as source, file.open("wb") as target:
            while chunk := source.read(_CHUNK):
                if target.tell() + len(chunk) > limit:
                    return f"it is larger than {limit} bytes"
                target.write(chunk)
    except (FileNotFoundError, PermissionError) as error:
        return type(error).__name__
    except (ImportError, ValueError) as error:
        return f"there is no driver for it: {type(error).__name__}"
    except Exception as error:  # noqa: BLE001 -- every store has errors of its own
        return Again(type(error).__name__)
    return ""


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
