"""A draft as TOML: every guess says what it was guessed from, and how sure that is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from kedge_services.local.init.draft import Draft
from kedge_services.local.init.guess import Guess

__all__ = ["as_toml", "one_line"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_WIDTH = 100
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def as_toml(draft: Draft) -> str:
    """Write a monitor that ``kedge check`` accepts."""
    parts = [
        _head(draft), _model(draft), _features(draft), _windows(draft), _rules(draft),
        _retrain(draft), _replay(draft),
    ]  # fmt: skip
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part) + "\n"


def one_line(text: str) -> str:
    """Make a text fit for a comment or a cell: what would break its line becomes a blank."""
    return _UNPRINTABLE.sub(" ", text)


def _head(draft: Draft) -> Iterator[str]:
    yield f"# A first monitor, written by `kedge init` from {one_line(draft.source)}."
    yield '# What is marked "guess" was guessed: from what is said beside it, with how sure it is.'
    yield "# Look at the unsure ones first, then: kedge check"


def _model(draft: Draft) -> Iterator[str]:
    yield _line("model", draft.model)
    yield _line("task", draft.task)
    if draft.classes is not None:
        yield _line("classes", draft.classes)
        if draft.task.value == "binary":
            yield f"positive = {_value(draft.classes.value[-1])}"
    if draft.labelled:
        yield _line("label_horizon", draft.windows.label_horizon)
    else:
        yield _line("labelled", Guess(False, draft.label.why, draft.label.certainty))


def _features(draft: Draft) -> Iterator[str]:
    yield "[features]"
    width = max(len(_pair(name, guess.value)) for name, guess in draft.features.types.items())
    for name, guess in draft.features.types.items():
        yield _line(name, guess, width=min(width, 40))
    if draft.features.left_out:
        yield "# Left out; take the first # away to watch one of them:"
    for name, guess in draft.features.left_out.items():
        yield _beside(f"# {_pair(name, guess.value)}", guess)


def _windows(draft: Draft) -> Iterator[str]:
    yield "[windows]"
    yield _line("pane", draft.windows.pane)
    if draft.windows.grace is not None:
        yield _line("grace", draft.windows.grace)
    for name in draft.segments:
        yield from ("", "[[segments]]", f"name = {_value(name)}")


def _rules(draft: Draft) -> Iterator[str]:
    metric = {"regression": ("mae", "above"), "binary": ("accuracy", "below")}
    name, side = metric.get(draft.task.value, ("accuracy", "below"))
    if not draft.labelled:
        return
    yield "# The detectors need no thresholds. A rule is a threshold of your own:"
    if draft.quality:
        yield f"# ({one_line(draft.quality)} in what was read)"
    yield "# [[rules]]"
    yield f'# name = "{name}-{"high" if side == "above" else "low"}"'
    yield f'# metric = "{name}"'
    yield f"# {side} = {'1.0' if side == 'above' else '0.8'}"
    yield '# for = "2 windows"'


def _retrain(draft: Draft) -> Iterator[str]:
    if not draft.labelled:
        return
    mark = "" if draft.retrains else "# "
    if draft.retrains:
        yield "# guess: without predictions in the file, Kedge is to train the model (likely)"
    else:
        yield "# The predictions come from elsewhere; Kedge trains only if you want it to:"
    yield f"{mark}[retrain]"
    yield f'{mark}on = ["error-rate"]'
    yield _line("cooldown", draft.windows.cooldown, mark=mark)


def _replay(draft: Draft) -> Iterator[str]:
    pace = draft.pace
    if pace is None or draft.warm_up is None:
        return
    yield "[replay]"
    if draft.labelled:
        yield _line("label", draft.label)
    yield from _clock(pace.timestamp, pace.start, pace.every)
    for name, guess in (("prediction", draft.prediction), ("score", draft.score)):
        if guess.value is not None:
            yield _line(name, guess)
        elif name == "prediction" or draft.task.value == "binary":
            yield f"# no {name}: {one_line(guess.why)}"
    yield _line("warm_up", draft.warm_up)


def _clock(timestamp: Guess | None, start: Guess | None, every: Guess | None) -> Iterator[str]:
    for name, guess in (("timestamp", timestamp), ("start", start), ("every", every)):
        if guess is not None:
            yield _line(name, guess)


def _line(name: str, guess: Guess, *, mark: str = "", width: int = 0) -> str:
    return _beside((mark + _pair(name, guess.value)).ljust(width), guess)


def _beside(pair: str, guess: Guess) -> str:
    """Put the reason behind the value, or above it where that would be too long a line."""
    reason = _reason(guess)
    line = f"{pair}  # {reason}"
    return line if len(line) <= _WIDTH else f"# {reason}\n{pair.rstrip()}"


def _reason(guess: Guess) -> str:
    if guess.certainty == "given":
        return f"given: {one_line(guess.why)}"
    return f"guess: {one_line(guess.why)} ({guess.certainty})"


def _pair(name: str, value: Any) -> str:
    return f"{name if _BARE.fullmatch(name) else _text(name)} = {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def _text(text: str) -> str:
    # JSON's strings are TOML's, but for one character; what is not ASCII may stay as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
