from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge import FeatureColumn, Output
from kedge.errors import DeadLetter
from kedge_services.core.answers import encode_outputs, metadata
from kedge_services.core.tensors import LARGEST_REQUEST, InferRequest, decode_request

SCHEMA = [
    FeatureColumn(name="age", type="numeric"),
    FeatureColumn(name="who", type="categorical"),
    FeatureColumn(name="member", type="boolean"),
]
TWO = [FeatureColumn(name="a", type="numeric"), FeatureColumn(name="b", type="numeric")]


def tensor(name: str, shape: Any, datatype: str, data: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data, **more}


def read(*tensors: Any, schema: list[FeatureColumn] | None = None, **more: Any) -> InferRequest:
    body = json.dumps({"inputs": list(tensors), **more}).encode()
    return decode_request(body, SCHEMA if schema is None else schema)


def refusal(body: bytes, schema: list[FeatureColumn] | None = None) -> str:
    with pytest.raises(DeadLetter) as caught:
        decode_request(body, SCHEMA if schema is None else schema)
    assert caught.value.detail
    return caught.value.reason


def test_columns_of_several_tensors_become_rows() -> None:
    found = read(
        tensor("who", [2], "BYTES", ["Jo", "Mi"], parameters={"content_type": "str"}),
        tensor("age", [2, 1], "INT32", [34, 22]),
        tensor("member", [2], "BOOL", [True, None]),
        parameters={"content_type": "pd"},
        id="r0",
    )
    assert found.rows == [
        {"who": "Jo", "age": 34, "member": True},
        {"who": "Mi", "age": 22, "member": None},
    ]
    assert found.request_id == "r0"


@pytest.mark.parametrize("data", [[[6.8, 2.8], [6.0, 3.4]], [6.8, 2.8, 6.0, 3.4]])
def test_a_matrix_takes_the_names_of_the_schema_nested_or_flat(data: list[Any]) -> None:
    found = read(tensor("x", [2, 2], "FP32", data), schema=TWO)
    assert found.rows == [{"a": 6.8, "b": 2.8}, {"a": 6.0, "b": 3.4}]


def test_a_tensor_of_one_column_is_that_feature_or_the_only_one() -> None:
    assert read(tensor("age", [1], "FP64", [1])).rows == [{"age": 1.0}]
    assert read(tensor("x", [1, 1], "FP64", [[1]]), schema=TWO[:1]).rows == [{"a": 1.0}]


def test_a_wide_tensor_beside_others_is_named_with_its_columns() -> None:
    schema = [FeatureColumn(name=name, type="numeric") for name in ("x_0", "x_1", "y")]
    found = read(tensor("x", [1, 2], "FP64", [1, 2]), tensor("y", [1], "FP64", [3]), schema=schema)
    assert found.rows == [{"x_0": 1.0, "x_1": 2.0, "y": 3.0}]


def test_a_column_that_only_another_version_wants_is_taken() -> None:
    body = json.dumps({"inputs": [tensor("old", [1], "FP64", [1])]}).encode()
    assert decode_request(body, SCHEMA, {"old": "numeric"}).rows == [{"old": 1.0}]


def test_nan_and_infinity_become_null_and_are_counted() -> None:
    body = (
        b'{"inputs":[{"name":"age","shape":[4],"datatype":"FP64","data":[NaN,-Infinity,1,1e999]}]}'
    )
    found = decode_request(body, SCHEMA)
    assert [row["age"] for row in found.rows] == [None, None, 1.0, None]
    assert found.nulls == 2  # 1e999 is a number, only too large for a float


def test_large_integers_never_pass_through_a_float() -> None:
    found = read(tensor("age", [1], "INT64", [2**63 - 1]))
    assert found.rows == [{"age": 2**63 - 1}]


def test_bytes_are_text_base64_or_a_time() -> None:
    def who(data: str, content: str) -> Any:
        asked = tensor("who", [1], "BYTES", [data], parameters={"content_type": content})
        return read(asked).rows[0]["who"]

    assert who("SGk=", "base64") == "Hi"
    assert who("2026-01-02T03:04:05Z", "datetime") == "2026-01-02T03:04:05Z"


