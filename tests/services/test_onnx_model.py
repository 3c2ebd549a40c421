"""Models from elsewhere: what they answer, and what is refused before it answers anything."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from kedge.base import Scalar, label_text
from kedge.errors import Misconfigured, UnsafeArtefact
from kedge.events import Output
from kedge.versions import FeatureColumn
from kedge_services.runtime.formats import Row, onnx_structure
from kedge_services.runtime.formats.onnx_model import OnnxPredictor, load
from onnx_models import Floats, convert, graph, logistic

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def columns(**kinds: Any) -> list[FeatureColumn]:
    return [FeatureColumn(name=name, type=kind) for name, kind in kinds.items()]


ABC = columns(a="numeric", b="numeric", c="numeric")


def named(rows: Floats) -> list[Row]:
    return [dict(zip("abc", row, strict=True)) for row in rows.tolist()]


def probabilities(output: Output, classes: list[Any]) -> list[float]:
    if len(classes) == 2:
        assert output.score is not None
        return [1 - output.score, output.score]
    return [(output.scores or {})[label_text(each)] for each in classes]


# ----------------------------------------------------------------------- answers


@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize(
    "classes",
    [["no", "yes"], ["yes", "no"], [0, 1], [1, 0], ["c", "a", "b"], [3, 1, 2]],
    ids=str,
)
def test_a_classifier_answers_as_scikit_learn_whatever_the_order_of_classes(
    classes: list[Any],
    zipmap: bool,  # noqa: FBT001 -- pytest gives it by name
) -> None:
    model, rows = logistic(3, classes)
    predictor = load(convert(model, {"X": "float[3]"}, zipmap=zipmap), ABC, classes)
    outputs = predictor.predict(named(rows))
    theirs = model.predict_proba(rows)[:, [model.classes_.tolist().index(c) for c in classes]]
    assert np.abs([probabilities(o, classes) for o in outputs] - theirs).max() < 1e-6
    assert [output.label for output in outputs] == model.predict(rows).tolist()


def test_true_and_false_come_back_from_the_numbers_a_converter_makes_of_them() -> None:
    model, rows = logistic(3, [False, True])
    outputs = load(convert(model, {"X": "float[3]"}), ABC, [False, True]).predict(named(rows))
    assert [output.label for output in outputs] == model.predict(rows).tolist()
    assert {type(output.label) for output in outputs} == {bool}


def test_a_regression_answers_as_scikit_learn() -> None:
    from sklearn.linear_model import LinearRegression

    rows = np.random.default_rng(0).normal(size=(50, 3))
    model = LinearRegression().fit(rows, rows @ [1.0, 2.0, 3.0] + 4)
    outputs = load(convert(model, {"X": "double[3]"}), ABC, []).predict(named(rows))
    assert [output.value for output in outputs] == pytest.approx(model.predict(rows).tolist())


def mixed() -> tuple[Any, bytes]:
    """Fit a pipeline over a number that may be missing, a category and a truth value."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    chance = np.random.default_rng(1)
    table = np.empty((200, 3), dtype=object)
    table[:, 0] = chance.normal(size=200)
    table[:, 1] = chance.choice(["NO", "SE"], 200)
    table[:, 2] = chance.integers(0, 2, 200).astype(float)
    steps = [
        ("number", SimpleImputer(), [0]),
        ("category", OneHotEncoder(handle_unknown="ignore"), [1]),
        ("truth", "passthrough", [2]),
    ]
    target = np.where(table[:, 0].astype(float) + (table[:, 1] == "NO") > 0.5, "yes", "no")
    model = make_pipeline(ColumnTransformer(steps), LogisticRegression()).fit(table, target)
    inputs = {"amount": "float[1]", "country": "string[1]", "vip": "float[1]"}
    return model, convert(model, inputs, zipmap=False)


