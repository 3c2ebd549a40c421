"""The windows of whoever served, read for people: panes, tests, values over time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kedge_services.local.replay.plots import Span

__all__ = ["Followed", "Point", "Tested", "follow", "name_of_test"]

#: The two tests of distributions, by what they measure.
_TESTS = ("kolmogorov_smirnov", "effect_w")
_OUTPUTS = ("prediction", "score", "label")
Window = Mapping[str, Any]


class Point(NamedTuple):
    """A measure of one window, and the middle of the window's newest pane."""

    at_ms: float
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None
    n: int
    note: str | None


class Tested(NamedTuple):
    """The outcome of one test in one pane, over all scales the one that says most.

    ``ln_p`` is None where there was not enough data to test; ``summary`` is that
    of the detection where it alarmed.
    """

    start_ms: int
    end_ms: int
    scale: int
    value: float
    low: float | None
    threshold: float | None
    ln_p: float | None
    summary: str | None

    @property
    def is_alarm(self) -> bool:
        """Whether evidence and size were both there."""
        return self.summary is not None


@dataclass(frozen=True, slots=True)
class Followed:
    """What there is to show of a run.

    Attributes
    ----------
    span
        From the first to the last window.
    windows
        Of the version that served when the window ended, by end.
    serving
        Who served from when, in order.
    """

    span: Span
    windows: Sequence[Window]
    serving: Sequence[tuple[int, str]] = ()
    _tests: dict[str, dict[str, list[Tested]]] = field(default_factory=dict)

    def panes(self, kind: str, segment: str = "") -> list[Window]:
        """Give the windows of one pane of a kind."""
        return [
            w for w in self.windows
            if w["kind"] == kind and w["scale"] == 1 and w.get("segment", "") == segment
        ]  # fmt: skip

    def segments(self) -> list[str]:
        """Give the segments that have windows of their own."""
        return sorted({w["segment"] for w in self.windows if w.get("segment")})

    def series(
        self, name: str, *, kind: str | None = None, segment: str = "", feature: str | None = None
    ) -> list[Point]:
        """Give a measure over time, from windows of one pane.

        A window that lacks what others of its kind have gives a point without value.
        """
        asked = [
            w
            for w in self.windows
            if w["scale"] == 1 and w.get("segment", "") == segment and kind in (None, w["kind"])
        ]
        found = [
            next(
                (
                    m
                    for m in w.get("measures", ())
                    if (m["name"], m.get("feature")) == (name, feature)
                ),
                None,
            )
            for w in asked
        ]
        kinds = {w["kind"] for w, m in zip(asked, found, strict=True) if m is not None}
        return [_point(w, m or {}) for w, m in zip(asked, found, strict=True) if w["kind"] in kinds]

    def estimates(self, name: str) -> list[Point]:
        """Give an estimate over time: windows of both kinds tell the same, once is enough."""
        return self.series(name, kind="drift") or self.series(name, kind="performance")

    def names(self) -> dict[tuple[str, str, str | None], str]:
        """Give every measure there is, as (name, segment, feature), with its kind of window."""
        return {
            (m["name"], w.get("segment", ""), m.get("feature")): w["kind"]
            for w in self.windows
            if w["scale"] == 1
            for m in w.get("measures", ())
        }

    def tests(self) -> dict[str, list[Tested]]:
        """Give the tests of distributions, by feature or output; those that say most first."""
        return self._grouped("drift", _distributions)

    def counters(self) -> dict[str, list[Tested]]:
        """Give the tests of counters (nulls, unseen ...), by feature and counter."""
        return self._grouped("integrity", _counters)

    def _grouped(self, group: str, read: Any) -> dict[str, list[Tested]]:
        if group not in self._tests:
            best: dict[str, dict[int, Tested]] = {}
            for window in self.windows:
                for name, test in read(window):
                    panes = best.setdefault(name, {})
                    known = panes.get(test.end_ms)
                    if known is None or _strength(test) > _strength(known):
                        panes[test.end_ms] = test
            ordered = {name: sorted(panes.values(), key=lambda t: t.end_ms)
                       for name, panes in best.items()}  # fmt: skip
            names = sorted(ordered, key=lambda name: (*_rank(ordered[name]), name))
            self._tests[group] = {name: ordered[name] for name in names}
        return self._tests[group]


