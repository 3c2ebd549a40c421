"""Dead letters: what was put aside, found again by the record it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from kedge_services.local.recount.plain import Findings, Place, Record

__all__ = ["INPUTS", "UNREADABLE", "Letters"]

#: The topics whose every record has a fate.
INPUTS = ("predictions", "outcomes")
#: Reasons of records that are no event; which of them is a matter of words.
UNREADABLE = frozenset(
    {"undecodable", "unsupported-format", "missing-field", "missing-id", "bad-value", "invalid",
     "shape-mismatch", "schema-mismatch", "too-large"}
)  # fmt: skip


class _Letter(NamedTuple):
    place: Place
    reason: str
    key: bytes | None
    value: bytes | None


class Letters:
    """The dead letters of the two inputs.

    Attributes
    ----------
    number
        Dead letters of any topic.
    """

    def __init__(self, records: Iterable[Record], findings: Findings) -> None:
        self.number = 0
        self._findings = findings
        self._by_source: dict[Place, list[_Letter]] = {}
        self._settled: set[Place] = set()
        for record in records:
            if any(name == _NOTE for name, _ in record.headers):
                continue
            self.number += 1
            # What was put aside twice has the headers twice; the last ones count.
            headers = {name: value.decode() for name, value in record.headers if name in _HEADERS}
            if headers.get("kedge-topic") not in INPUTS:
                continue
            source = Place(
                headers["kedge-topic"],
                int(headers["kedge-partition"]),
                int(headers["kedge-offset"]),
                int(headers["kedge-row"]) if "kedge-row" in headers else None,
            )
            letter = _Letter(record.place, headers["kedge-reason"], record.key, record.value)
            self._by_source.setdefault(source, []).append(letter)

    def reason(self, source: Place) -> str | None:
        """Give the reason a record was put aside for, None when it was not."""
        letters = self._by_source.get(source)
        return letters[0].reason if letters else None

    def check(self, record: Record) -> None:
        """Hold a record's dead letter, if it has one, to the original bytes.

        Of a row of a batch that is the event it stands for.
        """
        for letter in self._by_source.get(record.place, ()):
            mine, theirs = record.value, letter.value
            if record.row is not None:
                mine, theirs = _without_nulls(mine), _without_nulls(theirs)
            self._findings.compare(
                "dead letters", f"bytes of the dead letter {letter.place}", record.place,
                (record.key, mine), (letter.key, theirs),
            )  # fmt: skip

    def settle(self, source: Place, reasons: AbstractSet[str]) -> str | None:
        """Take note that a record has to be put aside for one of these reasons.

        Returns
        -------
        str or None
            The reason it was put aside for; None when it was not.
        """
        self._settled.add(source)
        letters = self._by_source.get(source, [])
        found = [letter.reason for letter in letters]
        is_one = len(found) == 1 and found[0] in reasons
        self._findings.compare(
            "dead letters", "dead letters of a record", source,
            [" or ".join(sorted(reasons))], [" or ".join(sorted(reasons))] if is_one else found,
        )  # fmt: skip
        return found[0] if found else None

    def check_rest(self) -> None:
        """Note the dead letters that no record has deserved."""
        for source, letters in self._by_source.items():
            if source not in self._settled:
                found = [letter.reason for letter in letters]
                self._findings.differ("dead letters of a record", source, [], found)


#: On a record that is no letter, but says that one was sent back.
_NOTE = "kedge-resent"
_HEADERS = frozenset(
    {"kedge-topic", "kedge-partition", "kedge-offset", "kedge-reason", "kedge-row"}
)


def _without_nulls(value: bytes | None) -> bytes:
    event = json.loads(value or b"{}")
    event["features"] = {n: v for n, v in event.get("features", {}).items() if v is not None}
    return json.dumps(event, sort_keys=True).encode()
