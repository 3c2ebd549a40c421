"""Cron schedules, UTC: five fields, minute to day of the week."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

from kedge.errors import UsageError
from kedge.monitor import Monitor
from kedge.monitor_checks import Mistake

__all__ = ["check_schedule", "last_slot", "next_slot", "schedule_mistakes"]

_FIELDS = "minute hour day month weekday"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_schedule(text: str) -> None:
    """Refuse what is no schedule.

    Raises
    ------
    UsageError
        One sentence with what is wrong and the form that is expected.

    Examples
    --------
    >>> check_schedule("0 3 * * *")
    >>> check_schedule("0 25 * * *")
    Traceback (most recent call last):
    ...
    kedge.errors.UsageError: schedule "0 25 * * *": bad hour; expected five fields of cron \
(minute hour day month weekday), UTC, like "0 3 * * *"
    """
    if len(text.split()) != len(_FIELDS.split()):
        raise _wrong(text, f"{len(text.split())} fields")
    try:
        next(CronSim(text, _EPOCH))
    except CronSimError as error:
        raise _wrong(text, str(error).lower()) from error
    except StopIteration:
        raise _wrong(text, "there is no such day") from None


def schedule_mistakes(monitor: Monitor) -> Iterator[Mistake]:
    """Check a monitor's schedule as `triggers` will read it."""
    if monitor.retrain is None or monitor.retrain.schedule is None:
        return
    try:
        check_schedule(monitor.retrain.schedule)
    except UsageError as error:
        yield ("retrain", "schedule"), str(error).removeprefix("schedule ")


def last_slot(text: str, now_ms: int) -> int | None:
    """Give the newest time of the schedule that is not after ``now_ms``, in ms.

    Raises
    ------
    UsageError
        The schedule is wrong.
    """
    # The iterator leaves its start out, and thinks in whole seconds.
    return _slot(text, now_ms // 1000 + 1, reverse=True)


def next_slot(text: str, now_ms: int) -> int | None:
    """Give the first time of the schedule after ``now_ms``, in ms.

    Raises
    ------
    UsageError
        The schedule is wrong.
    """
    return _slot(text, now_ms // 1000, reverse=False)


def _slot(text: str, start_s: int, *, reverse: bool) -> int | None:
    check_schedule(text)
    try:
        found = next(CronSim(text, _EPOCH + timedelta(seconds=start_s), reverse=reverse))
    except StopIteration:
        return None
    return round((found - _EPOCH) / timedelta(milliseconds=1))


def _wrong(text: str, what: str) -> UsageError:
    return UsageError(
        f'schedule "{text}": {what}; expected five fields of cron ({_FIELDS}), UTC, '
        'like "0 3 * * *"'
    )
