"""The guesses of a draft as a list, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kedge.base import label_text
from kedge_services.local.init.draft import Draft
from kedge_services.local.init.guess import Certainty, Guess

__all__ = ["Entry", "entries", "shown"]

#: What to look at where a guess may be wrong.
_CHECKS = {
    "task": "what kind of model it is",
    "classes": "all classes, the positive one last",
    "label": "is this what really happened?",
    "labelled": "do outcomes come, later perhaps?",
    "prediction": "is this what the model answered?",
    "score": "is this the probability of the last class?",
    "timestamp": "is this when the prediction was made?",
    "start": "when the first row happened",
    "every": "the time from one row to the next",
    "pane": "does a pane hold enough rows, at all hours?",
    "label_horizon": "how long is a label worth waiting for?",
    "warm_up": "are these rows of a good time?",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A guess by the name of its field; ``check`` is what to look at, empty when sure."""

    field: str
    value: Any
    why: str
    certainty: Certainty
    check: str = ""
    is_left_out: bool = False

    @property
    def text(self) -> str:
        """Write the value as people read it."""
        if isinstance(self.value, list):
            return ", ".join(map(label_text, self.value))
        return label_text(self.value)


def entries(draft: Draft) -> list[Entry]:
    """List the guesses in the order of the monitor, features last."""
    return [*(_entry(field, guess) for field, guess in _fields(draft)), *_features(draft)]


def _fields(draft: Draft) -> Iterator[tuple[str, Guess]]:
    yield "model", draft.model
    yield "task", draft.task
    if draft.classes is not None:
        yield "classes", draft.classes
    if draft.labelled:
        yield "label_horizon", draft.windows.label_horizon
    else:
        yield "labelled", Guess(False, draft.label.why, draft.label.certainty)
    yield "pane", draft.windows.pane
    if draft.pace is None or draft.warm_up is None:
        return
    columns = (("label", draft.label), ("prediction", draft.prediction), ("score", draft.score))
    yield from ((name, guess) for name, guess in columns if guess.value is not None)
    for name in ("timestamp", "start", "every"):
        if (guess := getattr(draft.pace, name)) is not None:
            yield name, guess
    yield "warm_up", draft.warm_up


def _features(draft: Draft) -> Iterator[Entry]:
    for name, guess in draft.features.types.items():
        check = "numeric or categorical?" if guess.certainty == "unsure" else ""
        yield Entry(f"features.{name}", guess.value, guess.why, guess.certainty, check)
    for name, guess in draft.features.left_out.items():
        yield Entry(f"features.{name}", guess.value, guess.why, guess.certainty, is_left_out=True)


def _entry(field: str, guess: Guess) -> Entry:
    doubtful = guess.certainty in ("likely", "unsure")
    check = _CHECKS.get(field, "") if doubtful else ""
    return Entry(field, guess.value, guess.why, guess.certainty, check)


def shown(all_entries: list[Entry]) -> tuple[list[Entry], dict[str, int]]:
    """Divide what a person should see line by line from the features that are plain.

    Returns
    -------
    entries
        Everything but features that are likely or sure.
    plain
        How many of those there are, by type.
    """
    plain = [
        e for e in all_entries
        if e.field.startswith("features.") and e.certainty != "unsure" and not e.is_left_out
    ]  # fmt: skip
    return [e for e in all_entries if e not in plain], Counter(e.value for e in plain)
