"""``python -m kedge_services.local.recount``: the recount of a cluster at rest."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from confluent_kafka import KafkaException

from kedge_services.local.recount.reading import KafkaLog
from kedge_services.local.recount.recount import MAX_SKEW_MS, Report, recount

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; give the exit status: 0, 1 when something differs, 2 when it cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m kedge_services.local.recount",
        description="Counts everything again from the raw topics, without the services' code.",
    )
    parser.add_argument("--bootstrap-servers", required=True, metavar="HOST:PORT")
    parser.add_argument("--prefix", default="kedge.", help="of the topics; default: kedge.")
    parser.add_argument(
        "--properties", type=Path, metavar="FILE",
        help="librdkafka's properties, for TLS and SASL: a JSON object",
    )  # fmt: skip
    parser.add_argument("--max-skew-ms", type=int, default=MAX_SKEW_MS)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    try:
        properties = json.loads(options.properties.read_text()) if options.properties else {}
        properties["bootstrap.servers"] = options.bootstrap_servers
        with KafkaLog(properties, prefix=options.prefix) as log:
            report = recount(log, max_skew_ms=options.max_skew_ms)
    except (KafkaException, LookupError, OSError, ValueError) as error:
        sys.stderr.write(f"kedge: the topics cannot be counted again: {error}\n")
        return 2
    lines = [json.dumps(dataclasses.asdict(report), indent=2)] if options.json else _lines(report)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0 if report.is_right else 1


def _lines(report: Report) -> Iterator[str]:
    for kind, number in report.compared.items():
        yield f"compared {number:>9,} {kind}"
    for reason, number in report.decided_by_dead_letter.items():
        yield f"{number:,} records have their fate from their dead letter: {reason}"
    yield from report.differences
    if report.differences_total > len(report.differences):
        yield f"and {report.differences_total - len(report.differences):,} more differences"
    yield (
        f"{report.records_in:,} records in, {report.records_accounted:,} accounted for, "
        f"{report.differences_total:,} differences"
    )


if __name__ == "__main__":
    sys.exit(main())