def test_one_input_a_column_is_matched_by_name_and_may_leave_columns_out() -> None:
    model, data = mixed()
    schema = columns(vip="boolean", extra="numeric", country="categorical", amount="numeric")
    predictor = load(data, schema, ["no", "yes"])
    rows: list[Row] = [
        {"amount": 0.4, "country": "NO", "vip": True, "extra": 9.0},
        {"amount": None, "country": "SE", "vip": False},  # the pipeline imputes
        {"amount": math.nan, "country": None, "vip": True},  # a category it does not know
        {"amount": -0.2, "country": "DK", "vip": False},
    ]
    table = np.array(
        [[0.4, "NO", 1.0], [np.nan, "SE", 0.0], [np.nan, "", 1.0], [-0.2, "DK", 0.0]],
        dtype=object,
    )
    found = [output.score for output in predictor.predict(rows)]
    assert found == pytest.approx(model.predict_proba(table)[:, 1].tolist(), abs=1e-6)


def test_a_missing_number_the_model_has_no_way_with_is_no_answer_but_an_error() -> None:
    model, _ = logistic(3, ["no", "yes"])
    predictor = load(convert(model, {"X": "float[3]"}), ABC, ["no", "yes"])
    with pytest.raises(ValueError, match="no finite number to row 2; can it deal with missing"):
        predictor.predict([{"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0}])


def identity(name: str, element: int, outputs: str = "y") -> bytes:
    """Make a graph that gives its numbers back: its answers show what it was given."""
    nodes = [helper.make_node("Cast", [name], [outputs], to=TensorProto.DOUBLE)]
    shape = ["n", 1]
    return graph(nodes, [(name, element, shape)], [(outputs, TensorProto.DOUBLE, shape)])


@given(st.lists(st.none() | st.floats() | st.integers() | st.booleans() | st.text(max_size=3)))
def test_numbers_arrive_as_single_precision_within_its_bounds(values: list[Any]) -> None:
    given_back = ECHO.predict([{"x": value} for value in values if _is_number(value)])
    numbers = [float(np.clip(value, -BOUND, BOUND)) for value in values if _is_number(value)]
    assert [output.value for output in given_back] == [float(np.float32(x)) for x in numbers]


BOUND = float(np.finfo(np.float32).max)
ECHO = load(identity("x", FLOAT), columns(x="numeric"), [])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not math.isnan(value) and abs(value) < 1e300


@pytest.mark.parametrize(
    ("element", "kind", "values", "expected"),
    [
        (INT64, "numeric", [3, 4.0, True, 2**53 + 1], [3, 4, 1, 2**53]),
        (INT64, "categorical", ["7", 8, "-1"], [7, 8, -1]),
        (TensorProto.INT32, "numeric", [5], [5]),
        (TensorProto.BOOL, "boolean", [True, False], [1, 0]),
        (FLOAT, "boolean", [True, False], [1, 0]),
        (FLOAT, "categorical", ["7", 8, "0.5"], [7, 8, 0.5]),
        (TensorProto.DOUBLE, "numeric", [0.1], [0.1]),
        (STRING, "categorical", ["1.5", 2], [1.5, 2]),
    ],
)
def test_values_fit_into_the_tensor_of_their_column(
    element: int, kind: str, values: list[Any], expected: list[float]
) -> None:
    predictor = load(identity("x", element), columns(x=kind), [])
    outputs = predictor.predict([{"x": value} for value in values])
    assert [output.value for output in outputs] == expected


@pytest.mark.parametrize(
    ("element", "kind", "value", "message"),
    [
        (INT64, "numeric", None, "x: a missing value where the model takes a whole number"),
        (INT64, "numeric", math.nan, "x: a missing value where"),
        (INT64, "numeric", 1.5, "x: 1.5 where the model takes a whole number"),
        (INT64, "numeric", "7", "x: '7' where the model takes a whole number"),
        (INT64, "numeric", 2**70, "x: a number is too large for int64"),
        (TensorProto.BOOL, "boolean", None, "x: None where the model takes true or false"),
        (FLOAT, "categorical", "NO", "x: 'NO' is a text where the model takes a number"),
    ],
)
def test_a_value_without_a_place_is_an_error_that_names_its_column(
    element: int, kind: str, value: Any, message: str
) -> None:
    predictor = load(identity("x", element), columns(x=kind), [])
    with pytest.raises(ValueError, match=message):
        predictor.predict([{"x": value}])


def answering(*outputs: tuple[str, int, Any], classes: list[Scalar]) -> OnnxPredictor:
    """Load a graph of one input ``x`` that gives constants, a row of each a row."""
    nodes, described, constants = [], [], []
    for name, element, row in outputs:
        value = np.array(row, dtype=helper.tensor_dtype_to_np_dtype(element))
        constants.append(numpy_helper.from_array(value, f"{name}-row"))
        # One row of the constant for each row of x.
        nodes += [
            helper.make_node("Gather", [f"{name}-row", "zeros"], [name], axis=0),
        ]
        described.append((name, element, ["n", *value.shape[1:]]))
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["zero-float"]),
        helper.make_node("Cast", ["zero-float"], ["zeros"], to=INT64),
        *nodes,
    ]
    constants.append(numpy_helper.from_array(np.zeros((), dtype=np.float32), "zero"))
    data = graph(nodes, [("x", FLOAT, ["n"])], described, initializers=constants)
    return load(data, columns(x="numeric"), classes)


def test_probabilities_alone_are_in_the_order_of_the_classes() -> None:
    one: list[Row] = [{"x": 1.0}]
    both = answering(("p", FLOAT, [[0.25, 0.75]]), classes=["no", "yes"])
    assert both.predict(one) == [Output(label="yes", score=0.75)]
    positive = answering(("p", FLOAT, [[0.25]]), classes=["no", "yes"])
    assert positive.predict(one) == [Output(label="no", score=0.25)]
    flat = answering(("p", FLOAT, [0.25]), classes=["no", "yes"])
    assert flat.predict(one * 2) == [Output(label="no", score=0.25)] * 2
    three = answering(("p", FLOAT, [[0.25, 0.5, 0.25]]), classes=[1, 2, 3])
    assert three.predict(one) == [Output(label=2, scores={"1": 0.25, "2": 0.5, "3": 0.25})]


def test_a_label_alone_is_enough_and_the_models_own_label_counts() -> None:
    one: list[Row] = [{"x": 1.0}]
    alone = answering(("label", INT64, [1]), classes=[0, 1])
    assert alone.predict(one) == [Output(label=1)]
    zipped = load(careful(), columns(x="numeric"), ["no", "yes"])
    assert zipped.predict(one) == [Output(label="yes", score=0.25)]


def careful() -> bytes:
    """Make a classifier that says yes from a probability of 0.2 on."""
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["zero-float"]),
        helper.make_node("Cast", ["zero-float"], ["zeros"], to=INT64),
        helper.make_node("Gather", ["yes", "zeros"], ["label"], axis=0),
        helper.make_node("Gather", ["row", "zeros"], ["raw"], axis=0),
        helper.make_node(
            "ZipMap", ["raw"], ["probability"], domain="ai.onnx.ml",
            classlabels_strings=["no", "yes"],
        ),
    ]  # fmt: skip
    constants = [
        numpy_helper.from_array(np.zeros((), dtype=np.float32), "zero"),
        numpy_helper.from_array(np.array(["yes"], dtype=object), "yes"),
        numpy_helper.from_array(np.array([[0.75, 0.25]], dtype=np.float32), "row"),
    ]
    model = graph(
        nodes, [("x", FLOAT, ["n"])], [("label", STRING, ["n"])], initializers=constants
    )  # fmt: skip
    return with_map_output(model, "probability")


