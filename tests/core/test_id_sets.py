"""Ids as columns: hashes and sets of them say what texts and Python's sets would."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kedge.topics import murmur2, request_id
from kedge_services.core.id_sets import IdSet
from kedge_services.core.id_texts import IdTexts, hashes_of

IDS = st.lists(st.text("ab#\né\U0001f600", max_size=20))
#: So many that a set of them becomes a table, and the table grows.
MANY = st.lists(st.integers(0, 6_000), min_size=1, max_size=4).map(
    lambda starts: [f"id-{i}" for start in starts for i in range(start, start + 1_500)]
)


@given(IDS)
def test_texts_are_laid_out_and_judged_as_one_by_one(ids: list[str]) -> None:
    texts = IdTexts.of(ids)
    spans = zip(texts.starts.tolist(), texts.ends.tolist(), strict=True)
    assert [texts.raw[a:b].decode() for a, b in spans] == ids
    wanted = [request_id(name).encode() for name in ids]
    assert texts.partitions(7).tolist() == [(murmur2(key) & 0x7FFFFFFF) % 7 for key in wanted]
    assert texts.are_names(ids) == all(1 <= len(name) <= 255 for name in ids)
    assert texts.are([name.encode() for name in ids]) == (
        all("#" not in name and "\n" not in name for name in ids)
    )
    assert not texts.are([None, *wanted])


def test_names_are_measured_in_characters() -> None:
    for name in ("é" * 255, "é" * 256, "a" * 256, ""):
        assert IdTexts.of([name]).are_names([name]) == (1 <= len(name) <= 255)


@given(IDS, IDS)
def test_hashes_are_equal_where_texts_are_and_do_not_depend_on_those_beside(
    ids: list[str], others: list[str]
) -> None:
    together = IdTexts.of([*others, *ids]).hashes()[len(others) :]
    alone = [IdTexts.of([name]).hashes()[0].tobytes() for name in ids]
    assert [row.tobytes() for row in together] == alone
    assert len(set(alone)) == len(set(ids))


def test_hashes_never_change() -> None:
    # Ids that were read before are compared with ids that are read by a later release.
    found = IdTexts.of(["request-00000001"]).hashes().tolist()
    assert found == HASHES
    data = np.frombuffer(b"__request-00000001", dtype=np.uint8)
    assert hashes_of(data, np.array([2]), np.array([18])).tolist() == HASHES


HASHES = [[3937059222193925866, 9487015085587900623]]


@given(st.lists(IDS | MANY, max_size=4), MANY)
def test_a_set_of_hashes_holds_what_a_set_of_texts_holds(
    added: list[list[str]], asked: list[str]
) -> None:
    ours, theirs = IdSet(), set[str]()
    for ids in added:
        hashes = IdTexts.of(ids).hashes()
        assert ours.among(hashes).tolist() == [name in theirs for name in ids]
        ours.add(hashes)
        theirs |= set(ids)
        assert ours.among(hashes).all()
        assert len(ours) == len(theirs)
    found = ours.among(IdTexts.of(asked).hashes()).tolist()
    assert found == [name in theirs for name in asked]


def test_ids_whose_places_are_the_same_are_told_apart() -> None:
    rng = np.random.default_rng(5)
    # All begin at one place; some differ in one half only, and 0 is no special hash.
    hashes = rng.integers(0, 1 << 63, (4_000, 2)).astype(np.uint64) << np.uint64(20)
    hashes[1::2, 0] = hashes[::2, 0]
    hashes[0] = 0
    ours = IdSet()
    ours.add(hashes[:2_000])
    assert len(ours) == 2_000
    assert ours.among(hashes).tolist() == [True] * 2_000 + [False] * 2_000
