from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge_services.core.lifecycle import (
    WINDOW_IDS,
    Hold,
    Instance,
    Phase,
    Quiet,
    Verdict,
    breach,
    clear,
    end,
)

PANE = 100
LETTERS = {None: ".", "pending": "p", "firing": "F", "resolved": "R"}


def verdict(index: int, version: str = "k1") -> Verdict:
    start = index * PANE
    return Verdict(f"w{index}", "drift", version, start, start, start + PANE, value=float(index))


def play(windows: str, hold: str, keep: str) -> tuple[str, list[Instance]]:
    """Give what is published: x breaks the rule, o does not, a blank says nothing."""
    instance, published, told = Instance("m", "f" * 16, "r", "rule"), "", []
    for index, window in enumerate(windows):
        status = None
        if window == "x":
            instance, status = breach(instance, verdict(index), Hold.parse(hold))
        elif window == "o":
            quiet = Quiet(index * PANE, (index + 1) * PANE)
            instance, status = clear(instance, quiet, Hold.parse(keep))
        letter = LETTERS[status]
        # What ends without having fired is pending with an end.
        published += "e" if letter == "p" and not instance.is_active else letter
        told.append(instance)
    return published, told


@pytest.mark.parametrize(
    ("hold", "keep", "windows", "published"),
    [
        # A window is 100 ms long; p pending, F firing, R resolved, e ended unheard.
        ("1 window", "0s", "ooxxoo",  # one is enough, and one without ends it
                           "..F.R."),
        ("2 windows", "0s", "oxoxxxoo",  # a single one is only pending
                            ".pepF.R."),
        ("3 windows", "0s", "xxoxxxx",  # they have to follow each other
                            "p.ep.F."),
        ("300ms", "0s", "xxxxo",  # three windows cover 300 ms
                        "p.F.R"),
        ("250ms", "0s", "xxxo",
                        "p.FR"),
        ("0s", "0s", "xo",
                     "FR"),
        ("1 window", "3 windows", "xooxooo",  # a relapse starts the wait anew
                                  "F.....R"),
        ("1 window", "200ms", "xoxoox",
                              "F...RF"),
        ("2 windows", "2 windows", "xx  oo",  # windows that say nothing change nothing
                                   "pF...R"),
        ("2 windows", "0s", "x x o",
                            "p.F.R"),
        ("100ms", "150ms", "xoo",
                           "F.R"),
    ],
)  # fmt: skip
def test_for_and_keep_firing_for(hold: str, keep: str, windows: str, published: str) -> None:
    assert play(windows, hold, keep)[0] == published


def test_each_time_of_an_alert_is_what_its_name_says() -> None:
    #    0   100  200  300  400  500  600
    #    | o  | x  | x  | x  | o  | o  |
    #           ▲ active  ▲ fired   ▲ quiet since 400, resolved at 600
    published, told = play("oxxxoo", "3 windows", "2 windows")
    assert published == ".p.F.R"
    fired, quiet, resolved = told[3], told[4], told[5]
    assert (fired.starts_ms, fired.active_at_ms, fired.fired_at_ms) == (100, 100, 400)
    assert (quiet.keep_firing_since_ms, quiet.resolved_at_ms) == (400, None)
    assert (resolved.resolved_at_ms, resolved.phase) == (600, Phase.INACTIVE)
    assert resolved.window_ids == ("w1", "w2", "w3")


def test_overlapping_windows_count_a_pane_once() -> None:
    #  scale 4:  [0 ─────── 400)
    #               [100 ─────── 500)     two of them: 200 ms of panes, not 500 ms
    def long(start: int) -> Verdict:
        return Verdict(f"l{start}", "drift", "k1", start, start + 300, start + 400)

    instance = Instance("m", "f", "r", "rule")
    instance, _ = breach(instance, long(0), Hold(ms=300))
    assert instance.phase is Phase.PENDING
    instance, _ = breach(instance, long(100), Hold(ms=300))
    assert instance.phase is Phase.PENDING
    instance, status = breach(instance, long(200), Hold(ms=300))
    assert status == "firing"
    assert instance.starts_ms == 0


def test_an_alert_never_starts_before_the_end_of_the_one_before() -> None:
    instance = Instance("m", "f", "r", "rule")
    instance, _ = breach(instance, verdict(5), Hold())
    instance, _ = end(instance, 900)
    again, status = breach(instance, verdict(6), Hold())
    assert status == "firing"
    assert (instance.resolved_at_ms, again.starts_ms) == (900, 900)
    assert again.alert_id != instance.alert_id


def test_what_never_fired_is_not_resolved() -> None:
    instance, _ = breach(Instance("m", "f", "r", "rule"), verdict(0), Hold(windows=2))
    ended, status = end(instance, 500)
    assert status == "pending"
    assert (ended.fired_at_ms, ended.resolved_at_ms) == (None, 500)
    assert end(ended, 600) == (ended, None)


def test_the_first_window_and_the_newest_are_named() -> None:
    instance = play("x" * 50, "1 window", "0s")[1][-1]
    assert instance.window_ids == ("w0", *(f"w{i}" for i in range(50 - WINDOW_IDS + 1, 50)))


@given(
    st.text("xo ", max_size=40),
    st.sampled_from(["1 window", "2 windows", "0s", "250ms"]),
    st.sampled_from(["0s", "2 windows", "150ms"]),
)
def test_published_states_alternate_and_ids_never_repeat(
    windows: str, hold: str, keep: str
) -> None:
    published, told = play(windows, hold, keep)
    letters = published.replace(".", "")
    follows = {"p": "eF", "F": "R", "R": "pF", "e": "pF"}
    assert all(after in follows[before] for before, after in pairwise(letters))
    assert letters[:1] in {"", "p", "F"}
    # Each time an instance leaves inactive it gets an id of its own, later than all before.
    opened = [i for i, letter in enumerate(published) if letter in "pF"]
    ids = [told[i].alert_id for i in opened]
    runs = [told[i].starts_ms for i in opened]
    assert runs == sorted(runs)
    assert len(set(ids)) == len(
        [1 for before, after in pairwise("e" + letters) if before in "eR" and after in "pF"]
    )
