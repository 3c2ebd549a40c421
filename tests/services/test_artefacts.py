"""The artefact store: content addressed, whole or absent, checked when read."""

from __future__ import annotations

from pathlib import Path

import pytest

from kedge.errors import Misconfigured, UnsafeArtefact, UsageError
from kedge.versions import Artefact
from kedge_services.runtime.artefacts import ArtefactStore


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("where", ["directory", "url", "memory"])
def test_what_is_put_is_got_back(where: str, tmp_path: Path) -> None:
    url = {"directory": str(tmp_path), "url": tmp_path.as_uri(), "memory": "memory://models"}
    store = ArtefactStore(url[where])
    artefact = store.put(b"weights", "skops")
    assert store.get(artefact) == b"weights"
    assert artefact.size == 7
    assert artefact.uri.endswith(f"{artefact.sha256[:2]}/{artefact.sha256}.skops")
    assert artefact.uri.startswith("memory://" if where == "memory" else "file:///")


def test_the_same_content_is_one_file(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    assert store.put(b"x", "river-json") == store.put(b"x", "river-json")
    assert len(files(tmp_path)) == 1


def test_writing_repairs_a_damaged_file(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    artefact = store.put(b"whole", "skops")
    files(tmp_path)[0].write_bytes(b"wh")
    store.put(b"whole", "skops")
    assert store.get(artefact) == b"whole"


@pytest.mark.parametrize("damage", [b"Whole", b"wholes", b""])
def test_a_tampered_file_is_refused(damage: bytes, tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    artefact = store.put(b"whole", "skops")
    files(tmp_path)[0].write_bytes(damage)
    with pytest.raises(UnsafeArtefact):
        store.get(artefact)


def test_a_missing_file_names_the_setting(tmp_path: Path) -> None:
    artefact = ArtefactStore(tmp_path / "a").put(b"x", "skops")
    with pytest.raises(Misconfigured, match="artefacts"):
        ArtefactStore(tmp_path / "b").get(artefact)


def test_an_artefacts_uri_is_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    real = ArtefactStore(tmp_path / "a").put(b"x", "skops")
    forged = Artefact(**{**real.model_dump(), "uri": secret.as_uri()})
    with pytest.raises(Misconfigured):
        ArtefactStore(tmp_path / "b").get(forged)


def test_an_unknown_scheme_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nosuch"):
        ArtefactStore("nosuch://bucket")