def with_map_output(data: bytes, name: str) -> bytes:
    import onnx

    model = onnx.ModelProto.FromString(data)
    value = helper.make_tensor_type_proto(FLOAT, [])
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(STRING, value))
    model.graph.output.append(helper.make_value_info(name, kind))
    return bytes(model.SerializeToString())


def test_several_threads_may_ask_and_an_empty_batch_is_no_question() -> None:
    model, rows = logistic(3, ["no", "yes"])
    predictor = load(convert(model, {"X": "float[3]"}), ABC, ["no", "yes"], threads=2)
    assert predictor.predict([]) == []
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(predictor.predict, [named(rows)] * 8))
    assert all(answer == answers[0] for answer in answers)


# ---------------------------------------------------------------------- refusals


def refused(data: bytes, schema: list[FeatureColumn], classes: list[Scalar]) -> str:
    with pytest.raises(UnsafeArtefact) as raised:
        load(data, schema, classes)
    return str(raised.value)


ONE_FLOAT = [("x", FLOAT, ["n", 1])]
RESULT = [("y", FLOAT, ["n", 1])]
X = columns(x="numeric")


@pytest.mark.parametrize("data", [b"", b"{}", b"\x80\x04K\x01.", b"PK\x03\x04", b"\x00" * 99])
def test_what_is_no_onnx_is_refused(data: bytes) -> None:
    assert refused(data, X, []).startswith("an ONNX file cannot be read")


