from __future__ import annotations

import tomllib
from typing import Any

import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from kedge.toml_lines import Location, line_of, locate

TEXT = r'''# a comment with [brackets] and key = "value"
model = "loans # not a comment"          # 2
classes = [
  "a]",                                  # 4
  'b',                                   # 5
]
text = """
not = "a key"
[neither]
"""
windows.pane = "2s"                      # 11
"quoted key".'x' = 1                     # 12

[features]                               # 14
age = "numeric"                          # 15
car = { type = "categorical", extra = [1, { deep = 2 }] }   # 16

[[rules]]                                # 18
name = "one"                             # 19
  [rules.nested]                         # 20
  key = 1                                # 21
[[rules]]                                # 22
name = "two"                             # 23
[rules.nested]                           # 24
key = 2                                  # 25
 [ a . "b.c" ]                           # 26
"\u00e9" = 1                             # 27
'''


def test_every_kind_of_key_has_its_line() -> None:
    tomllib.loads(TEXT)
    lines = locate(TEXT)
    assert {
        ("model",): 2,
        ("classes", 0): 4,
        ("classes", 1): 5,
        ("windows",): 11,
        ("windows", "pane"): 11,
        ("quoted key", "x"): 12,
        ("features",): 14,
        ("features", "age"): 15,
        ("features", "car", "extra", 1, "deep"): 16,
        ("rules",): 18,
        ("rules", 0): 18,
        ("rules", 0, "name"): 19,
        ("rules", 0, "nested", "key"): 21,
        ("rules", 1): 22,
        ("rules", 1, "name"): 23,
        ("rules", 1, "nested"): 24,
        ("a", "b.c"): 26,
        ("a", "b.c", "é"): 27,
    }.items() <= lines.items()


def test_nothing_inside_strings_and_comments_is_a_key() -> None:
    assert {part for location in locate(TEXT) for part in location}.isdisjoint(
        {"not", "neither", "key = 1", "brackets"}
    )


def test_a_location_without_a_line_of_its_own_gets_the_one_around_it() -> None:
    lines = locate(TEXT)
    assert line_of(lines, ("rules", 1, "below")) == 22
    assert line_of(lines, ("features", "age", "type")) == 15
    assert line_of(lines, ("nowhere",)) == 1


def test_lines_are_the_same_with_windows_line_ends() -> None:
    assert locate(TEXT.replace("\n", "\r\n")) == locate(TEXT)


SCALARS: Any = st.text() | st.integers(-9, 9) | st.booleans() | st.floats(allow_nan=False)
DATA: Any = st.dictionaries(
    st.text(),
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def locations(value: object, at: Location = ()) -> set[Location]:
    here = {at} if at else set()
    if isinstance(value, dict):
        return here.union(*(locations(inner, (*at, key)) for key, inner in value.items()))
    if isinstance(value, list):
        return here.union(*(locations(inner, (*at, i)) for i, inner in enumerate(value)))
    return here


@given(DATA)
def test_exactly_the_keys_that_tomllib_reads_are_located(data: dict[str, Any]) -> None:
    text = tomli_w.dumps(data, multiline_strings=True)
    assert set(locate(text)) == locations(tomllib.loads(text))
