"""Trainers of the user's own: ``package.module:function``, run in the training's subprocess.

``docs/trainers.md`` says what such a function is given and may give.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from typing import Any

import structlog
from numpy.typing import NDArray

from kedge.base import Scalar
from kedge.errors import KedgeError, UnsafeArtefact, UsageError
from kedge.trainers import FORMATS
from kedge.versions import FeatureColumn
from kedge_services.runtime.artefacts import Format
from kedge_services.runtime.formats import Predictor, Row
from kedge_services.runtime.formats.columns import matrix
from kedge_services.trainer.families import Fitted, Shape, Table

__all__ = ["Data", "OwnTrainer"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Data:
    """What a function of the user's own is given, together with a seed.

    Attributes
    ----------
    rows
        Features by name, in the order their labels came; None is missing.
    labels
        One of ``classes`` for each row, or its number.
    columns
        Name and type of each feature, in the order of :meth:`matrix`.
    classes
        As the monitor declares them, the positive one last; none for regression.
    """

    rows: Sequence[Row]
    labels: Sequence[Scalar]
    columns: Sequence[FeatureColumn]
    classes: Sequence[Scalar]

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self.rows)

    def matrix(self) -> NDArray[Any]:
        """Give the rows as an array, shape (n, columns), as a stored pipeline is asked.

        Numbers alone: of floats, NaN where one is missing.  With categories: of
        objects, texts among them, NaN where one is missing.
        """
        return matrix(self.rows, self.columns)


class OwnTrainer:
    """The family of one function.

    Parameters
    ----------
    name
        Like ``package.module:function``.
    allow
        Modules, with all that is in them, that functions may come from.

    Raises
    ------
    UsageError
        It may not be imported, or it is not there.
    """

    kinds: tuple[str, ...] = ()

    def __init__(self, name: str, allow: Collection[str]) -> None:
        self.name = name
        module, _, function = name.partition(":")
        if not any(module == known or module.startswith(f"{known}.") for known in allow):
            raise UsageError(
                f'trainer "{name}" may not be imported: code runs only from modules that the '
                f'setting trainer.allow names; to allow it, add "{module.partition(".")[0]}" there'
            )
        self._train = _imported(name, module, function)
        top = module.partition(".")[0]
        own = packages_distributions().get(top, [])
        self.libraries: tuple[str, ...] = ("scikit-learn", "skops", "numpy", *dict.fromkeys(own))

    def parameters(self, shape: Shape) -> dict[str, Any]:  # noqa: ARG002 -- the same for all
        """Give the function, and the hash of the file it stands in."""
        with suppress(OSError, TypeError):
            source = inspect.getsource(inspect.getmodule(self._train) or self._train)
            return {"function": self.name, "source_sha256": _sha256(source)}
        return {"function": self.name}

    def fit(self, table: Table, shape: Shape, *, seed: int, start: bytes | None = None) -> Fitted:
        """Train; see :class:`~kedge_services.trainer.families.Family`.

        Raises
        ------
        UsageError
            The function raises anything but a ValueError.
        UnsafeArtefact
            What it gives has no safe format, or does not fit the monitor.
        """
        if start is not None:
            raise ValueError(f"{self.name} cannot go on from an earlier model")
        try:
            made = self._train(_data(table, shape), seed)
        except (ValueError, KedgeError):
            raise
        except Exception as error:
            # Its message may quote the data, so that it stands in the log alone.
            _log.exception("a trainer failed", trainer=self.name)
            kind = type(error).__name__
            raise UsageError(f'trainer "{self.name}" fails with {kind}, see the log') from error
        return _stored(made, shape, self.name)


def _data(table: Table, shape: Shape) -> Data:
    labels: list[Scalar] = [
        shape.classes[int(target)] if shape.classes else target for target in table.targets
    ]
    return Data(list(table.rows), labels, shape.columns, shape.classes)


def _imported(name: str, module: str, function: str) -> Callable[[Data, int], object]:
    try:
        found: Callable[[Data, int], object] | None = getattr(
            importlib.import_module(module), function, None
        )
    except Exception as error:
        _log.exception("a trainer cannot be imported", trainer=name)
        kind = type(error).__name__
        raise UsageError(f'trainer "{name}" cannot be imported: {kind}, see the log') from error
    if not callable(found):
        raise UsageError(f'trainer "{name}" cannot be imported: {module} has no such function')
    return found


def _stored(made: object, shape: Shape, name: str) -> Fitted:
    """Bring what a function gave into a safe format, and load it again from there.

    Raises
    ------
    UnsafeArtefact
        There is none for it, or what was stored is no model of this shape.
    """
    try:
        data, kind = _bytes_of(made)
        predictor = _loaded(data, kind, shape)
    except UnsafeArtefact as error:
        raise UnsafeArtefact(
            f'what trainer "{name}" gives cannot be stored: {error}; a trainer gives {FORMATS}'
        ) from error
    return Fitted(predictor, lambda: data, kind)


def _bytes_of(made: object) -> tuple[bytes, Format]:
    if isinstance(made, bytes | bytearray):
        # JSON begins with a brace, protocol buffers never do: 0x7b is no tag of ONNX's.
        return bytes(made), "river-json" if made[:1] == b"{" else "onnx"
    from sklearn.base import BaseEstimator

    if not isinstance(made, BaseEstimator):
        raise UnsafeArtefact(f"a {type(made).__name__} has no safe format")
    from sklearn.pipeline import Pipeline

    from kedge_services.runtime.formats.skops_files import dump

    try:
        return dump(Pipeline([("own", made)])), "skops"
    except Exception as error:
        # Whatever skops meets in objects it was not made for.
        raise UnsafeArtefact(f"skops cannot write it: {type(error).__name__}") from error


def _loaded(data: bytes, kind: Format, shape: Shape) -> Predictor:
    from kedge_services.runtime.formats import onnx_model, river_json, skops_files

    read = {
        "skops": skops_files.load, "river-json": river_json.load, "onnx": onnx_model.load,
    }[kind]  # fmt: skip
    return read(data, shape.columns, shape.classes)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