@given(st.data())
def test_a_damaged_file_is_refused_or_still_a_model(data: st.DataObject) -> None:
    whole = identity("x", FLOAT)
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]
    try:
        load(damaged[: data.draw(st.integers(0, len(whole)))], X, [])
    except UnsafeArtefact:
        return


def test_onnxruntimes_own_format_behind_the_mask_of_onnx_is_refused() -> None:
    import onnx

    model = onnx.ModelProto.FromString(identity("x", FLOAT))
    # Bytes 4 to 8, where onnxruntime looks for its mark, are in a name then.
    data = bytes(onnx.ModelProto(producer_name="00ORTM").SerializeToString())
    data += bytes(model.SerializeToString())
    assert data[4:8] == b"ORTM"
    assert "cannot be read" in refused(data, X, [])


def test_an_operator_of_another_domain_is_refused_even_inside_a_branch() -> None:
    foreign = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    data = graph([foreign], ONE_FLOAT, RESULT, domains=("", "com.microsoft"))
    assert "'Gelu' of 'com.microsoft'; only those of ai.onnx and ai.onnx.ml" in refused(data, X, [])
    assert "'Gelu' of 'com.microsoft'" in refused(branched(foreign, ("", "com.microsoft")), X, [])


def branched(node: Any, domains: tuple[str, ...] = ("",)) -> bytes:
    """Hide a node that makes y of x in a branch of an If."""
    inner = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("y", FLOAT, None)])
    nodes = [helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)]
    yes = numpy_helper.from_array(np.array(True), "yes")
    return graph(nodes, ONE_FLOAT, RESULT, initializers=[yes], domains=domains)


def external(name: str) -> Any:
    tensor = TensorProto(name=name, data_type=FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def test_a_tensor_in_another_file_is_refused_wherever_it_is() -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    data = graph([node], ONE_FLOAT, RESULT, initializers=[external("w")])
    assert "keeps the tensor 'w' in another file" in refused(data, X, [])
    constant = helper.make_node("Constant", [], ["w"], value=external("deep"))
    assert "'deep' in another file" in refused(graph([constant, node], ONE_FLOAT, RESULT), X, [])
    inner = helper.make_node("Constant", [], ["y"], value=external("inner"))
    assert "'inner' in another file" in refused(branched(inner), X, [])


def test_functions_and_loops_are_refused() -> None:
    body = helper.make_node("Relu", ["a"], ["b"])
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("mine", "F", ["a"], ["b"], [body], opsets)
    call = helper.make_node("F", ["x"], ["y"], domain="mine")
    data = graph([call], ONE_FLOAT, RESULT, domains=("", "mine"), functions=[function])
    assert "defines the function 'F'; write its functions out" in refused(data, X, [])
    inner = helper.make_graph([], "l", [], [])
    loop = helper.make_node("Loop", ["", "yes"], ["y"], body=inner)
    assert "'Loop', which may run without end" in refused(graph([loop], ONE_FLOAT, RESULT), X, [])


def test_a_file_that_is_too_large_is_not_even_parsed() -> None:
    class Large(bytes):
        def __len__(self) -> int:
            return onnx_structure.LARGEST + 1

    assert "at most 536870912" in refused(Large(), X, [])


@pytest.mark.parametrize(
    ("shape", "schema", "message"),
    [
        (["n", 2], ABC, "'x' has 2 columns where the version has 3: a, b, c"),
        ([1, 3], ABC, "takes exactly 1 row(s) at a time; export the model with a free first"),
        (["n", 3, 4], ABC, "'x' is neither [rows] nor [rows, columns] but ['n', 3, 4]"),
        (["n", 2], columns(x="numeric", y="numeric"), "'x' is wider than the one column"),
        (["n", 1], columns(x="boolean", y="categorical"), None),
        (["n", "m"], ABC, "fails when tried"),
    ],
)
def test_inputs_that_do_not_fit_the_features_are_refused(
    shape: list[Any], schema: list[FeatureColumn], message: str | None
) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["one"]),
        helper.make_node("MatMul", ["one", "w"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([-1, 1], dtype=np.int64), "flat"),
        numpy_helper.from_array(np.ones((1, 1), dtype=np.float32), "w"),
    ]
    if shape == ["n", "m"]:  # whose width only running it shows
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        constants = [numpy_helper.from_array(np.ones((2, 1), dtype=np.float32), "w")]
    data = graph(nodes, [("x", FLOAT, shape)], [("y", FLOAT, None)], initializers=constants)
    if message is None:
        load(data, schema, [])
    else:
        assert message in refused(data, schema, [])


