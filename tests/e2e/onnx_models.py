"""Small ONNX files for tests: scikit-learn's, converted, and graphs made by hand."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: What onnxruntime of the oldest supported version reads.
OPSET = 18


def convert(model: Any, inputs: Mapping[str, str], *, zipmap: bool | None = None) -> bytes:
    """Convert a fitted model; ``inputs`` are types by name, as ``float[3]`` or ``string[1]``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter's own use of other libraries
        from skl2onnx import to_onnx
        from skl2onnx.common import data_types

        types = {
            "float": data_types.FloatTensorType,
            "double": data_types.DoubleTensorType,
            "int64": data_types.Int64TensorType,
            "bool": data_types.BooleanTensorType,
            "string": data_types.StringTensorType,
        }
        declared = []
        for name, text in inputs.items():
            kind, _, width = text.rstrip("]").partition("[")
            declared.append((name, types[kind]([None, int(width)])))
        options = None if zipmap is None else {id(model): {"zipmap": zipmap}}
        made: bytes = to_onnx(
            model, initial_types=declared, options=options, target_opset=OPSET
        ).SerializeToString()
    return made


def logistic(features: int, classes: Sequence[Any], seed: int = 0) -> tuple[Any, Floats]:
    """Fit a scaled logistic regression; give it and the rows it was fitted on."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    chance = np.random.default_rng(seed)
    rows = chance.normal(size=(200, features))
    edges = np.quantile(rows[:, 0], np.linspace(0, 1, len(classes) + 1)[1:-1])
    noisy = rows[:, 0] + chance.normal(scale=0.2, size=200)
    target = np.array(classes)[np.digitize(noisy, edges)]
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, target), rows


def graph(
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Sequence[Any]]],
    outputs: Sequence[tuple[str, int, Sequence[Any] | None]],
    *,
    initializers: Sequence[Any] = (),
    domains: Sequence[str] = ("", "ai.onnx.ml"),
    functions: Sequence[Any] = (),
) -> bytes:
    """Put a graph together; inputs and outputs are name, element type and shape."""
    from onnx import helper

    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(*each) for each in inputs],
            [helper.make_tensor_value_info(*each) for each in outputs],
            list(initializers),
        ),
        opset_imports=[
            helper.make_opsetid(name, {"": OPSET, "ai.onnx.ml": 3}.get(name, 1)) for name in domains
        ],
        functions=list(functions),
        ir_version=8,
    )
    made: bytes = model.SerializeToString()
    return made
