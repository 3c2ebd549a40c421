"""What ``kedge check`` says of the budget of false alarms: who spends how much of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from kedge import Monitor
from kedge_services.core.budget import SCALES, Budget
from kedge_services.core.overdispersion import overdispersion
from kedge_services.local.reference_file import beside, columns_of, read_reference

__all__ = ["advice", "budget_facts", "budget_lines", "file_overdispersion"]

#: Counters of a feature: null, wrong type, not finite, and below and above or unseen.
_COUNTERS: Final[Mapping[str, int]] = {"numeric": 5, "categorical": 4, "boolean": 4}
#: Beyond it a pane's rows say so little that another reference is the better choice.
_MUCH: Final = 4.0
_SHOWN: Final = 3


def _distributions(monitor: Monitor) -> list[str]:
    """Name what is tested, if the reference has all of it."""
    outputs = ["prediction"]
    outputs += [] if monitor.task == "regression" else ["score"]
    outputs += ["label"] if monitor.labelled else []
    # Neither strata nor references that are learnt keep how features go together.
    has_rows = monitor.reference.source in {"version", "file"} and len(monitor.features) > 1
    outputs += ["pairs of features"] if has_rows and monitor.drift.multivariate else []
    return [*monitor.features, *outputs]


def budget_facts(monitor: Monitor) -> dict[str, Any]:
    """Give the expected false alarms a week by part, and the thresholds that keep to them."""
    budget = Budget.of(monitor)
    expected = budget.expected(monitor)
    scales = max(SCALES, len(monitor.windows.scales))
    distributions = len(_distributions(monitor))
    counters = sum(_COUNTERS[feature.type] for feature in monitor.features.values())
    return {
        "budget_per_week": budget.per_week,
        "panes_per_week": budget.panes,
        "expected_per_week": {
            "total": expected.total,
            "drift": expected.drift,
            "integrity": expected.integrity,
            "performance": expected.performance,
            "fairness": expected.fairness,
        },
        "distributions": distributions,
        "counters": counters,
        "scales": scales,
        "p_drift": budget.drift / (scales * distributions),
        "p_integrity": budget.integrity / (scales * counters),
    }


def budget_lines(monitor: Monitor) -> Iterator[tuple[str, str]]:
    """Give the same for people."""
    facts = budget_facts(monitor)
    parts = dict(facts["expected_per_week"])
    total = parts.pop("total")
    spent = " + ".join(f"{name} {part:.2g}" for name, part in parts.items() if part)
    outputs = _distributions(monitor)[len(monitor.features) :]
    yield "budget", f"at most {total:.2g} false alarms a week are expected: {spent or 'none'}"
    yield (
        "tests",
        (
            f"{_count(facts['panes_per_week'])} panes a week, each at {facts['scales']} scales: "
            f"{facts['distributions']} distributions (features, {', '.join(outputs)}) "
            f"at p < {facts['p_drift']:.1e}, {facts['counters']} counters "
            f"at p < {facts['p_integrity']:.1e}"
        ),
    )


def file_overdispersion(file: Path, monitor: Monitor) -> dict[str, float]:
    """Give the overdispersion of every feature where the reference is a file; else nothing.

    Raises
    ------
    UsageError
        The file cannot be read, or does not fit the monitor.
    """
    path = beside(monitor, file).reference.path
    if monitor.reference.source != "file" or path is None:
        return {}
    reference = read_reference(Path(path), monitor, "-", columns_of(Path(path), monitor))
    found = overdispersion(reference)
    return {name: found[name] for name in monitor.features}


def advice(monitor: Monitor, found: Mapping[str, float]) -> str | None:
    """Say so when rows of the reference say much less than independent rows would."""
    much = sorted((name for name in found if found[name] > _MUCH), key=lambda n: (-found[n], n))
    if not much or monitor.reference.source == "same-hour":
        return None
    named = ", ".join(f"{name} {found[name]:.0f}" for name in much[:_SHOWN])
    more = f" and {len(much) - _SHOWN} more" if len(much) > _SHOWN else ""
    return (
        f"{monitor.model}: rows follow each other so closely that tests count only one in so many "
        f'({named}{more}); a reference from = "same-hour" may see drift earlier'
    )


def _count(number: float) -> str:
    """Write a whole number as one, and what is below ten with its first decimals."""
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.2g}"