def test_an_input_of_another_name_or_type_is_refused() -> None:
    _, data = mixed()
    classes: list[Scalar] = ["no", "yes"]
    wrong = columns(country="categorical", vip="boolean", amuont="numeric")
    assert "has an input 'amount', which is none of the features country, vip, amuont" in refused(
        data, wrong, classes
    )
    swapped = columns(country="numeric", vip="boolean", amount="numeric")
    assert "tensor(string), which cannot take the numeric feature 'country'" in refused(
        data, swapped, classes
    )


Answers = Callable[[], OnnxPredictor]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: answering(("p", FLOAT, [[0.5, 0.6]]), classes=[0, 1]), "no probabilities"),
        (lambda: answering(("p", FLOAT, [[-1.0, 2.0]]), classes=[0, 1]), "no probabilities"),
        (lambda: answering(("p", FLOAT, [[0.5, 0.5]]), classes=[0, 1, 2]), "2 probabilities a row"),
        (lambda: answering(("l", INT64, [7]), classes=[0, 1]), "the class '7', which is none of"),
        (lambda: answering(("l", INT64, [[0, 1]]), classes=[0, 1]), "labels of shape [3, 2]"),
        (
            lambda: answering(
                ("label", INT64, [0]), ("probs", FLOAT, [[0.1, 0.9]]), classes=[0, 1]
            ),
            "its label is not its most probable class",
        ),
        (
            lambda: answering(("a", FLOAT, [[1.0]]), ("b", FLOAT, [[1.0]]), classes=[0, 1]),
            "several outputs that could be the probabilities; its outputs are a (tensor(float)), b",
        ),
        (lambda: answering(("l", INT64, [1]), classes=[]), "no output that could be a regression"),
        (lambda: answering(("v", FLOAT, [[1.0, 2.0]]), classes=[]), "2 numbers a row"),
        (lambda: answering(("v", FLOAT, [[[1.0]]]), classes=[]), "a tensor of shape [3, 1, 1]"),
    ],
)
def test_answers_that_are_none_are_refused_when_it_is_loaded(make: Answers, message: str) -> None:
    with pytest.raises(UnsafeArtefact) as raised:
        make()
    assert message in str(raised.value)


def test_other_classes_than_the_versions_are_refused() -> None:
    model, _ = logistic(3, ["no", "yes"])
    for zipmap in (True, False):
        data = convert(model, {"X": "float[3]"}, zipmap=zipmap)
        message = refused(data, ABC, ["ok", "fraud"])
        assert message == "an ONNX file answers the classes no, yes where the version has ok, fraud"


def test_a_model_that_knows_its_categories_is_loaded_though_the_trial_has_none() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    table = np.array([["NO"], ["SE"], ["NO"], ["SE"]], dtype=object)
    model = make_pipeline(OneHotEncoder(handle_unknown="error"), LogisticRegression())
    model.fit(table, ["yes", "no", "yes", "no"])
    data = convert(model, {"country": "string[1]"})
    predictor = load(data, columns(country="categorical"), ["no", "yes"])
    assert predictor.predict([{"country": "NO"}])[0].label == "yes"
    with pytest.raises(ValueError, match="the graph fails: Unknown Category"):
        predictor.predict([{"country": "DK"}])


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_one_sentence_with_what_to_run(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = identity("x", FLOAT)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Misconfigured) as raised:
        load(data, X, [])
    assert str(raised.value).endswith("run: pip install 'kedge[services,onnx]'")
