"""The ``onnx`` format: models that were trained and converted elsewhere, run by onnxruntime.

``onnx_structure`` says what a file must not hold, ``onnx_inputs`` and
``onnx_outputs`` how features and answers go in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kedge.base import Scalar
from kedge.errors import Misconfigured, UnsafeArtefact
from kedge.events import Output
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats import Row
from kedge_services.runtime.formats.onnx_inputs import Inputs, match_inputs
from kedge_services.runtime.formats.onnx_outputs import (
    ClassOutputs,
    NoAnswer,
    ValueOutput,
    match_outputs,
)
from kedge_services.runtime.formats.onnx_structure import MISSING, class_orders, parse

__all__ = ["OnnxPredictor", "load"]

#: Rows of the trial: more than one, so that a graph made for one row is found out.
_TRIAL = 3


def load(
    data: bytes, schema: Sequence[FeatureColumn], classes: Sequence[Scalar], *, threads: int = 1
) -> OnnxPredictor:
    """Read an ONNX file and try it on rows of zeros and empty texts.

    Parameters
    ----------
    classes
        Of two the second is positive; empty for regression.
    threads
        That one batch may use.

    Raises
    ------
    UnsafeArtefact
        The file holds what is not loaded, or a graph of other columns, classes
        or shapes; the message says which.
    Misconfigured
        onnxruntime is not installed.
    """
    model = parse(data)
    session = _session(data, threads)
    inputs = match_inputs(session.get_inputs(), schema)
    outputs = match_outputs(session.get_outputs(), classes, class_orders(model))
    _try(session, inputs, outputs)
    return OnnxPredictor(session, inputs, outputs)


class OnnxPredictor:
    """A loaded graph; see :class:`~kedge_services.runtime.formats.Predictor`."""

    def __init__(self, session: Any, inputs: Inputs, outputs: ClassOutputs | ValueOutput) -> None:
        self._session = session
        self._inputs = inputs
        self._outputs = outputs

    def predict(self, rows: Sequence[Row]) -> list[Output]:
        """Score a batch.

        A missing number is NaN, a missing category the empty text; whether the
        graph can deal with them is up to whoever made it.

        Raises
        ------
        ValueError
            It cannot: a row has no answer.
        """
        if not rows:
            return []
        tensors = self._inputs.of(rows)
        try:
            results = self._session.run(list(self._outputs.names), tensors)
        except Exception as error:
            raise ValueError(f"the graph fails: {_reason(error)}") from error
        return self._outputs.read(results, len(rows))


def _session(data: bytes, threads: int) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise Misconfigured(MISSING) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised; only fatal errors are also written
    # Never onnxruntime's own format, whatever the bytes look like: it is not checked here.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime has a class of its own for each status code, without a common base.
        raise UnsafeArtefact(f"an ONNX file cannot be run: {_reason(error)}") from error


def _try(session: Any, inputs: Inputs, outputs: ClassOutputs | ValueOutput) -> None:
    """Answer made-up rows, so that a wrong shape shows now and not when somebody asks.

    Raises
    ------
    UnsafeArtefact
        The graph fails, or answers something else than its version should.
    """
    tensors = inputs.of([inputs.sample()] * _TRIAL)
    try:
        results = session.run(list(outputs.names), tensors)
    except Exception as error:
        if inputs.takes_text:
            # It may know its categories and take no other; which they are cannot be told.
            return
        raise UnsafeArtefact(f"an ONNX file fails when tried: {_reason(error)}") from error
    try:
        outputs.read(results, _TRIAL)
    except NoAnswer:
        return  # perhaps it takes the logarithm of what is never zero
    except ValueError as error:
        raise UnsafeArtefact(f"an ONNX file is no model of this version: {error}") from error


def _reason(error: Exception) -> str:
    """Give what onnxruntime has to say, without where in its own code."""
    text = str(error).partition("\n")[0]
    return text.rpartition("Status Message: ")[2].removeprefix("[ONNXRuntimeError] : ")[:300]
