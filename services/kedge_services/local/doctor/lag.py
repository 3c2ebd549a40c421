"""A service that is far behind: does it catch up, and what can be done."""

from __future__ import annotations

from typing import NamedTuple

from kedge_services.local.doctor.findings import Finding, ok, warning

__all__ = ["Lag", "counted", "judge_lag", "processes", "span"]

#: Records that have waited no longer than this are in work: they are committed by and by.
_FRESH_S = 5.0
#: Two rates that differ by less are one.
_ALIKE = 0.1


class Lag(NamedTuple):
    """How far a running service is behind, from two looks at it.

    Attributes
    ----------
    records
        Waiting at the second look.
    age_s
        For how long the oldest of them has waited; None when that cannot be told.
    came, read
        Records that came, and that were read, between the looks.
    seconds
        Between the looks.
    members
        Processes of the service.
    partitions
        Of its inputs: no more processes than these have anything to do.
    """

    records: int
    age_s: float | None
    came: int
    read: int
    seconds: float
    members: int
    partitions: int


def judge_lag(service: str, lag: Lag) -> Finding:
    """Say whether a service keeps up, catches up, stands still or falls further behind.

    Examples
    --------
    >>> judge_lag("panes", Lag(90_000, 2.0, 90_000, 90_000, 2.0, 1, 4)).state
    'ok'
    >>> judge_lag("panes", Lag(500_000, 90.0, 40_000, 20_000, 2.0, 1, 4)).detail
    'panes: 1 process, 500,000 records (2 min) behind and falling further behind: 20,000 come a \
second, 10,000 are read'
    """
    waited = "" if lag.age_s is None else f" ({span(lag.age_s)})"
    detail = f"{service}: {processes(lag.members)}, {counted(lag.records)}{waited} behind"
    if lag.age_s is not None and lag.age_s <= _FRESH_S:
        return ok("services", detail)
    come, read = (round(count / lag.seconds) for count in (lag.came, lag.read))
    rates = f"{come:,} come a second, {read:,} are read"
    if not lag.read:
        move = (
            f"it may be restoring its state, or have stopped at a record: see the log of {service}"
        )
        return warning("services", f"{detail}, and reads nothing: {come:,} come a second", move)
    margin = _ALIKE * max(lag.came, lag.read)
    if lag.read > lag.came + margin:
        left = span(lag.records * lag.seconds / (lag.read - lag.came))
        return ok("services", f"{detail} and catching up, in about {left}: {rates}")
    what = "falling further behind" if lag.came > lag.read + margin else "not catching up"
    return warning("services", f"{detail} and {what}: {rates}", _move(service, lag))


def _move(service: str, lag: Lag) -> str:
    if lag.members < lag.partitions:
        return (
            f"start another process, `kedge run {service} --ordinal {lag.members}`: up to "
            f"{lag.partitions} share its partitions; nothing is lost while its topics keep it"
        )
    return (
        f"each of its {lag.partitions} partitions has a process: give these more CPU, or set up a "
        "new prefix with more partitions (their number never changes)"
    )


def counted(records: int) -> str:
    """Give a number of records in words."""
    return "1 record" if records == 1 else f"{records:,} records"


def processes(members: int) -> str:
    """Give a number of processes in words."""
    return "1 process" if members == 1 else f"{members} processes"


def span(seconds: float) -> str:
    """Give a duration to a reader who wants to know its size.

    Examples
    --------
    >>> span(3.4), span(200), span(9_000), span(200_000)
    ('3 s', '3 min', '2.5 h', '2.3 days')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 86_400 else f"{seconds / 86_400:.1f} days"