def follow(windows: Iterable[Window], versions: Iterable[Mapping[str, Any]]) -> Followed:
    """Keep, of windows about the same time, those of the version that served.

    Parameters
    ----------
    versions
        As in ``model-versions.ndjson``, in order.
    """
    serving = [(v["changed_ms"], v["version"]) for v in versions if v["status"] == "champion"]
    since = [at for at, _ in serving]

    def served(window: Window) -> bool:
        place = bisect_right(since, window["end_ms"] - 1)
        # The first version serves from the beginning, whenever it was registered.
        return bool(serving) and serving[max(0, place - 1)][1] == window["version"]

    kept: dict[tuple[Any, ...], Window] = {}
    for window in windows:
        key = (window["kind"], window["scale"], window.get("segment", ""), window["start_ms"])
        known = kept.get(key)
        if known is None or (served(window), window["n"]) > (served(known), known["n"]):
            kept[key] = window
    found = sorted(kept.values(), key=lambda w: (w["end_ms"], w["window_id"]))
    ones = [w for w in found if w["scale"] == 1] or found
    left = min((w["start_ms"] for w in ones), default=0)
    right = max((w["end_ms"] for w in ones), default=left + 1)
    return Followed(Span(left, right), found, serving)


def name_of_test(measure: str) -> str | None:
    """Say what a measure tests: an output, "" for a feature, None when it is no test.

    >>> name_of_test("prediction_effect_w"), name_of_test("effect_w"), name_of_test("psi")
    ('prediction', '', None)
    """
    for test in _TESTS:
        if measure.endswith(test):
            return measure.removesuffix(test).removesuffix("_")
    return None


def _distributions(window: Window) -> Iterator[tuple[str, Tested]]:
    found = {
        _shown(d.get("feature"), name_of_test(d["detector"]) or ""): d.get("summary", "")
        for d in window.get("detections", ())
    }
    if window["kind"] not in ("drift", "performance") or window.get("segment"):
        return
    for m in window.get("measures", ()):
        of = name_of_test(m["name"])
        value = _finite(m.get("value"))
        if of is None or value is None or (of and of not in _OUTPUTS):
            continue
        name = _shown(m.get("feature"), of)
        yield name, _test(window, m, value, found.get(name))


def _counters(window: Window) -> Iterator[tuple[str, Tested]]:
    if window["kind"] != "drift" or window.get("segment"):
        return
    found = {
        (d.get("feature"), d["detector"]): d.get("summary", "")
        for d in window.get("detections", ())
        if d["kind"] == "integrity"
    }
    for m in window.get("measures", ()):
        value = _finite(m.get("value"))
        if m["name"].endswith("_share") and m.get("feature") and value is not None:
            what = m["name"].removesuffix("_share").replace("_", " ")
            summary = found.get((m["feature"], m["name"]))
            yield f"{m['feature']}: {what}", _test(window, m, value, summary)


def _test(window: Window, m: Mapping[str, Any], value: float, summary: str | None) -> Tested:
    length = (window["end_ms"] - window["start_ms"]) // window["scale"]
    return Tested(
        window["end_ms"] - length, window["end_ms"], window["scale"], value, _finite(m.get("low")),
        _finite(m.get("threshold")), _finite(m.get("evidence")), summary,
    )  # fmt: skip


def _point(window: Window, m: Mapping[str, Any]) -> Point:
    value, low, high, threshold = (
        _finite(m.get(name)) for name in ("value", "low", "high", "threshold")
    )
    middle = (window["start_ms"] + window["end_ms"]) / 2
    return Point(middle, value, low, high, threshold, m.get("n", 0), m.get("note"))


def _shown(feature: str | None, output: str) -> str:
    return feature or f"the {output}"


def _strength(test: Tested) -> tuple[bool, float]:
    return test.is_alarm, -(test.ln_p or 0.0)


def _rank(tests: Sequence[Tested]) -> tuple[int, float]:
    alarms = sum(test.is_alarm for test in tests)
    return -alarms, min((test.ln_p or 0.0 for test in tests), default=0.0)


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
