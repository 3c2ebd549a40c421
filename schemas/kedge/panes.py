"""Events between ``panes`` and ``windows``, and the references both count against.

Panes and progress are internal: their shape may change between releases.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from kedge.base import Contract, Event, Name, PaneKind

__all__ = [
    "Calibrator",
    "FeatureReference",
    "ModelClock",
    "Pane",
    "PaneSource",
    "Progress",
    "Projection",
    "Reference",
    "SeasonalCounts",
    "Seasons",
]


class PaneSource(Contract):
    """The input records a delta was made of: offsets ``[from, to)`` of one partition."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int


class Pane(Event):
    """A delta: what one source partition adds to a pane between two commits.

    ``counts`` holds integers that add; its shape depends on ``kind`` and is
    defined by ``kedge_services.core.deltas``.  ``reference_id`` is empty while
    the version is still learning its reference.
    """

    type: Literal["pane"] = "pane"
    model: Name
    version: str
    segment: str = ""
    reference_id: str = ""
    kind: PaneKind
    start_ms: int
    end_ms: int
    counts: dict[str, Any]
    source: PaneSource


class ModelClock(Contract):
    """How far one model has come in one source partition and topic.

    ``max_ms`` is its largest event time; ``seen_ms`` the partition's clock when
    its last record was read, so ``clock_ms - seen_ms`` is how long it is quiet.
    """

    max_ms: int
    seen_ms: int


class Progress(Event):
    """Follows the deltas of a commit, in the same transaction, to every panes partition.

    Whoever has read it has every delta of the source partition up to that commit.
    ``clock_ms`` is the append time of the last record read, or the time of
    sending when the partition was read to its end; ``since_ms`` the first clock
    this partition ever reported; ``fates`` are cumulative counts of records by
    topic and fate.
    """

    type: Literal["progress"] = "progress"
    partition: int
    partitions: int
    sequence: int
    offsets: dict[str, int]
    clock_ms: dict[str, int]
    since_ms: dict[str, int]
    predictions: dict[str, ModelClock]
    outcomes: dict[str, ModelClock]
    fates: dict[str, dict[str, int]]


class SeasonalCounts(Contract):
    """The same counts by strata, the groups of hours of the week that :class:`Seasons` names.

    ``counts`` is the base64 of varints (7 bits a byte, the lowest first): for each group
    the bins, then null, nan, inf, type_error, unseen, below and above.  ``dispersion`` is
    how many times more the strata vary from week to week than independent rows would;
    None where nothing could be compared.
    """

    counts: str
    dispersion: float | None = None


class FeatureReference(Contract):
    """What a feature, score or label looked like in the reference data.

    Numeric: ``counts[i]`` is the number of values in ``(cuts[i-1], cuts[i]]``,
    ``len(counts) == len(cuts) + 1``.  Categorical: ``counts[i]`` belongs to
    ``categories[i]`` (top categories, most frequent first), followed by one
    count for all other known categories; ``others`` lists those, ``f1`` is the number
    of categories seen once.  ``blocks`` are the same counts in contiguous parts of the
    reference.  ``below`` and ``above`` count values beyond ``min`` and ``max``, which are
    zero unless the range was fixed before the rows were counted (learnt references).
    ``counter_blocks`` are the counters that are not zero (null, type_error, not_finite,
    unseen, below, above) in the same parts, with their ``total`` rows.  ``dispersion`` is how
    much more the counts vary than those of independent rows; None: it follows from the blocks.
    ``total_z``, ``squares_z`` and ``clipped`` are the sums of z = (value - centre) / step,
    rounded and clipped.
    """

    kind: Literal["numeric", "categorical"]
    cuts: list[float] = []
    categories: list[str] = []
    others: list[str] = []
    counts: list[int]
    total: int
    null: int = 0
    nan: int = 0
    inf: int = 0
    type_error: int = 0
    below: int = 0
    above: int = 0
    min: float | None = None
    max: float | None = None
    centre: float = 0.0
    step: float = Field(default=1.0, gt=0)
    total_z: int = 0
    squares_z: int = 0
    clipped: int = 0
    f1: int = 0
    blocks: list[list[int]] = []
    counter_blocks: dict[str, list[int]] = {}
    dispersion: float | None = None
    seasonal: SeasonalCounts | None = None


class Seasons(Contract):
    """Which group of hours an hour of the week (Monday 0h is 0) is held to.

    ``hours`` has a number for each of the 168 hours by the clocks of ``timezone``: the
    group's place in the ``seasonal`` counts of features.  ``answers`` is the same for
    prediction, score and label, whose rows may be others.
    """

    timezone: str = "UTC"
    hours: list[int] = Field(min_length=168, max_length=168)
    answers: list[int] = Field(min_length=168, max_length=168)


class Calibrator(Contract):
    """An isotonic map from a score to the share of positives: linear between ``x``.

    ``error`` is the expected calibration error that is left on the later half of the
    reference, with the map of the earlier half.  Without points scores stay as they are.
    """

    x: list[float] = []
    y: list[float] = []
    error: float


class Projection(Contract):
    """How pairs of features went together in the reference.

    ``sums`` are the number of rows and, pair by pair, the sums of the products of rank
    scores; ``variances`` are those of the pairs' correlations times the number of rows, 0
    where there is none; ``dispersions`` how many times more they vary between the
    reference's blocks.  Pairs are those of ``kedge_services.core.rank_pairs``.
    """

    features: list[str]
    sums: list[int]
    variances: list[float]
    dispersions: list[float]


class Reference(Event):
    """The data a version is held to: counts on fixed cuts, immutable.

    ``reference_id`` is the sha256 of the canonical JSON of the counted parts.
    ``outside`` counts rows that lie outside by the rule of live rows.
    ``loss`` holds ``n`` and ``errors`` of labelled held-out rows (0/1 loss), of two
    classes c also ``labelled:c``, ``missed:c``, ``answered:c`` and ``wrong:c``; or,
    for regression, ``n``, ``sum`` and ``sum_of_squares`` of the absolute error,
    and ``loss_cuts`` are the quantiles of that error, with ``loss_counts`` errors
    in ``(loss_cuts[i-1], loss_cuts[i]]``.  ``blocks`` of a feature are in the order
    of event time where ``is_ordered``.
    """

    reference_id: Name
    model: Name
    version: Name
    effective_ms: int
    origin: Literal["training", "held-out", "learnt", "file"]
    rows: int
    features: dict[str, FeatureReference]
    prediction: FeatureReference | None = None
    score: FeatureReference | None = None
    label: FeatureReference | None = None
    loss: dict[str, float] | None = None
    loss_cuts: list[float] = []
    loss_counts: list[int] = []
    outside: int = 0
    calibrator: Calibrator | None = None
    projection: Projection | None = None
    is_ordered: bool = True
    seasons: Seasons | None = None
    lineage: dict[str, Any] = {}
