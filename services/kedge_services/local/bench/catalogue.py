"""The cases there are, in the order of the table."""

from __future__ import annotations

from functools import partial

from kedge_services.local.bench.bad_records import SHARES, panes_bad
from kedge_services.local.bench.cases import Case
from kedge_services.local.bench.keeping import memory, restore
from kedge_services.local.bench.latency import latency
from kedge_services.local.bench.multiplied import PANE_ROWS
from kedge_services.local.bench.overload import overload
from kedge_services.local.bench.panes import BATCH_ROWS, panes_bench
from kedge_services.local.bench.scaling import growth, scale_out
from kedge_services.local.bench.serving import score_http, score_kafka
from kedge_services.local.bench.sizes import Sizes
from kedge_services.local.bench.windows import alerts, windows
from kedge_services.local.bench.workload import Shape

__all__ = ["catalogue"]

_WIDE = 500


def catalogue(sizes: Sizes, seed: int) -> list[Case]:
    """Give all cases for these sizes."""
    return [
        *_panes(sizes, seed), *_windows(sizes, seed), *_serving(sizes, seed), *_scale(sizes, seed),
    ]  # fmt: skip


def _panes(sizes: Sizes, seed: int) -> list[Case]:
    wide = Shape(features=_WIDE, distinct=2_000, rate=1_000)
    return [
        Case(
            "panes-json",
            "predictions without labels, 10 features and a score, as JSON",
            "records",
            partial(
                panes_bench, name="panes-json", shape=Shape(), records=sizes.json_records, seed=seed
            ),
        ),
        Case(
            "panes-bad",
            f"those of panes-json beside {' and '.join(f'{n} %' for n in SHARES)} that cannot be "
            "processed",
            "records",
            partial(panes_bad, records=sizes.bad_records, seed=seed),
            notes=(
                "Bad: no JSON, missing field, list for a number, unknown model, wrong key, future.",
                f"Only good records are units, beside {SHARES[-1]} % of bad ones.",
                "`cpu_per_good_to_clean_N`: CPU time beside N % over that of the good ones alone.",
                "`us_per_bad`: what is more, per bad record, written to dead-letters and all.",
            ),
        ),
        _labelled(
            "panes-labelled",
            "predictions and outcomes 1 s after them: the join, performance panes, examples",
            sizes.labelled_pairs,
            seed,
            "Records lie in Kafka in the order of their event times, so 20,000 predictions "
            "wait at a time.",
        ),
        _labelled(
            "panes-labelled-late",
            f"the same, every outcome after all {sizes.labelled_pairs:,} predictions: the join "
            "from disk",
            sizes.labelled_pairs,
            seed,
            "All predictions wait at once: beyond 200,000 they lie on disk, and are read back.",
            labels_last=True,
        ),
        Case(
            "panes-arrow",
            f"predictions without labels as Arrow batches of {BATCH_ROWS:,} rows",
            "rows",
            partial(
                panes_bench,
                name="panes-arrow",
                shape=Shape(rate=200_000),
                records=sizes.arrow_rows,
                seed=seed,
                is_arrow=True,
            ),
            notes=("The limit opens the batches and reads no value.",),
        ),
        Case(
            "panes-wide",
            f"{_WIDE} features a prediction",
            "values",
            partial(
                panes_bench,
                name="panes-wide",
                shape=wide,
                records=sizes.wide_records,
                seed=seed,
                per_record=_WIDE,
            ),
        ),
    ]


def _labelled(
    name: str, what: str, pairs: int, seed: int, note: str, *, labels_last: bool = False
) -> Case:
    set_up = partial(
        panes_bench, name=name, shape=Shape(labelled=True), records=pairs, seed=seed,
        labels_last=labels_last,
    )  # fmt: skip
    notes = (note, "The limit decodes both topics, two records a pair.")
    return Case(name, what, "pairs", set_up, notes=notes)


def _windows(sizes: Sizes, seed: int) -> list[Case]:
    models, panes = sizes.alerts
    return [
        Case(
            "windows",
            f"1, 10, 100 models and 5,000 series at 1 s panes of {PANE_ROWS} rows, every test",
            "series-panes",
            partial(windows, sizes=sizes.windows, rows=PANE_ROWS, seed=seed),
            notes=(
                "A series-pane is a pane of one series, tested over the scales 1, 2, 4 and 8.",
                "The rate is that of 5,000 series of one delta a pane; 8 partitions make 8.",
            ),
        ),
        Case(
            "alerts",
            f"the windows of {models} models that all drift, and an alert for each",
            "windows",
            partial(alerts, models=models, panes=panes, seed=seed),
        ),
    ]


def _serving(sizes: Sizes, seed: int) -> list[Case]:
    return [
        Case(
            "latency",
            f"{sizes.latency_rate:,} predictions a second and their outcomes, end to end",
            "predictions",
            partial(latency, rate=sizes.latency_rate, seconds=sizes.latency_s, seed=seed),
            runs_once=True,
            notes=(
                "1 s panes, no grace, 8 models; panes, windows and alerts run beside Kafka.",
                "`window_...`: from sending a prediction to a revision of its window that has it.",
                "`alert_...`: from the first drifted prediction of a model to its alert.",
            ),
        ),
        Case(
            "score-http",
            f"{sizes.http_rate} requests a second by HTTP, gradient boosting on 10 features",
            "requests",
            partial(score_http, rate=sizes.http_rate, seconds=sizes.http_s, seed=seed),
            notes=(
                "Open loop: a latency counts from when its request was due.",
                "`late_ms` is how late the sender itself was, its 99th percentile.",
            ),
        ),
        Case(
            "score-kafka",
            "requests of one row each through the topic, the same model",
            "rows",
            partial(score_kafka, requests=sizes.kafka_requests, seed=seed),
        ),
    ]


def _scale(sizes: Sizes, seed: int) -> list[Case]:
    return [
        Case(
            "restore",
            "panes starts again without its join store, reading its predictions anew",
            "records",
            partial(restore, records=sizes.restored, seed=seed),
            notes=("From the start of the process to readiness, interpreter included.",),
        ),
        Case(
            "overload",
            "more than panes can carry: lag, memory, and nothing lost",
            "pairs",
            partial(overload, seconds=sizes.overload_s, seed=seed),
            runs_once=True,
            notes=(
                "Checked: every pair counted, the lag in `kedge_lag_records` and `kedge doctor`.",
                "What waits in Kafka takes no memory: compare half time and the end of sending.",
            ),
        ),
        Case(
            "scale-out",
            "1, 2 and 4 processes of panes over 8 partitions",
            "records",
            # The first process has begun before the last is ready.
            partial(scale_out, records=2 * sizes.json_records, seed=seed),
            is_long=True,
            notes=("Kafka runs on the same cores: more processes than cores share them.",),
        ),
        Case(
            "memory",
            "predictions that wait for their outcomes: memory and disk",
            "records",
            partial(memory, sizes=sizes.memory, seed=seed),
            is_long=True,
            runs_once=True,
        ),
        Case(
            "growth",
            "cost of a record against models, features, segments and partitions",
            "records",
            partial(growth, records=sizes.growth_records, seed=seed),
            is_long=True,
            runs_once=True,
            notes=(
                "`us_...` are microseconds of CPU a record.",
                "Exponents are the largest between neighbours; 1: the cost of a record is linear.",
            ),
        ),
    ]
