"""Model files as people have them: which format a file is, and which are never loaded."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

from kedge.errors import UnsafeArtefact, UsageError
from kedge_services.runtime.artefacts import Format

__all__ = ["SAFE", "ModelFile", "read_model"]

#: What is loaded, in words.
SAFE = "onnx, skops and river-json"
#: Bytes of a model file.
LARGEST = 1 << 29

_SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".skops": "skops", ".json": "river-json"}
_HOW = "docs/models-from-elsewhere.md shows how"


class ModelFile(NamedTuple):
    """A model file that was read, and what it claims to be."""

    path: Path
    data: bytes
    format: Format


class _Foreign(NamedTuple):
    """A format that is not loaded: what it is, why not, and what to do instead."""

    name: str
    why: str
    instead: str


_PICKLE = _Foreign(
    "a pickle",
    "which can run any code when it is read",
    "convert the model with skl2onnx.to_onnx",
)
_TORCH = _Foreign(
    "a PyTorch file",
    "which is a pickle and can run any code when it is read",
    "export the model with torch.onnx.export",
)
_KERAS = _Foreign(
    "a Keras file",
    "which can hold code",
    'export the model with model.export("model.onnx", format="onnx")',
)
_TENSORFLOW = _Foreign(
    "a TensorFlow file", "for which there is no reader", "convert the model with tf2onnx"
)
_BOOSTER = _Foreign(
    "a file of a boosting library",
    "for which there is no reader",
    "convert the model with onnxmltools",
)
_OTHER = _Foreign(
    "a model of another kind", "for which there is no reader", "convert the model to ONNX"
)

_BY_NAME: dict[str, _Foreign] = {
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".sav"), _PICKLE),
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".torch"), _TORCH),
    **dict.fromkeys((".h5", ".hdf5", ".keras"), _KERAS),
    **dict.fromkeys((".pb", ".tflite"), _TENSORFLOW),
    **dict.fromkeys((".ubj", ".bst", ".cbm", ".lgb", ".xgb"), _BOOSTER),
    **dict.fromkeys((".pmml", ".mlmodel", ".rds", ".ort", ".mar", ".safetensors"), _OTHER),
}
#: What pickles begin with: protocols 2 to 5, and compressed by joblib (zlib, gzip, bz2, xz).
_PICKLE_MARKS = (
    *(bytes((0x80, protocol)) for protocol in (2, 3, 4, 5)),
    *(bytes((0x78, level)) for level in (0x01, 0x5E, 0x9C, 0xDA)),
    b"\x1f\x8b", b"BZh", b"\xfd7zXZ",
)  # fmt: skip


def read_model(path: Path, given: Format | None = None) -> ModelFile:
    """Read a model file; ``given`` is its format where the name does not tell.

    Raises
    ------
    UsageError
        The file cannot be read, or what it is cannot be told.
    UnsafeArtefact
        It is of a format that is never loaded, by its name or its first bytes.
    """
    if (foreign := _BY_NAME.get(path.suffix.lower())) is not None:
        raise _refusal(path, foreign)
    try:
        if path.is_dir():
            raise UsageError(f"{path}: is a directory; a model is one file of {SAFE}")
        if (size := path.stat().st_size) > LARGEST:
            raise UsageError(f"{path}: has {size} bytes; at most {LARGEST} are loaded")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    if not data:
        raise UsageError(f"{path}: is empty")
    if (foreign := _by_content(data)) is not None:
        raise _refusal(path, foreign)
    found = given or _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise UsageError(f"{path}: its name does not tell what it is; name its --format: {SAFE}")
    return ModelFile(path, data, found)


def _by_content(data: bytes) -> _Foreign | None:
    if data.startswith(_PICKLE_MARKS):
        return _PICKLE
    if data.startswith(b"\x89HDF"):
        return _KERAS
    if data.startswith(b"PK"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as file:
                names = [name.rpartition("/")[2] for name in file.namelist()]
        except zipfile.BadZipFile:
            return None
        if "data.pkl" in names:
            return _TORCH
        if "model.weights.h5" in names:
            return _KERAS
    return None


def _refusal(path: Path, foreign: _Foreign) -> UnsafeArtefact:
    return UnsafeArtefact(
        f"{path}: is {foreign.name}, {foreign.why}; Kedge loads {SAFE}. "
        f"{foreign.instead[0].upper()}{foreign.instead[1:]}; {_HOW}"
    )
