"""The cases there are, in the order of the table."""

from __future__ import annotations

from functools import partial

from kedge_services.local.bench.cases import Case
from kedge_services.local.bench.panes import panes_of
from kedge_services.local.bench.sizes import Sizes
from kedge_services.local.bench.workload import Shape

__all__ = ["WIDE", "catalogue"]

#: Features of the wide case.
WIDE = 500


def catalogue(sizes: Sizes, seed: int) -> list[Case]:
    """Give all cases for these sizes."""
    return [
        Case(
            "panes-json",
            "predictions without labels, 10 features and a score, as JSON",
            "records",
            partial(
                panes_of, name="panes-json", shape=Shape(), records=sizes.json_records, seed=seed
            ),
        ),
        Case(
            "panes-labelled",
            "predictions and outcomes: the join on disk, performance panes, examples out",
            "pairs",
            partial(
                panes_of,
                name="panes-labelled",
                shape=Shape(labelled=True),
                records=sizes.labelled_pairs,
                seed=seed,
            ),
        ),
        Case(
            "panes-wide",
            f"{WIDE} features a prediction",
            "values",
            partial(
                panes_of,
                name="panes-wide",
                shape=Shape(features=WIDE, distinct=2_000, rate=1_000),
                records=sizes.wide_records,
                seed=seed,
                per_record=WIDE,
            ),
        ),
    ]
