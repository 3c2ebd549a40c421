"""The artefact store: model files under the hash of their content.

A file never changes once it is written, so it can be cached, copied and served
from anywhere; what is read is compared with its hash before anybody parses it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from kedge.errors import Misconfigured, UnsafeArtefact, UsageError
from kedge.versions import Artefact

__all__ = ["ArtefactStore", "Format"]

Format = Literal["skops", "river-json", "onnx"]

_SUFFIX: dict[Format, str] = {"skops": "skops", "river-json": "json", "onnx": "onnx"}


class ArtefactStore:
    """Model files by their sha256, in a directory or under any fsspec URL.

    A file is found by hash and format below *this* store; the ``uri`` of an
    artefact says where it was written and is never followed, so that an event
    cannot make a server read from elsewhere.

    Parameters
    ----------
    url
        A directory (absolute, relative or ``file://``), or an fsspec URL such
        as ``s3://bucket/models``.

    Raises
    ------
    UsageError
        There is no file system for the URL's scheme.
    """

    def __init__(self, url: str | Path) -> None:
        import fsspec

        text = str(url)
        try:
            self._fs: Any
            self._fs, root = fsspec.core.url_to_fs(text)
        except (ImportError, ValueError) as error:
            raise UsageError(f"artefacts: {text!r} cannot be used as a store: {error}") from error
        self._root = str(root).rstrip("/")
        self._is_local = "file" in _protocols(self._fs)

    def put(self, data: bytes, format: Format) -> Artefact:  # noqa: A002 -- the field's name
        """Write a model file, if it is not there yet, and give its manifest.

        A reader sees the whole file or none, also when the writer is killed.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(sha256, format)
        if self._is_local:
            _write_local(Path(path), data)
        elif not self._fs.exists(path):
            # Object stores make an object visible when its upload is complete.
            self._fs.pipe_file(path, data)
        uri = Path(path).as_uri() if self._is_local else str(self._fs.unstrip_protocol(path))
        return Artefact(uri=uri, sha256=sha256, format=format, size=len(data))

    def get(self, artefact: Artefact) -> bytes:
        """Read a model file and compare it with its manifest.

        Raises
        ------
        UnsafeArtefact
            Its size or hash is not what the manifest says.
        Misconfigured
            The store has no such file.
        """
        path = self._path(artefact.sha256, artefact.format)
        try:
            size = int(self._fs.info(path)["size"])
            if size != artefact.size:
                raise UnsafeArtefact(
                    f"{path} has {size} bytes where its manifest says {artefact.size}"
                )
            data: bytes = self._fs.cat_file(path)
        except FileNotFoundError:
            raise Misconfigured(
                f"the artefact store has no {path}; `artefacts` in the settings must name the "
                "store that the trainer writes to"
            ) from None
        if hashlib.sha256(data).hexdigest() != artefact.sha256:
            raise UnsafeArtefact(f"{path} has been changed: its sha256 is not that of the manifest")
        return data

    def _path(self, sha256: str, format: Format) -> str:  # noqa: A002 -- the field's name
        return f"{self._root}/{sha256[:2]}/{sha256}.{_SUFFIX[format]}"


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _write_local(path: Path, data: bytes) -> None:
    # Written even when it exists: a damaged file of this name is repaired thereby.
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for one user; the store is read by other services.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
