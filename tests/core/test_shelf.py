"""State on shelves: restored from its changes it is what it was."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from kedge_services.core.shelf import Shelf

actions = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 4), st.integers()),
        st.tuples(st.just("delete"), st.integers(0, 4), st.just(0)),
        st.tuples(st.just("commit"), st.just(0), st.just(0)),
    )
)


def made() -> Shelf[list[int]]:
    return Shelf("s", list, list)


@given(actions)
def test_the_changelog_always_holds_the_state_of_the_last_commit(
    script: list[tuple[str, int, int]],
) -> None:
    shelf = made()
    model: dict[int, list[int]] = {}
    changelog: dict[bytes, bytes] = {}
    for action, number, value in [*script, ("commit", 0, 0)]:
        key = ("a/b", number)
        if action == "put":
            model.setdefault(number, []).append(value)
            if key in shelf:
                shelf[key].append(value)
                shelf.touch(key)
            else:
                shelf[key] = [value]
        elif action == "delete" and key in shelf:
            del shelf[key]
            del model[number]
        elif action == "commit":
            for name, piece in shelf.changes():
                if piece is None:
                    # A piece that was never stored is not deleted either.
                    del changelog[name]
                else:
                    changelog[name] = piece
            assert list(shelf.changes()) == []
            restored = made()
            for name, piece in changelog.items():
                _, *rest = json.loads(name)
                restored.restore(tuple(rest), piece)
            assert {key[1]: piece for key, piece in restored.items()} == model
            assert len(restored) == len(model)


def test_a_restored_piece_that_goes_is_deleted_from_the_changelog() -> None:
    shelf = made()
    shelf.restore(("x",), b"[1]")
    assert list(shelf.changes()) == []
    del shelf["x",]
    assert list(shelf.changes()) == [(b'["s","x"]', None)]
    assert shelf.get(("x",)) is None
