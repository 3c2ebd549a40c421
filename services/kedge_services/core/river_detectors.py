"""River's drift detectors, with River's defaults, on the losses of labels.

Their state is kept as JSON and comes back exactly, so that a restart changes no alarm.
Losses of a closed cell have no order left; they are fed spread evenly over the cell.
Their false alarms are not part of Kedge's budget.

References
----------
Bifet, Gavalda 2007 (ADWIN); Gama et al. 2004 (DDM); Page 1954 (Page-Hinkley);
Raab, Heusinger, Schleif 2020 (KSWIN).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Self

from kedge_services.core.sequential import Losses

__all__ = ["RIVER", "RiverDetector", "spread"]

#: What the monitor calls them.
RIVER: Final = ("adwin", "ddm", "page-hinkley", "kswin")
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
_SEED: Final = 1

_PLAIN: Final[Mapping[str, tuple[str, ...]]] = {
    "adwin": (),
    "ddm": ("_p_min", "_s_min", "_ps_min", "_warning_detected"),
    "page-hinkley": ("_sum_increase", "_sum_decrease", "_min_increase", "_max_decrease"),
    "kswin": ("n",),
}
#: Where the running mean of a detector lies.
_MEANS: Final = {"ddm": "_p", "page-hinkley": "_x_mean"}


def spread(losses: Losses) -> Iterator[float]:
    """Give each loss, in an order that has the large and the small ones everywhere.

    >>> list(spread([(0.0, 6), (1.0, 2)]))
    [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    """
    ordered = [u for u, count in losses for _ in range(count)]
    n = len(ordered)
    step = max(1, round(_GOLDEN * n))
    while math.gcd(step, n) > 1:
        step += 1
    return (ordered[i * step % n] for i in range(n))


class RiverDetector:
    """One of River's detectors, and whether what it finds is a rise.

    Parameters
    ----------
    name
        One of :data:`RIVER`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._river = _new(name)

    def update(self, loss: float) -> float | None:
        """Take a loss; give the mean loss after the change when a rise is detected.

        A fall is detected too, by the two-sided ones, and begins a new window in silence.
        """
        before = self._level()
        self._river.update(loss)
        if not self.is_alarming:
            return None
        after = self._level()
        return after if after > before or self.name in _MEANS else None

    @property
    def is_alarming(self) -> bool:
        """Say whether the last loss was detected as a change, of any direction."""
        return bool(self._river.drift_detected)

    def _level(self) -> float:
        """Give the mean of what the detector holds."""
        if self.name == "adwin":
            return float(self._river.estimation)
        if self.name == "kswin":
            window = self._river.window
            return math.fsum(window) / len(window) if window else 0.0
        return float(getattr(self._river, _MEANS[self.name]).get())

    def encode(self) -> dict[str, Any]:
        """Give JSON data, of bounded size."""
        mine = self._river
        data: dict[str, Any] = {"river": _version(), "name": self.name}
        data["drift"] = mine.drift_detected
        data["plain"] = [_number(getattr(mine, name)) for name in _PLAIN[self.name]]
        if self.name in _MEANS:
            mean = getattr(mine, _MEANS[self.name])
            data["mean"] = [_number(mean.n), _number(mean.get())]
        elif self.name == "adwin":
            data["window"] = bytes(mine._helper.__getstate__()).hex()  # noqa: SLF001 -- see below
        else:
            version, words, gauss = mine._rng.getstate()  # noqa: SLF001
            data["window"] = [u.hex() for u in mine.window]
            data["random"] = [version, list(words), gauss]
        return data

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`encode` gave; state of another River begins anew.

        River has no interface for its detectors' state, and its layout is not promised.
        """
        made = cls(data["name"])
        if data["river"] != _version():
            return made
        mine = made._river
        for name, value in zip(_PLAIN[made.name], data["plain"], strict=True):
            setattr(mine, name, _value(value))
        mine._drift_detected = data["drift"]  # noqa: SLF001
        if made.name in _MEANS:
            mean = getattr(mine, _MEANS[made.name])
            mean.n, mean._mean = map(_value, data["mean"])  # noqa: SLF001
        elif made.name == "adwin":
            mine._helper.__setstate__(bytes.fromhex(data["window"]))  # noqa: SLF001
        else:
            version, words, gauss = data["random"]
            mine.window = deque(map(float.fromhex, data["window"]), maxlen=mine.window_size)
            mine._rng.setstate((version, tuple(words), gauss))  # noqa: SLF001
        return made


def _new(name: str) -> Any:
    # River takes seconds to import, and most monitors do not name it.
    from river import drift

    made: dict[str, Callable[[], Any]] = {
        "adwin": drift.ADWIN,
        "ddm": drift.binary.DDM,
        "page-hinkley": partial(drift.PageHinkley, mode="up"),
        "kswin": partial(drift.KSWIN, seed=_SEED),
    }
    return made[name]()


def _version() -> str:
    from river.__version__ import __version__

    return str(__version__)


def _number(value: Any) -> Any:
    """Give floats as hex, so that they come back exactly."""
    return value.hex() if isinstance(value, float) else value


def _value(data: Any) -> Any:
    return float.fromhex(data) if isinstance(data, str) else data
