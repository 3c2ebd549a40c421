"""All guesses of a monitor, from a described table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kedge.errors import UsageError
from kedge_services.local.init.answers import Answers, agreement, find_answers
from kedge_services.local.init.classes import (
    binary_order,
    class_values,
    guess_task,
    has_classes,
    no_answer,
)
from kedge_services.local.init.features import Features, guess_features, reads_like_split
from kedge_services.local.init.guess import Given, Guess, given
from kedge_services.local.init.pace import Pace, find_time, guess_pace, pane_of, say_ms
from kedge_services.local.init.table import Column, Table

__all__ = ["Draft", "Windows", "draft_from_table", "model_name", "windows_of"]

_NO_NAME = re.compile(r"[^a-z0-9_.-]+")
_ENDINGS = re.compile(r"(\.(csv|ndjson|jsonl|parquet|pq|gz))+$")
_DAY_MS = 86_400_000
_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Windows:
    """Durations as they are written in a monitor."""

    pane: Guess
    grace: Guess | None
    label_horizon: Guess
    cooldown: Guess


@dataclass(frozen=True, slots=True)
class Draft:
    """A monitor made of guesses; a place that is None is left out of it.

    Attributes
    ----------
    source
        What it was guessed from, for people.
    retrains
        Whether Kedge should train: it does where nobody else predicts.
    quality
        How good the predictions are, by the labels beside them.
    segments
        Names, for a monitor of live traffic.
    """

    source: str
    model: Guess
    task: Guess
    classes: Guess | None
    labelled: bool
    label: Guess
    prediction: Guess
    score: Guess
    features: Features
    windows: Windows
    pace: Pace | None
    warm_up: Guess | None
    retrains: bool
    quality: str = ""
    segments: tuple[str, ...] = ()


def draft_from_table(table: Table, said: Given, *, file_name: str, source: str) -> Draft:
    """Guess a monitor for a file.

    Raises
    ------
    UsageError
        The table has no rows or nothing to watch, or what the user said does
        not fit it.
    """
    if not table.rows:
        raise UsageError(f"{file_name}: no rows")
    columns = table.columns
    time = find_time(columns, said)
    pace = guess_pace(table, time, said)
    answers = _checked(find_answers(_without(table, time.value), said), columns, said)
    label, prediction, score = (
        None if guess.value is None else columns[guess.value]
        for guess in (answers.label, answers.prediction, answers.score)
    )
    task = guess_task(said.task, label, prediction)
    answers, score = _score_for(task, answers, score, prediction, said)
    classes = None
    if task.value != "regression":
        classes = _classes(task.value, label, prediction, score)
    named = (answers.label, answers.prediction, answers.score, time)
    roles = {**answers.others, **{guess.value: "" for guess in named if guess.value is not None}}
    features = guess_features(table, roles, label=label, score=score)
    if not features.types:
        raise UsageError(f"{file_name}: no column is left that could be a feature")
    return Draft(
        source=source,
        model=model_name(said.model, file_name),
        task=task,
        classes=classes,
        labelled=label is not None,
        label=answers.label,
        prediction=answers.prediction,
        score=answers.score,
        features=features,
        windows=windows_of(pane_of(pace, table.rows), None),
        pace=pace,
        warm_up=_warm_up(table),
        retrains=label is not None and prediction is None and score is None,
        quality=_quality(label, prediction),
    )


def model_name(said: str | None, file_name: str) -> Guess:
    """Make a model's name of a file's.

    >>> model_name(None, "Elec 2.csv.gz").value
    'elec-2'
    """
    if said is not None:
        return given(said, "--model")
    name = _NO_NAME.sub("-", _ENDINGS.sub("", file_name.lower())).strip("-.")[:100]
    return Guess(name or "model", "the file's name", "likely")


def windows_of(pane: Guess, horizon: Guess | None) -> Windows:
    """Give durations that fit a pane (in ms); ``horizon`` likewise, where it is known."""
    pane_ms = pane.value
    if horizon is None:
        why = "the file does not say how late labels come"
        horizon = Guess(min(_DAY_MS, pane_ms), why, "unsure")
    grace = None
    if pane_ms < _MINUTE_MS:
        grace = Guess(say_ms(max(1, pane_ms // 10)), "a tenth of a pane", "likely")
    return Windows(
        pane=replace(pane, value=say_ms(pane_ms)),
        grace=grace,
        label_horizon=replace(horizon, value=say_ms(horizon.value)),
        cooldown=Guess(say_ms(pane_ms), "at most one training a pane", "likely"),
    )


def _without(table: Table, name: str | None) -> Table:
    return replace(table, columns={n: c for n, c in table.columns.items() if n != name})


def _checked(answers: Answers, columns: Mapping[str, Column], said: Given) -> Answers:
    """Drop a guessed prediction that can be none: its values are not those of the label."""
    label, prediction = answers.label.value, answers.prediction.value
    used = [name for name in (label, prediction, answers.score.value) if name is not None]
    if len(set(used)) < len(used):
        raise UsageError(f"label, prediction and score are three columns (got {', '.join(used)})")
    for name, option in ((label, "--label"), (prediction, "--prediction")):
        if name is not None and (why := no_answer(columns[name])):
            raise UsageError(f"{option}: {name} {why}")
    if said.score is not None and columns[said.score].kind != "number":
        raise UsageError(f"--score: {said.score} holds no numbers")
    if label is None or prediction is None or said.prediction is not None:
        return answers
    known, given_ = (columns[name] for name in (label, prediction))
    if has_classes(known) == has_classes(given_) and (
        not has_classes(known) or set(known.counts or ()) & set(given_.counts or ())
    ):
        return answers
    why = f"{prediction} reads like one, but its values are not those of {label}"
    return replace(
        answers,
        prediction=Guess(None, why, "unsure"),
        others={**answers.others, prediction: f"named like a prediction, but not of {label}"},
    )


def _score_for(
    task: Guess, answers: Answers, score: Column | None, prediction: Column | None, said: Given
) -> tuple[Answers, Column | None]:
    """Keep a score only where the task has one and it means what Kedge takes it for."""
    if score is None:
        return answers, None
    why = ""
    if task.value == "regression":
        if said.score is not None:
            raise UsageError("--score: a regression has no scores")
        why = "a regression has no scores"
    elif task.value == "multiclass" and prediction is None:
        why = "a score alone does not tell which class was predicted"
    elif task.value == "binary" and said.score is None and _is_confidence(score, prediction):
        why = f"{score.name} is never below one half: that of the class that was predicted?"
    if not why:
        return answers, score
    others = {**answers.others, score.name: why}
    return replace(answers, score=Guess(None, why, "likely"), others=others), None


def _is_confidence(score: Column, prediction: Column | None) -> bool:
    values = [cell for cell in score.cells if cell is not None]
    both = prediction is not None and prediction.distinct > 1
    return both and min(values, default=0.0) >= 0.5


def _classes(
    task: str, label: Column | None, prediction: Column | None, score: Column | None
) -> Guess:
    columns = [column for column in (label, prediction) if column is not None]
    values = class_values(*columns)
    if task == "binary":
        order = binary_order(values, label, prediction, score)
        return replace(order, why=f"{order.why}; the last one is the positive class")
    where = " and ".join(column.name for column in columns)
    return Guess(values, f"the values of {where}", "likely")


def _warm_up(table: Table) -> Guess:
    split = next((c for c in table.columns.values() if reads_like_split(c)), None)
    if split is not None and (first := next(iter(split.cells), None)) is not None:
        same = [cell == first for cell in split.cells]
        leading = same.index(False) if False in same else 0
        # Only where the part is whole at the beginning is its size known exactly.
        if 100 <= (rows := (split.counts or {}).get(first, 0)) <= table.rows * 0.8 and (
            sum(same) == leading
        ):
            return Guess(rows, f"the rows whose {split.name} is {first}", "likely")
    rows = max(1, min(5_000, table.rows // 5))
    why = "a reference of 5,000 rows is a steady one" if rows == 5_000 else "a fifth of the rows"
    return Guess(rows, why, "likely" if rows >= 1_000 else "unsure")


def _quality(label: Column | None, prediction: Column | None) -> str:
    if label is None or prediction is None:
        return ""
    share = agreement(label, prediction)
    if share is None:
        return ""
    if has_classes(label) and has_classes(prediction):
        return f"{share:.1%} of the predictions are right"
    return f"the correlation of predictions and labels is {share:.3f}"
