"""The run: release what arrives up to a boundary, drain, move on.

::

    arrivals   p p o p | p o p o | p p o          boundaries: pane ends, cell ends
    clock      --------^---------^--------^       when the loop is closed, slots of
                     drain     drain    drain     the schedule, ends of trainings

Between two boundaries no service decides anything that a record could be
answered by, so releasing them together is the same as one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from kedge.codec import encode
from kedge.errors import UsageError
from kedge.monitor import Monitor
from kedge_services.core.schedule import next_slot
from kedge_services.local.replay.cluster import Cluster
from kedge_services.local.replay.flow import Flow
from kedge_services.local.replay.stream import (
    Arrived,
    outcome_value,
    prediction_value,
    request_value,
)
from kedge_services.local.replay.versions import first_version, reference_path, served_elsewhere
from kedge_services.runtime.formats import Predictor
from kedge_services.runtime.settings import Settings

__all__ = ["Audience", "Run", "Span", "simulate"]

_MS = timedelta(milliseconds=1)
#: Nothing is revised for display: every window is written once, when it is final.
_NEVER_MS = 1 << 42
#: Rows released at once, where a pane has more.
PIECE = 50_000


@dataclass(frozen=True, slots=True)
class Span:
    """The event times a replay covers, and where its last windows end.

    ``first_ms`` and ``last_ms`` are those of predictions, ``last_label_ms`` is
    that of the last label, if there is one.
    """

    first_ms: int
    last_ms: int
    last_label_ms: int | None

    @property
    def labelled_ms(self) -> int:
        """The time of the last label; without labels that of the last row."""
        return self.last_ms if self.last_label_ms is None else self.last_label_ms


class Audience(Protocol):
    """Whoever takes down what a run says; nothing is said twice."""

    def begins(self, first: Predictor | None) -> None:
        """Learn the predictor of the first version, where Kedge trained it."""

    def hears(self, cluster: Cluster, arrived: Arrived) -> None:
        """Take what arrived, and from the cluster what came of it so far."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended, its cluster still to be closed.

    ``warm_up`` and ``rows`` count the rows before and in it.
    """

    cluster: Cluster
    warm_up: int
    rows: int
    span: Span


def simulate(
    flow: Flow,
    monitor: Monitor,
    settings: Settings,
    audience: Audience,
    *,
    closed_loop: bool,
    partitions: int = 1,
    tell: Callable[[int], None] = lambda _: None,
) -> Run:
    """Replay a stream; the caller closes ``run.cluster``.

    Parameters
    ----------
    settings
        Its ``time`` and ``artefacts`` count.
    audience
        Takes down what comes of it, while the run goes on.
    closed_loop
        Let Kedge train on the warm-up and serve what it trains.
    partitions
        Of all topics; without ``closed_loop`` the results do not depend on it.
    tell
        Is told the number of rows released so far.

    Raises
    ------
    UsageError
        There are no rows left after the warm-up, or nothing can be trained on it.
    """
    # A reference that is learnt or read needs no rows; a first version is trained on some.
    is_given = monitor.reference.source == "first-events" or reference_path(monitor) is not None
    takes = monitor.replay is not None and (closed_loop or not is_given)
    wanted = monitor.replay.warm_up if monitor.replay is not None and takes else 0
    warm_up = flow.take(wanted)
    if flow.next_row_ms is None:
        raise UsageError(
            f"{flow.total} rows, and the warm-up takes {wanted}: none is left to replay; "
            "lower [replay] warm_up"
        )
    cluster = Cluster(
        _settings(settings, partitions, examples=closed_loop),
        monitor,
        start_ms=flow.next_row_ms - 1,
        closed_loop=closed_loop,
        training_ms=monitor.replay.training_time // _MS if monitor.replay is not None else 0,
    )
    first = None
    if closed_loop:
        candidate, first = first_version(
            warm_up, monitor, cluster.artefacts, allow=settings.trainer.allow
        )
    else:
        candidate = served_elsewhere(warm_up, monitor, version=flow.version)
    audience.begins(first)
    cluster.send_by_model("monitors", monitor.model, encode(monitor))
    cluster.send_by_model("candidates", candidate.request_id, encode(candidate))
    cluster.run()
    rows, span = _release(cluster, flow, audience, closed_loop=closed_loop, tell=tell)
    _finish(cluster, span)
    audience.hears(cluster, Arrived((), (), ()))
    return Run(cluster, len(warm_up), rows, span)


def _settings(settings: Settings, partitions: int, *, examples: bool) -> Settings:
    # In one poll a service takes all there is: nothing is decided in between.
    loop = settings.loop.model_copy(
        update={"poll_records": 1 << 40, "commit_records": 1 << 40, "commit_interval_ms": _NEVER_MS}
    )
    time = settings.time.model_copy(update={"revise_interval_ms": _NEVER_MS})
    return settings.model_copy(
        update={
            "loop": loop,
            "time": time,
            # An open loop has no trainer that would read them.
            "panes": settings.panes.model_copy(update={"examples": examples}),
            "request_partitions": partitions,
            "model_partitions": partitions,
            "ordinal": 0,
        }
    )


def _release(
    cluster: Cluster,
    flow: Flow,
    audience: Audience,
    *,
    closed_loop: bool,
    tell: Callable[[int], None],
) -> tuple[int, Span]:
    """Let everything arrive; give how many rows there were, and their span."""
    monitor = cluster.monitor
    # A closed loop answers by what it has learnt, so it is looked at as often
    # as any service can decide; an open one only where windows end.
    grid_ms = monitor.cell_ms if closed_loop else monitor.pane_ms
    value = request_value if closed_loop else prediction_value
    boundary_ms, count = cluster.clock(), 0
    row_times: list[int] = []
    label_times: list[int] = []
    while True:
        cluster.clock.now_ms = boundary_ms
        # In an open loop it does not matter how many there are: a pane may have any number.
        arrived = flow.before(boundary_ms, most=None if closed_loop else PIECE)
        rows, labels = arrived.rows, arrived.labels
        cluster.send_by_request(
            "requests" if closed_loop else "predictions",
            [row.prediction_id for row in rows],
            [value(row, monitor.model) for row in rows],
            [row.arrival_ms for row in rows],
        )
        if not closed_loop:
            # Labels need not wait for their predictions in the join then.
            cluster.step("panes")
        cluster.send_by_request(
            "outcomes",
            [label.prediction_id for label in labels],
            [outcome_value(label, monitor.model) for label in labels],
            [label.arrival_ms for label in labels],
        )
        cluster.run()
        audience.hears(cluster, arrived)
        cluster.forget()
        row_times = _ends(row_times, [row.time_ms for row in rows])
        label_times = _ends(label_times, [label.time_ms for label in labels])
        count += len(rows)
        tell(count)
        following_ms = flow.next_ms
        if following_ms is None:
            return count, Span(row_times[0], row_times[-1], max(label_times, default=None))
        if following_ms >= boundary_ms:
            boundary_ms = _boundary(cluster, grid_ms, boundary_ms, following_ms)


def _ends(known: Sequence[int], more: Sequence[int]) -> list[int]:
    """Give the first and the last of some times."""
    every = [*known, *more]
    return [min(every), max(every)] if every else []


def _finish(cluster: Cluster, span: Span) -> None:
    """Move the watermarks past the last window and the last label's horizon."""
    monitor = cluster.monitor
    end_ms = max(
        _after(span.last_ms, monitor.performance_pane_ms), _after(span.labelled_ms, monitor.pane_ms)
    )
    end_ms += monitor.cell_ms + monitor.grace_ms
    cluster.finish(predictions_ms=end_ms, outcomes_ms=end_ms + monitor.horizon_ms)


def _after(at_ms: int, step_ms: int) -> int:
    return at_ms - at_ms % step_ms + step_ms


def _boundary(cluster: Cluster, grid_ms: int, now_ms: int, next_ms: int) -> int:
    """Give the next time at which a service may decide something that matters to a record.

    Where nothing arrives before ``next_ms`` the grid and the schedule are passed
    over: what is missed is decided at once at the next boundary, like after a
    pause of the processes.
    """
    times = [_after(max(now_ms, next_ms), grid_ms)]
    retrain = cluster.monitor.retrain
    if retrain is not None and retrain.schedule is not None:
        slot_ms = next_slot(retrain.schedule, max(now_ms, next_ms))
        times += [slot_ms] if slot_ms is not None else []
    times += [end_ms for end_ms in cluster.ends_ms if end_ms > now_ms]
    return min(times)
