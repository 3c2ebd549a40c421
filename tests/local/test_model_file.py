from __future__ import annotations

import gzip
import io
import pickle
import zipfile
import zlib
from pathlib import Path

import pytest

from kedge.errors import UnsafeArtefact, UsageError
from kedge_services.local.model_file import LARGEST, read_model


def zipped(*names: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return written.getvalue()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("m.onnx", "onnx"), ("M.ONNX", "onnx"), ("m.skops", "skops"), ("m.json", "river-json")],
)
def test_the_name_tells_the_format(tmp_path: Path, name: str, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"some bytes")
    assert read_model(path) == (path, b"some bytes", expected)


def test_a_format_that_is_given_counts_more_than_the_name(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(zipped("schema.json"))
    assert read_model(path, "skops").format == "skops"
    with pytest.raises(UsageError, match="name its --format: onnx, skops and river-json"):
        read_model(path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("m.pkl", "is a pickle, which can run any code when it is read"),
        ("m.PICKLE", "Convert the model with skl2onnx.to_onnx"),
        ("m.joblib", "is a pickle"),
        ("m.pt", "is a PyTorch file, which is a pickle"),
        ("m.h5", "is a Keras file, which can hold code"),
        ("m.keras", "Export the model with model.export"),
        ("m.pb", "is a TensorFlow file, for which there is no reader"),
        ("m.cbm", "Convert the model with onnxmltools"),
        ("m.pmml", "is a model of another kind"),
    ],
)
def test_a_foreign_name_is_refused_with_a_way_out_without_opening_the_file(
    tmp_path: Path, name: str, sentence: str
) -> None:
    with pytest.raises(UnsafeArtefact) as raised:
        read_model(tmp_path / name)
    message = str(raised.value)
    assert sentence in message
    assert "Kedge loads onnx, skops and river-json. " in message
    assert message.endswith("; docs/models-from-elsewhere.md shows how")
    assert (Path(__file__).parents[2] / "docs" / "models-from-elsewhere.md").is_file()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        *((pickle.dumps([1], protocol=n), "a pickle") for n in (2, 3, 4, 5)),
        (zlib.compress(pickle.dumps([1])), "a pickle"),
        (gzip.compress(pickle.dumps([1]), mtime=0), "a pickle"),
        (zipped("archive/data.pkl", "archive/version"), "a PyTorch file"),
        (zipped("config.json", "model.weights.h5"), "a Keras file"),
        (b"\x89HDF\r\n\x1a\n", "a Keras file"),
    ],
)
def test_a_foreign_content_is_refused_whatever_its_name_says(
    tmp_path: Path, data: bytes, kind: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(UnsafeArtefact, match=rf"model\.onnx: is {kind}"):
        read_model(path, "skops")


def test_what_is_no_file_is_a_mistake_in_a_sentence(tmp_path: Path) -> None:
    empty = tmp_path / "empty.onnx"
    empty.touch()
    with pytest.raises(UsageError, match=r"nothing\.onnx: No such file or directory"):
        read_model(tmp_path / "nothing.onnx")
    with pytest.raises(UsageError, match="is a directory; a model is one file"):
        read_model(tmp_path)
    with pytest.raises(UsageError, match=r"empty\.onnx: is empty"):
        read_model(empty)
    broken = tmp_path / "broken.skops"
    broken.write_bytes(b"PK\x03\x04 no more")
    assert read_model(broken).format == "skops"  # its reader will say what is wrong
    large = tmp_path / "large.onnx"
    with large.open("wb") as file:
        file.truncate(LARGEST + 1)  # a hole, not bytes on the disk
    with pytest.raises(UsageError, match="at most 536870912 are loaded"):
        read_model(large)