AGE = tensor("age", [2], "FP64", [1, 2])


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ([], "missing-field"),
        (["x"], "bad-value"),
        ([{**AGE, "name": ""}], "missing-field"),
        ([{**AGE, "datatype": None}], "missing-field"),
        ([{**AGE, "shape": None}], "missing-field"),
        ([{**AGE, "data": None}], "missing-field"),
        ([{**AGE, "data": 7}], "bad-value"),
        ([{**AGE, "parameters": 7}], "bad-value"),
        # product(shape) is not the number of elements
        ([{**AGE, "shape": [3]}], "shape-mismatch"),
        ([{**AGE, "shape": []}], "shape-mismatch"),
        ([{**AGE, "shape": [0], "data": []}], "shape-mismatch"),
        ([{**AGE, "shape": [-2]}], "shape-mismatch"),
        ([{**AGE, "shape": [2.0]}], "shape-mismatch"),
        ([{**AGE, "shape": [True]}], "shape-mismatch"),
        ([{**AGE, "shape": [1, 1, 2]}], "shape-mismatch"),
        # ragged, or nested otherwise than the shape says
        ([{**AGE, "data": [[1, 2], [3]]}], "shape-mismatch"),
        ([{**AGE, "data": [1, [2]]}], "shape-mismatch"),
        ([{**AGE, "data": [[1, 2]]}], "shape-mismatch"),
        ([{**AGE, "shape": [4, 1], "data": [[1, 2], [3, 4]]}], "shape-mismatch"),
        ([{**AGE, "data": [[[1]], [[2]]]}], "bad-value"),
        ([{**AGE, "shape": [LARGEST_REQUEST + 1]}], "too-large"),
        # columns that differ in their rows
        ([AGE, tensor("who", [3], "BYTES", ["a", "b", "c"])], "row-mismatch"),
        # columns unlike the schema
        ([AGE, AGE], "schema-mismatch"),
        ([{**AGE, "name": "size"}], "schema-mismatch"),
        ([tensor("x", [1, 2], "FP64", [1, 2])], "schema-mismatch"),
        ([tensor("age", [1], "BYTES", ["x"])], "schema-mismatch"),
        ([tensor("age", [1], "BOOL", [True])], "schema-mismatch"),
        ([tensor("member", [1], "FP32", [1])], "schema-mismatch"),
        # values
        ([{**AGE, "datatype": "FP8"}], "unsupported-format"),
        ([{**AGE, "data": ["1", "2"]}], "bad-value"),
        ([{**AGE, "data": [True, 2]}], "bad-value"),
        ([{**AGE, "data": [10**400, 2]}], "bad-value"),
        ([tensor("age", [1], "INT8", [128])], "bad-value"),
        ([tensor("age", [1], "UINT64", [-1])], "bad-value"),
        ([tensor("age", [1], "INT64", [1.0])], "bad-value"),
        ([tensor("age", [1], "INT64", [True])], "bad-value"),
        ([tensor("member", [1], "BOOL", [1])], "bad-value"),
        ([tensor("who", [1], "BYTES", [1])], "bad-value"),
        ([tensor("who", [1], "BYTES", ["%"], parameters={"content_type": "base64"})], "bad-value"),
        ([tensor("who", [1], "BYTES", ["gA=="], parameters={"content_type": "base64"})], "bad-value"),  # noqa: E501
        ([tensor("who", [1], "BYTES", ["now"], parameters={"content_type": "datetime"})], "bad-value"),  # noqa: E501
        ([tensor("who", [1], "BYTES", ["x"], parameters={"content_type": "hex"})], "unsupported-format"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_bad_tensor_is_refused_with_its_reason(tensors: list[Any], reason: str) -> None:
    assert refusal(json.dumps({"inputs": tensors}).encode()) == reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "undecodable"),
        (b"\xff\xfe", "undecodable"),
        (b"[1]", "undecodable"),
        (b"[" * 100_000, "undecodable"),
        (b"{}", "missing-field"),
        (b'{"inputs":{}}', "bad-value"),
        (b'{"inputs":[],"parameters":[]}', "bad-value"),
    ],
)
def test_a_bad_body_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    assert refusal(body) == reason


@pytest.mark.parametrize("more", [{"id": 7}, {"id": "#" * 100}, {"outputs": [{}]}, {"outputs": 1}])
def test_a_bad_envelope_is_refused(more: dict[str, Any]) -> None:
    assert refusal(json.dumps({"inputs": [AGE], **more}).encode()) in ("bad-value", "missing-field")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["name", "shape", "datatype", "data", "inputs", "parameters", "id"]),
        inner, max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip
near = st.fixed_dictionaries(
    {"name": st.sampled_from(["age", "who", 1]), "shape": json_values | st.just([1]),
     "datatype": st.sampled_from(["FP32", "INT8", "BYTES", "BOOL", "x", 3]), "data": json_values}
)  # fmt: skip


@given(json_values | st.fixed_dictionaries({"inputs": st.lists(near, max_size=3)}))
def test_whatever_comes_is_read_or_refused(body: Any) -> None:
    try:
        found = decode_request(json.dumps(body).encode(), SCHEMA)
    except DeadLetter:
        return
    assert found.rows


# --------------------------------------------------------------------- answers


def test_answers_become_tensors() -> None:
    two = [Output(label="UP", score=0.75), Output(label="DOWN", score=float("nan"))]
    assert encode_outputs(two, ["DOWN", "UP"]) == [
        tensor("predict", [2], "BYTES", ["UP", "DOWN"]),
        tensor("score", [2], "FP64", [0.75, None]),
    ]


def test_probabilities_come_in_the_order_of_the_classes() -> None:
    answers = [Output(label=2, scores={"1": 0.2, "2": 0.7, "3": 0.1})]
    assert encode_outputs(answers, [3, 2, 1]) == [
        tensor("predict", [1], "INT64", [2]),
        tensor("probabilities", [1, 3], "FP64", [0.1, 0.7, 0.2], parameters={"classes": ["3", "2", "1"]}),  # noqa: E501
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "datatype", "data"),
    [
        ([Output(value=1.5), Output(value=float("inf"))], "FP64", [1.5, None]),
        ([Output(label=True), Output(label=False)], "BOOL", [True, False]),
        ([Output(label=1), Output(label=2.5)], "FP64", [1.0, 2.5]),
        ([Output(label="a"), Output(label=1)], "BYTES", ["a", "1"]),
    ],
)
def test_the_datatype_follows_the_labels(
    answers: list[Output], datatype: str, data: list[Any]
) -> None:
    assert encode_outputs(answers, []) == [tensor("predict", [2], datatype, data)]


def test_only_the_wanted_outputs_are_given() -> None:
    answers = [Output(label="a", score=1.0)]
    assert [each["name"] for each in encode_outputs(answers, [], ["score"])] == ["score"]
    with pytest.raises(DeadLetter, match="no output 'proba'"):
        encode_outputs(answers, [], ["proba"])


def test_the_schema_is_described_as_tensors() -> None:
    assert [(each["name"], each["datatype"]) for each in metadata(SCHEMA)] == [
        ("age", "FP64"), ("who", "BYTES"), ("member", "BOOL"),
    ]  # fmt: skip
