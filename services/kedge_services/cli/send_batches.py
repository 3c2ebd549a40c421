"""``kedge send`` of a file of columns: predictions as Arrow batches."""

from __future__ import annotations

import time
from collections import Counter

from kedge.errors import UsageError
from kedge.monitor_checks import suggestion
from kedge_services.cli.progress import progress
from kedge_services.cli.send_report import Report
from kedge_services.cli.sending import sending
from kedge_services.local.batch_file import BatchFile
from kedge_services.local.event_sender import Pace
from kedge_services.runtime.settings import Settings
from kedge_services.runtime.tables import MonitorTable

__all__ = ["send_batches"]


def send_batches(
    file: BatchFile,
    topic: str | None,
    rate: float | None,
    monitors: MonitorTable | None,
    settings: Settings | None,
    *,
    skip_bad: bool,
) -> tuple[Report, Counter[str], float]:
    """Check the file, then send it; give what was found, what was sent, and the seconds.

    Parameters
    ----------
    monitors
        What models there are; None: that is not checked.
    settings
        Where Kafka is; None: nothing is sent.

    Raises
    ------
    UsageError
        The file, or an option beside it, is wrong; nothing was sent.
    """
    if topic not in (None, "predictions"):
        raise UsageError(
            f"{file.name}: a file of columns holds predictions; {topic} are sent as NDJSON"
        )
    if skip_bad:
        raise UsageError(
            f"{file.name}: --skip-bad is for lines of events; "
            "of a file of columns all rows are sent, or none"
        )
    report, began = Report(file.name), time.monotonic()
    with progress("checking", None) as advance:
        for table, models in file.checked():
            if monitors is not None:
                _refuse_unknown(file, models, monitors)
            report.ready["predictions"] += len(table)
            advance()
    sent: Counter[str] = Counter()
    if settings is not None:
        sent = _send(settings, file, Pace(rate))
    return report, sent, time.monotonic() - began


def _refuse_unknown(file: BatchFile, models: list[str], monitors: MonitorTable) -> None:
    for model in models:
        if monitors.get(model) is None:
            hint = suggestion(model, monitors.models())
            raise UsageError(
                f"{file.name}: unknown-model: {model!r} has no monitor ({hint}); "
                "publish one with `kedge apply`"
            )


def _send(settings: Settings, file: BatchFile, pace: Pace) -> Counter[str]:
    with sending(settings) as sender, progress("sending", None) as advance:
        sender.send_batches(file, pace, advance)
    return sender.accepted
