"""When an HTTP request is tried again, and when it is given up."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

__all__ = ["GIVE_UP_S", "Verdict", "next_pause_s", "retry_after_s", "verdict"]

Verdict = Literal["delivered", "retry", "refused"]

#: A notification that nobody took for so long is given up.
GIVE_UP_S = 3600.0
_FIRST_S = 1.0
_LONGEST_S = 300.0
_AGAIN = {408, 429}


def verdict(status: int) -> Verdict:
    """Say what an HTTP status means for what was sent.

    >>> [verdict(status) for status in (204, 302, 400, 408, 410, 429, 503)]
    ['delivered', 'refused', 'refused', 'retry', 'refused', 'retry', 'retry']
    """
    if 200 <= status < 300:
        return "delivered"
    return "retry" if status in _AGAIN or status >= 500 else "refused"


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Read ``Retry-After``: seconds, or the HTTP date of the next attempt.

    >>> retry_after_s("120", datetime(2026, 1, 1, tzinfo=UTC))
    120.0
    >>> retry_after_s("Thu, 01 Jan 2026 00:00:30 GMT", datetime(2026, 1, 1, tzinfo=UTC))
    30.0
    >>> retry_after_s("soon", datetime(2026, 1, 1, tzinfo=UTC)) is None
    True
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def next_pause_s(
    *,
    attempts: int,
    elapsed_s: float,
    asked_s: float | None,
    jitter: float,
    give_up_s: float = GIVE_UP_S,
) -> float | None:
    """Give the pause before the next attempt; None says that it would come too late.

    Parameters
    ----------
    attempts
        Attempts that have failed so far, at least 1.
    elapsed_s
        Time since the first attempt.
    asked_s
        What the receiver asked for by ``Retry-After``; it wins.
    jitter
        In [0, 1): spreads the pauses of many senders over the upper half.
    give_up_s
        Time since the first attempt after which there is no other.

    >>> [next_pause_s(attempts=n, elapsed_s=0, asked_s=None, jitter=1) for n in (1, 2, 3, 20)]
    [1.0, 2.0, 4.0, 300.0]
    """
    pause = asked_s
    if pause is None:
        ceiling = min(_LONGEST_S, _FIRST_S * 2.0 ** min(attempts - 1, 30))
        pause = ceiling * (0.5 + 0.5 * jitter)
    return None if elapsed_s + pause > give_up_s else pause
