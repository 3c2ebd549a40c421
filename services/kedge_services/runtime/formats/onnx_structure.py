"""What is looked at in an ONNX file before anything runs it.

An ONNX file is a graph of operators with numbers, no code.  What remains to be
refused: operators beyond the standard's (they come from libraries), tensors
that lie in other files (a path of the author's choice), functions that the file
defines itself, and loops, which may run without end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kedge.errors import Misconfigured, UnsafeArtefact

__all__ = ["DOMAINS", "LARGEST", "MISSING", "class_orders", "parse"]

#: The operator sets that are loaded; the empty name is ``ai.onnx``, too.
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
#: Bytes a file may have.
LARGEST = 1 << 29
MISSING = (
    "ONNX models need packages that are not installed; run: pip install 'kedge[services,onnx]'"
)

#: Where onnxruntime looks whether a file is of its own format, which is not looked into here.
_ORT_MARK = slice(4, 8)


def parse(data: bytes) -> Any:
    """Read a file as ``onnx.ModelProto`` and refuse what must not be run.

    Raises
    ------
    UnsafeArtefact
        The file is no ONNX, too large, or holds something that is not allowed.
    Misconfigured
        The package that reads it is not installed.
    """
    if len(data) > LARGEST:
        raise UnsafeArtefact(f"an ONNX file has {len(data)} bytes; at most {LARGEST} are loaded")
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise Misconfigured(MISSING) from error
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:
        # Whatever a damaged file provokes inside protobuf, whose errors have no stable place.
        raise UnsafeArtefact(f"an ONNX file cannot be read: {error!s:.300}") from error
    if data[_ORT_MARK] == b"ORTM" or not model.graph.node:
        raise UnsafeArtefact("an ONNX file cannot be read: it holds no graph of operators")
    if model.functions:
        raise UnsafeArtefact(
            f"an ONNX file defines the function {model.functions[0].name!r}; write its functions "
            "out with onnx.inliner.inline_local_functions"
        )
    for graph in _graphs(model.graph):
        _check_nodes(graph)
        for tensor in _tensors(graph):
            if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise UnsafeArtefact(
                    f"an ONNX file keeps the tensor {tensor.name!r} in another file; save the "
                    "model as one file"
                )
    return model


def class_orders(model: Any) -> set[tuple[str | int, ...]]:
    """Give the lists of classes that the graph itself names, each in its order."""
    import onnx

    found = set[tuple[str | int, ...]]()
    for graph in _graphs(model.graph):
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name.startswith("classlabels"):
                    strings = [each.decode(errors="replace") for each in attribute.strings]
                    found.add((*strings, *attribute.ints))
        for tensor in graph.initializer:
            if "class" in tensor.name.lower() and len(tensor.dims) == 1:
                # Read only if it is a list of names or whole numbers.
                if tensor.data_type == onnx.TensorProto.STRING:
                    found.add(tuple(each.decode(errors="replace") for each in tensor.string_data))
                elif tensor.data_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64):
                    found.add(tuple(onnx.numpy_helper.to_array(tensor).tolist()))
    return found - {()}


def _check_nodes(graph: Any) -> None:
    for node in graph.node:
        if node.domain not in DOMAINS:
            raise UnsafeArtefact(
                f"an ONNX file uses the operator {node.op_type!r} of {node.domain!r}; only those "
                "of ai.onnx and ai.onnx.ml are loaded"
            )
        if node.op_type == "Loop":
            raise UnsafeArtefact(
                "an ONNX file holds the operator 'Loop', which may run without end; it is not "
                "loaded"
            )


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
