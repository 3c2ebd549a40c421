"""The track record of a series' estimates: which of them the labels confirmed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Self

__all__ = ["PASSES", "TrackRecord"]

#: Reconciliations in a row that have to pass after one has failed.
PASSES: Final = 3


@dataclass(slots=True)
class TrackRecord:
    """Which reconciliations of a series passed, by the end of their pane.

    Attributes
    ----------
    passed
        Of late; what is older is summed up in the three others.
    agreed
        Passes in a row since ``failed_ms``.
    failed_ms
        End of the last pane that failed and is still held against the estimates.
    through_ms
        End of the last pane that was summed up.
    """

    passed: dict[int, bool] = field(default_factory=dict)
    agreed: int = 0
    failed_ms: int | None = None
    through_ms: int = -1

    def encode(self) -> list[Any]:
        """Give JSON data."""
        return [sorted(self.passed.items()), self.agreed, self.failed_ms, self.through_ms]

    @classmethod
    def decode(cls, data: list[Any]) -> Self:
        """Read what :meth:`encode` gave."""
        return cls(dict(data[0]), *data[1:])

    def as_of(self, end_ms: int) -> tuple[int | None, int]:
        """Give what is held against the estimates by panes up to a time, and the passes since."""
        failed_ms, agreed = self.failed_ms, self.agreed
        for at, passed in sorted(self.passed.items()):
            if at > end_ms:
                break
            agreed = agreed + 1 if passed else 0
            if not passed:
                failed_ms = at
            elif agreed >= PASSES:
                failed_ms = None
        return failed_ms, agreed

    def forget(self, before_ms: int) -> None:
        """Sum up what is older."""
        old = [at for at in self.passed if at <= before_ms]
        if old:
            self.failed_ms, self.agreed = self.as_of(before_ms)
            self.through_ms = max(old)
            for at in old:
                del self.passed[at]
