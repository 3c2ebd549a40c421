"""Every measure of the model and its segments that has no plot of its own, a small one each."""

from __future__ import annotations

from collections.abc import Iterator

from kedge_services.local.replay.followed import Followed, Point, name_of_test
from kedge_services.local.replay.plots import Dot, Plot, text
from kedge_services.local.replay.report_case import Case
from kedge_services.local.replay.report_plots import SMALL, figure_of, measured, reach

__all__ = ["measure_plots"]

#: Endings of measures that say the same as one that is shown, or are shown as tables.
_ELSEWHERE = ("psi", "jensen_shannon", "attribution", "binning_bound")
#: Of the whole model these have a plot of their own.
_OWN = frozenset({"error_rate", "accuracy", "mae", "drifted_features"})
_ESTIMATED, _GAP = "estimated_", "estimate_gap_"


def measure_plots(case: Case) -> str:
    """Draw them, with the estimate beside what was realised."""
    shown = "".join(_plots(case, folded=False))
    folded = "".join(_plots(case, folded=True))
    parts = [f"<div class='grid'>{shown}</div>"] if shown else []
    if folded:
        parts.append(
            "<details><summary>How far estimates were from what was realised</summary>"
            f"<div class='grid'>{folded}</div></details>"
        )
    return "".join(parts)


def _plots(case: Case, *, folded: bool) -> Iterator[str]:
    followed = case.followed
    names = followed.names()
    order = sorted(names, key=lambda key: (key[1], key[0], key[2] or ""))
    for name, segment, feature in order:
        kind = names[name, segment, feature]
        base = name.removeprefix(_ESTIMATED)
        is_overlaid = base != name and (base in _OWN or (base, segment, feature) in names)
        is_shown = is_overlaid or (name in _OWN and not segment)
        is_test = name_of_test(name) is not None or name.endswith(_ELSEWHERE)
        # Those of single features are the map's; of segments, fairness names both groups.
        is_of_feature = feature is not None and "=" not in feature
        # In a closed loop time is simulated: how long an answer took says nothing.
        is_simulated = name.startswith("latency") and "closed loop" in case.options
        if kind == "labels" or is_shown or is_test or is_of_feature or is_simulated:
            continue
        points = followed.series(name, segment=segment, kind=kind, feature=feature)
        if name.startswith(_GAP) == folded and any(p.value is not None for p in points):
            estimate = followed.estimates(_ESTIMATED + name) if not segment else []
            of = ", ".join(filter(None, (segment, feature)))
            yield _plot(followed, points, name.replace("_", " ") + (f" ({of})" if of else ""),
                        estimate)  # fmt: skip


def _plot(followed: Followed, points: list[Point], name: str, estimate: list[Point]) -> str:
    values = [
        v
        for p in (*points, *estimate)
        for v in (p.value, p.low, p.high, p.threshold)
        if v is not None
    ]
    plot = Plot(followed.span, *reach(values, share=False), label=name, box=SMALL)
    plot.band([(p.at_ms, p.low, p.high) for p in points], "main")
    plot.limit([Dot(p.at_ms, p.threshold) for p in points], "threshold")
    key = ""
    if any(p.value is not None for p in estimate):
        plot.band([(p.at_ms, p.low, p.high) for p in estimate], "estimate")
        plot.line([measured(p, f"estimated {name}") for p in estimate], "estimate")
        key = "; <b class='key estimate'></b>estimated"
    plot.line([measured(p, name) for p in points], "main")
    return figure_of(plot.svg(), f"<b>{text(name)}</b>{key}", small=True)
