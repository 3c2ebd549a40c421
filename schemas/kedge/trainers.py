"""The trainers a monitor may name, and what is wrong with a name that is none of them."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Literal

__all__ = ["FORMATS", "TRAINERS", "Task", "is_own_trainer", "trainer_mistake"]

Task = Literal["binary", "multiclass", "regression"]

_EVERYTHING: tuple[Task, ...] = ("binary", "multiclass", "regression")

#: Trainers that come with Kedge, and the tasks each can do.
TRAINERS: dict[str, tuple[Task, ...]] = {
    "sklearn-hist-gradient-boosting": _EVERYTHING,
    "sklearn-linear": _EVERYTHING,
    "river-hoeffding-tree": _EVERYTHING,
    "river-logistic": ("binary", "multiclass"),
    "river-linear": ("regression",),
}

#: What a trained model can be stored as; none of them can hold code.
FORMATS = (
    "a fitted scikit-learn pipeline of the types listed in docs/trainers.md (skops), "
    "the bytes of an ONNX model (onnx), or the bytes of a river-json file"
)

_OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)

#: Words in the names of River's models that carry drift detectors or whole ensembles.
_WITH_DETECTORS = frozenset(
    ("adaptive", "adwin", "arf", "bagging", "boosting", "ensemble", "forest", "hat", "srp")
)


def is_own_trainer(name: str) -> bool:
    """Say whether a name has the form ``package.module:function``.

    >>> is_own_trainer("fraud.training:train"), is_own_trainer("fraud.training")
    (True, False)
    """
    return _OWN.fullmatch(name) is not None


def trainer_mistake(name: str, task: Task) -> str | None:
    """Say what is wrong with a trainer's name for a task, or None.

    Of a function only the form of its name is looked at; whether it is there
    and may be imported is found out where it runs.

    >>> trainer_mistake("river-linear", "binary")
    '"river-linear" is no trainer for binary; known: sklearn-hist-gradient-boosting, \
sklearn-linear, river-hoeffding-tree, river-logistic'
    """
    able = [known for known, tasks in TRAINERS.items() if task in tasks]
    if name in able or is_own_trainer(name):
        return None
    if name in TRAINERS:
        return f'"{name}" is no trainer for {task}; known: {", ".join(able)}'
    if ":" in name:
        return f'"{name}" is not written like "package.module:function"'
    words = name.lower().replace("_", "-").replace(".", "-").split("-")
    has_detectors = not _WITH_DETECTORS.isdisjoint(words)
    close = get_close_matches(name, able, n=1, cutoff=0.75)
    if words[0] == "river" and (has_detectors or not close):
        what = "models with drift detectors or ensembles inside" if has_detectors else "it"
        stored = ", ".join(known for known in able if known.startswith("river-"))
        return (
            f'"{name}" has no safe format: {what} could only be pickled, and Kedge loads no '
            f"pickles; of River's models it stores {stored}"
        )
    if close:
        return f'"{name}" is no trainer; did you mean "{close[0]}"?'
    return (
        f'"{name}" is no trainer; known: {", ".join(able)}, '
        'or a function of your own, "package.module:function"'
    )
