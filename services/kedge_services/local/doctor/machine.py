"""The machine: Python, packages, disk, the artefact store, what the local Kafka needs."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kedge.errors import BrokerUnavailable
from kedge_services.local.doctor.findings import Finding, failed, ok, warning
from kedge_services.local.kafka_jars import KAFKA_VERSION, cached_jars, find_java
from kedge_services.runtime.settings import Settings

__all__ = ["check_disk", "check_local_kafka", "check_packages", "check_python", "check_store"]

_OLDEST_PYTHON = (3, 11)
#: What each extra is for, told to who has it not.
_EXTRAS = {
    "services": "runs the services",
    "local": "runs a local Kafka",
    "onnx": "scores models in ONNX",
}
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+).*;.*extra\s*==\s*['\"]([a-z]+)['\"]")
_LITTLE_DISK = 1_000_000_000
_NO_DISK = 200_000_000
_STORE_S = 15.0


def check_python() -> Iterator[Finding]:
    """Look at Python's version."""
    version = platform.python_version()
    if sys.version_info[:2] < _OLDEST_PYTHON:
        yield failed("python", version, "use Python 3.11 or newer")
    else:
        yield ok("python", f"{version} in {sys.prefix}")


def check_packages(requirements: Sequence[str] | None = None) -> Iterator[Finding]:
    """Look for the packages of every extra.

    Parameters
    ----------
    requirements
        As in the metadata of a distribution; None takes those of Kedge.
    """
    if requirements is None:
        requirements = importlib.metadata.requires("kedge") or []
    for extra, use in _EXTRAS.items():
        named = [found for text in requirements if (found := _REQUIREMENT.match(text))]
        wanted = [found[1] for found in named if found[2] == extra]
        missing = [name for name in wanted if not _is_installed(name)]
        if missing:
            what = f"kedge[{extra}], which {use}, lacks {', '.join(missing)}"
            make = failed if extra == "services" else warning
            yield make("packages", what, f"pip install 'kedge[{extra}]'")
        else:
            yield ok("packages", f"kedge[{extra}] is complete, {len(wanted)} packages")


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Look how much room there is for the local stores."""
    free = shutil.disk_usage(_existing(settings.state_dir.absolute())).free
    detail = f"{free / 1e9:,.1f} GB free for {settings.state_dir}"
    if free < _NO_DISK:
        yield failed("disk", detail, "make room, or set state_dir to another disk")
    elif free < _LITTLE_DISK:
        yield warning("disk", detail, "make room soon, or set state_dir to another disk")
    else:
        yield ok("disk", detail)


def check_store(settings: Settings) -> Iterator[Finding]:
    """Write, read and delete a small file in the artefact store."""
    store = _without_user(settings.artefacts)
    answers: list[str | None] = []
    # A store far away may not answer at all, and its client has no time-out of ours.
    trial = threading.Thread(target=lambda: answers.append(_try_store(settings)), daemon=True)
    trial.start()
    trial.join(_STORE_S)
    if not answers:
        problem: str | None = f"no answer within {_STORE_S:.0f} s"
    else:
        problem = answers[0]
    if problem is None:
        yield ok("artefact store", f"{store} can be written and read")
    else:
        move = "make it writable for the user who runs the services, or set `artefacts`"
        yield failed("artefact store", f"{store}: {problem}", move)


def check_local_kafka(*, is_needed: bool) -> Iterator[Finding]:
    """Look for what the local Kafka is made of."""
    try:
        java = find_java()
    except BrokerUnavailable as error:
        if is_needed:
            yield failed("local Kafka", str(error), "install a Java or kedge[local]")
        else:
            yield ok("local Kafka", "no Java for it, and none is needed: there is another Kafka")
        return
    if cached_jars() is not None:
        yield ok("local Kafka", f"Kafka {KAFKA_VERSION} is in the cache, Java is {java}")
    elif not is_needed:
        yield ok("local Kafka", f"not fetched, and not needed; Java is {java}")
    else:
        detail = f"Kafka {KAFKA_VERSION} is not in the cache yet; Java is {java}"
        yield warning("local Kafka", detail, "`kedge broker` fetches it once, 45 MB")


def _existing(place: Path) -> Path:
    """Give the directory, or that in which it would be made."""
    while not place.exists():
        place = place.parent
    return place


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _try_store(settings: Settings) -> str | None:
    """Say what is wrong with the store, None when nothing is."""
    import fsspec

    data = uuid.uuid4().bytes
    try:
        files, root = fsspec.core.url_to_fs(settings.artefacts)
        root = str(root).rstrip("/")
        if "file" in files.protocol:
            # The first artefact makes the directory; a look leaves nothing behind.
            root = str(_existing(Path(root)))
        name = f"{root}/.doctor-{uuid.uuid4().hex}"
        try:
            files.pipe_file(name, data)
            found = files.cat_file(name)
        finally:
            _delete(files, name)
    except Exception as error:  # noqa: BLE001 -- every file system raises its own
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return _without_user(str(reason))
    return None if found == data else "gives something else than was written"


def _delete(files: Any, name: str) -> None:
    if files.exists(name):
        files.rm_file(name)


def _without_user(url: str) -> str:
    """Leave out what may be a secret: user, password and query of a URL."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
