"""What `kedge send` says about a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from kedge_services.cli.printing import counted, printable
from kedge_services.local.event_file import BadLine, ReadyEvent

__all__ = ["Report"]

_SHOWN = 20


@dataclass
class Report:
    """What was found in a file.

    Attributes
    ----------
    name
        Of the file.
    ready
        Events that hold to the contract, by topic.
    marks
        The fields by which a topic was recognised first.
    refused, mistakes
        Number of bad lines, and the first of them.
    """

    name: str
    ready: Counter[str] = field(default_factory=Counter)
    marks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refused: int = 0
    mistakes: list[BadLine] = field(default_factory=list)

    def take(self, checked: ReadyEvent | BadLine) -> str | None:
        """Count a line; give what there is to be said if it is said at once."""
        if isinstance(checked, BadLine):
            self.refused += 1
            if len(self.mistakes) == _SHOWN:
                return None
            self.mistakes.append(checked)
            return self._mistake(checked)
        self.ready[checked.topic] += 1
        if not checked.marks or checked.topic in self.marks:
            return None
        self.marks[checked.topic] = checked.marks
        return f"{self.name}: {_guess(checked.topic, checked.marks)}"

    def lines(self) -> Iterator[str]:
        """Give what there is to be said when the whole file was read."""
        for topic, marks in self.marks.items():
            lines = counted(self.ready[topic], "line is", "lines are")
            yield f"{self.name}: {lines} {_guess(topic, marks)}"
        for mistake in self.mistakes:
            yield self._mistake(mistake)
        if more := self.refused - len(self.mistakes):
            yield f"{self.name}: and {counted(more, 'more bad line')}"

    def summary(self, sent: Counter[str], seconds: float, *, dry_run: bool) -> str:
        """Give the last line."""
        refused = f"; {self.refused:,} refused" if self.refused else ""
        if dry_run:
            return f"{_by_topic(self.ready)} can be sent{refused}; nothing was sent (--dry-run)"
        if not sent:
            return f"nothing was sent{refused}"
        return f"sent {_by_topic(sent)} in {seconds:.1f} s{refused}"

    def as_json(self, sent: Counter[str], seconds: float, *, dry_run: bool) -> str:
        """Give everything as one JSON object."""
        shown: dict[str, Any] = {
            "file": self.name,
            "dry_run": dry_run,
            "events": dict(self.ready),
            "recognised_by": {topic: list(marks) for topic, marks in self.marks.items()},
            "sent": dict(sent),
            "refused": self.refused,
            "mistakes": [asdict(mistake) for mistake in self.mistakes],
            "seconds": round(seconds, 3),
        }
        return json.dumps(shown)

    def _mistake(self, bad: BadLine) -> str:
        return printable(f"{self.name}:{bad.line}: {bad.reason}: {bad.detail}")


def _guess(topic: str, marks: tuple[str, ...]) -> str:
    by = "as they say" if marks == ("topic",) else f"by the fields {', '.join(marks)}"
    return f"{topic}, {by}"


def _by_topic(events: Counter[str]) -> str:
    parts = [f"{count:,} {topic}" for topic, count in events.items()]
    return ", ".join(parts) or "no event"
