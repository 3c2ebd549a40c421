"""What ``kedge init`` guesses from columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from kedge.errors import UsageError
from kedge_services.local.init.draft import Draft, draft_from_table
from kedge_services.local.init.guess import Given
from kedge_services.local.init.pace import nice_ms
from kedge_services.local.init.table import Table, describe
from kedge_services.local.tables import Block

ROWS = 400
#: Numbers that repeat nothing and follow nothing: 0.618… is the worst to approximate.
NOISE = [(i * 0.6180339887) % 1 for i in range(ROWS)]
COIN = [int(x > 0.5) for x in [(i * 0.7548776662) % 1 for i in range(ROWS)]]


def table(columns: Mapping[str, Sequence[Any]], *, texts_only: bool = False) -> Table:
    rows = len(next(iter(columns.values())))
    return describe([Block(1, rows, columns)], texts_only=texts_only, most_rows=10**6)


def drafted(
    columns: Mapping[str, Sequence[Any]], *, texts_only: bool = False, **said: Any
) -> Draft:
    described = table(columns, texts_only=texts_only)
    return draft_from_table(described, Given(**said), file_name="rows.csv", source="rows.csv")


def types(draft: Draft) -> dict[str, str]:
    return {name: guess.value for name, guess in draft.features.types.items()}


# ---------------------------------------------------------------- kinds of columns


@pytest.mark.parametrize(
    ("cells", "in_csv", "with_types"),
    [
        (["1", "2.5", "", "nan"], "number", "text"),
        (["true", "False", ""], "boolean", "text"),
        (["2026-01-01", "2026-01-02 10:00:00"], "time", "time"),
        (["01234", "98765"], "text", "text"),
        (["a", "1"], "text", "text"),
        (["", None], "empty", "empty"),
        ([1, 2.5, None, math.nan], "number", "number"),
        ([True, None], "boolean", "boolean"),
        ([datetime(2026, 1, 1, tzinfo=UTC), None], "time", "time"),
        ([[1], [2]], "nested", "nested"),
        ([*range(99), "?"], "number", "number"),
    ],
)
def test_a_column_is_of_the_kind_of_nearly_all_its_cells(
    cells: list[Any], in_csv: str, with_types: str
) -> None:
    kinds = [table({"x": cells}, texts_only=only).columns["x"].kind for only in (True, False)]
    assert kinds == [in_csv, with_types]


@hypothesis_given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 7))
def test_a_table_is_described_the_same_in_any_blocks(cells: list[int], size: int) -> None:
    parts = [cells[i : i + size] for i in range(0, len(cells), size)]
    blocks = [Block(1 + size * i, len(part), {"x": part}) for i, part in enumerate(parts)]
    assert describe(blocks, texts_only=False, most_rows=10**6) == table({"x": cells})


def test_a_sample_is_spread_over_the_whole_table_and_values_are_counted_in_all_of_it() -> None:
    size = 5_000
    blocks = [
        Block(1 + size * i, size, {"x": list(range(size * i, size * (i + 1))), "c": [i] * size})
        for i in range(9)
    ]
    described = describe(blocks, texts_only=False, most_rows=10**6)
    assert (described.rows, described.stride) == (45_000, 4)
    assert list(described.columns["x"].cells) == list(range(0, 45_000, 4))
    assert list(described.columns["x"].head) == list(range(4_096))
    assert described.columns["x"].counts is None
    assert described.columns["c"].counts == {str(i): size for i in range(9)}
    assert describe(blocks, texts_only=False, most_rows=5_001).rows == 10_000


def test_a_column_that_comes_late_was_empty_before() -> None:
    blocks = [Block(1, 2, {"x": [1, 2]}), Block(3, 2, {"y": ["a", "b"]})]
    columns = describe(blocks, texts_only=False, most_rows=10).columns
    assert (columns["x"].cells, columns["x"].empty) == ([1, 2, None, None], 2)
    assert (columns["y"].cells, columns["y"].empty) == ([None, None, "a", "b"], 2)


# ----------------------------------------------------------------------- answers


def test_label_prediction_and_score_are_found_by_name() -> None:
    draft = drafted({"x": NOISE, "y_true": COIN, "y_pred": COIN, "y_pred_proba": NOISE})
    found = (draft.label, draft.prediction, draft.score)
    assert [guess.value for guess in found] == ["y_true", "y_pred", "y_pred_proba"]
    assert types(draft) == {"x": "numeric"}
    assert not draft.retrains


def test_a_label_without_a_telling_name_is_what_agrees_with_the_prediction() -> None:
    right = [value if i % 5 else 1 - value for i, value in enumerate(COIN)]
    other = [i % 2 for i in range(ROWS)]
    draft = drafted({"x": NOISE, "employed": right, "flag": other, "prediction": COIN})
    assert (draft.label.value, draft.label.certainty) == ("employed", "likely")
    assert "80% agree" in draft.label.why
    assert draft.quality == "80.0% of the predictions are right"


def test_without_any_name_the_last_column_with_few_values_is_an_unsure_label() -> None:
    draft = drafted({"x": NOISE, "state": ["on" if c else "off" for c in COIN]})
    assert (draft.label.value, draft.label.certainty) == ("state", "unsure")
    assert not drafted({"x": NOISE, "z": NOISE[::-1]}).labelled


def test_a_score_tells_which_class_is_positive() -> None:
    sick = [0.9 if c else 0.2 for c in COIN]
    upside_down = ["b" if c else "a" for c in COIN]
    draft = drafted({"x": NOISE, "label": upside_down, "score": sick})
    assert draft.classes is not None
    assert draft.classes.value == ["a", "b"]
    draft = drafted({"x": NOISE, "label": upside_down, "score": [1 - s for s in sick]})
    assert draft.classes is not None
    assert draft.classes.value == ["b", "a"]


@pytest.mark.parametrize(
    ("values", "order", "certainty"),
    [
        ([0, 1], [0, 1], "likely"),
        ([1, 2], [1, 2], "unsure"),
        (["UP", "DOWN"], ["DOWN", "UP"], "likely"),
        (["ham", "spam"], ["ham", "spam"], "likely"),
        (["approve", "reject"], ["reject", "approve"], "unsure"),
        ([False, True], [False, True], "likely"),
    ],
)
def test_without_a_score_words_and_size_tell_the_positive_class(
    values: list[Any], order: list[Any], certainty: str
) -> None:
    draft = drafted({"x": NOISE, "label": [values[c] for c in COIN]})
    assert draft.task.value == "binary"
    assert draft.classes is not None
    assert (draft.classes.value, draft.classes.certainty) == (order, certainty)


def test_of_two_unknown_words_the_rarer_is_positive() -> None:
    label = ["calm" if x < 0.8 else "storm" for x in NOISE]
    draft = drafted({"x": NOISE[::-1], "label": label})
    assert draft.classes is not None
    assert (draft.classes.value, draft.classes.certainty) == (["calm", "storm"], "unsure")


def test_a_confidence_is_no_score_of_the_positive_class() -> None:
    confidence = [0.5 + x / 2 for x in NOISE]
    draft = drafted({"x": NOISE, "label": COIN, "pred": COIN, "confidence": confidence})
    assert draft.score.value is None
    assert "never below one half" in draft.features.left_out["confidence"].why


@pytest.mark.parametrize(
    ("label", "task", "certainty"),
    [
        ([x * 100 for x in NOISE], "regression", "sure"),
        ([round(x * 1000) for x in NOISE], "regression", "likely"),
        ([round(x * 6) for x in NOISE], "multiclass", "unsure"),
        (["abcd"[round(x * 3)] for x in NOISE], "multiclass", "likely"),
        (["only"] * ROWS, "binary", "unsure"),
        ([7] * ROWS, "regression", "unsure"),
    ],
)
def test_the_task_follows_from_the_labels(label: list[Any], task: str, certainty: str) -> None:
    draft = drafted({"x": NOISE[::-1], "z": label}, label="z")
    assert (draft.task.value, draft.task.certainty) == (task, certainty)


def test_a_prediction_whose_values_are_not_the_labels_is_none() -> None:
    words = ["yes" if c else "no" for c in COIN]
    draft = drafted({"x": NOISE, "label": words, "prediction": COIN})
    assert draft.prediction.value is None
    assert "prediction" in draft.features.left_out


def test_numbers_written_in_two_ways_are_one_class() -> None:
    draft = drafted({"x": NOISE, "label": ["1.0" if c else "0" for c in COIN]}, texts_only=True)
    assert draft.classes is not None
    assert draft.classes.value == [0, 1]


# ---------------------------------------------------------------------- features


def test_types_follow_from_values_and_names() -> None:
    draft = drafted(
        {
            "price": NOISE,
            "city": ["oslo" if c else "bergen" for c in COIN[::-1]],
            "is_new": [bool(c) for c in COIN[::-1]],
            "weekday": [i % 7 for i in range(ROWS)],
            "children": [round(x * 4) for x in NOISE],
            "flag": [1 - c for c in COIN[::-1]],
            "zip": [round(x * 90) + 100 for x in NOISE],
            "age": [round(x * 90) for x in NOISE],
            "label": COIN,
        }
    )
    assert types(draft) == {
        "price": "numeric", "city": "categorical", "is_new": "boolean", "weekday": "categorical",
        "children": "numeric", "flag": "numeric", "zip": "categorical", "age": "numeric",
    }  # fmt: skip
    assert draft.features.types["weekday"].certainty == "unsure"


@pytest.mark.parametrize(
    ("name", "cells", "why"),
    [
        ("number", list(range(100, 100 + ROWS)), "counts the rows"),
        ("customer_id", [(i * 7919) % 10_007 for i in range(ROWS)], "an identifier"),
        ("comment", [f"text {i}" for i in range(ROWS)], "too many different texts"),
        ("unit", ["kWh"] * ROWS, "always kWh"),
        ("partition", ["reference"] * 200 + ["analysis"] * 200, "which part of the data"),
        ("part", ["train"] * 200 + ["test"] * 200, "which part of the data"),
        ("year", [2020 + i // 100 for i in range(ROWS)], "a year"),
        ("clock", [i // 3 / 1000 for i in range(ROWS)], "like a clock"),
        ("nothing", [None] * ROWS, "no values"),
        ("tags", [["a"]] * ROWS, "one number, text or boolean"),
        ("closed_at", [f"20{10 + i % 7}-01-01" for i in range(ROWS)], "a time"),
        ("copy", ["yes" if c else "no" for c in COIN], "tells the label label in advance"),
        ("amount_due", [c * 100 + x for c, x in zip(COIN, NOISE, strict=True)], "in advance"),
        ("second_prediction", [1 - c for c in COIN], "answer of a model"),
    ],
)
def test_what_is_no_feature_is_left_out_with_the_reason(
    name: str, cells: list[Any], why: str
) -> None:
    draft = drafted(
        {"x": NOISE, name: cells, "t": hourly(), "label": COIN, "prediction": COIN[::-1]}
    )
    assert types(draft) == {"x": "numeric"}
    assert why in draft.features.left_out[name].why


def test_a_good_but_not_perfect_feature_stays() -> None:
    strong = [
        c * 100 + (150 * x if i % 50 == 0 else x)
        for i, (c, x) in enumerate(zip(COIN, NOISE, strict=True))
    ]
    assert "strong" in types(drafted({"x": NOISE, "strong": strong, "label": COIN}))


def test_when_nothing_better_is_left_what_was_left_out_is_taken() -> None:
    draft = drafted({"unit": ["kWh"] * ROWS, "label": COIN})
    assert types(draft) == {"unit": "categorical"}
    assert draft.features.types["unit"].certainty == "unsure"
    with pytest.raises(UsageError, match="no column is left that could be a feature"):
        drafted({"label": COIN})
    with pytest.raises(UsageError, match=r"rows\.csv: no rows"):
        drafted({"x": []})


# -------------------------------------------------------------------------- time


def hourly(rows: int = ROWS, *, step: timedelta = timedelta(hours=1)) -> list[str]:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return [f"{begin + step * i:%Y-%m-%d %H:%M:%S}" for i in range(rows)]


def test_a_column_of_times_in_order_is_the_event_time() -> None:
    draft = drafted({"x": NOISE, "t0": hourly(), "born": hourly()[::-1], "label": COIN})
    assert draft.pace is not None
    assert draft.pace.timestamp is not None
    assert draft.pace.timestamp.value == "t0"
    assert draft.windows.pane.value == "5d"  # 120 rows, as there are few
    assert draft.features.left_out["born"].why == "a time, no feature"


def test_milliseconds_are_times_and_seconds_are_named_as_the_reason_why_not() -> None:
    ms = [1_767_225_600_000 + 60_000 * i for i in range(ROWS)]
    draft = drafted({"x": NOISE, "event_time_ms": ms, "label": COIN})
    assert draft.pace is not None
    assert draft.pace.timestamp is not None
    seconds = [t // 1000 for t in ms]
    draft = drafted({"x": NOISE, "time": seconds, "label": COIN})
    assert draft.pace is not None
    assert draft.pace.every is not None
    assert draft.pace.every.certainty == "unsure"
    with pytest.raises(UsageError, match="time looks like seconds since the epoch"):
        drafted({"x": NOISE, "time": seconds, "label": COIN}, timestamp="time")


def test_a_gap_in_the_times_makes_them_useless() -> None:
    times = [*hourly()[:-1], None]
    with pytest.raises(UsageError, match="t has cells without a time"):
        drafted({"x": NOISE, "t": times, "label": COIN}, timestamp="t")


def test_a_cycle_of_48_rows_is_a_day_of_half_hours() -> None:
    period = [(i % 48) / 47 for i in range(ROWS)]
    draft = drafted({"x": NOISE, "period": period, "label": COIN})
    assert draft.pace is not None
    assert draft.pace.every is not None
    assert (draft.pace.every.value, draft.pace.every.certainty) == ("30m", "likely")


def test_years_give_start_and_step() -> None:
    draft = drafted({"x": NOISE, "year": [2015 + i // 100 for i in range(ROWS)], "label": COIN})
    pace = draft.pace
    assert pace is not None
    assert pace.start is not None
    assert pace.every is not None
    assert (pace.start.value, pace.every.value) == ("2015-01-01T00:00:00Z", "87h")


def test_what_is_said_is_taken_and_marked_as_given() -> None:
    draft = drafted(
        {"x": NOISE, "a": COIN, "b": COIN[::-1]},
        model="m", label="a", prediction="b", every="10m", task="binary",
    )  # fmt: skip
    assert draft.pace is not None
    said = [draft.model, draft.task, draft.label, draft.prediction, draft.pace.every]
    assert [(guess.value, guess.certainty) for guess in said if guess is not None] == [
        ("m", "given"), ("binary", "given"), ("a", "given"), ("b", "given"), ("10m", "given"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"label": "lable"}, "--label: no column 'lable'; did you mean \"label\"?"),
        ({"label": "x", "prediction": "x"}, "are three columns"),
        ({"label": "t"}, "--label: t holds neither classes nor numbers"),
        ({"label": "empty"}, "--label: empty has no values"),
        ({"score": "t"}, "--score: t holds no numbers"),
        ({"every": "soon"}, "--every: 'soon' is no duration"),
        ({"every": "0s"}, "at least 1ms"),
        ({"task": "binary", "label": "three"}, "a binary model, but three has 3 values: 0, 1, 2"),
        ({"task": "regression", "label": "words"}, "does not hold numbers"),
        ({"task": "regression", "label": "x", "score": "p"}, "a regression has no scores"),
        ({"timestamp": "words"}, "words is not written like 2026-01-31T12:00:00Z"),
    ],
)
def test_what_cannot_be_is_refused(said: dict[str, Any], message: str) -> None:
    columns: dict[str, Sequence[Any]] = {
        "x": [x * i for i, x in enumerate(NOISE)], "words": ["a" if c else "b" for c in COIN],
        "three": [i % 3 for i in range(ROWS)], "t": hourly(), "empty": [None] * ROWS,
        "p": NOISE, "label": COIN,
    }  # fmt: skip
    with pytest.raises(UsageError) as caught:
        drafted(columns, **said)
    assert message in str(caught.value)


@hypothesis_given(st.floats(1e-6, 1e12))
def test_a_nice_duration_is_within_a_factor_of_three_up_to_a_year(ms: float) -> None:
    near = nice_ms(ms)
    if 1 <= ms <= 365 * 86_400_000:
        assert 1 / 2 <= near / ms <= 2
    assert 1 <= near <= 365 * 86_400_000
