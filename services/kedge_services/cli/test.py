"""``kedge test``: rules held against written-out series."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kedge.monitor_file import FileMistake
from kedge_services.cli.options import Json
from kedge_services.cli.printing import counted

if TYPE_CHECKING:
    from kedge_services.local.rule_tests.declared import Suite
    from kedge_services.local.rule_tests.run import Outcome

__all__ = ["commands"]

commands = typer.Typer()

Files = Annotated[
    list[Path], typer.Argument(help="Tests of monitors in TOML.", metavar="RULES.toml")
]


@commands.command(name="test")
def run_tests(files: Files, *, as_json: Json = False) -> None:
    """Test monitors: written-out series in, expected alerts and retrain requests out.

    Runs the rules that run live, on event time alone; needs no Kafka and no
    data. Exit status 1 when an expectation is not met, 2 when a file is wrong.

    Example: kedge test docs/examples/fraud-tests.toml
    """
    from kedge_services.local.rule_tests.declared import read_suite
    from kedge_services.local.rule_tests.run import run_suite

    suites: dict[Path, Suite] = {}
    mistakes: list[FileMistake] = []
    for file in files:
        suite, found = read_suite(file)
        mistakes += found
        if suite is not None:
            suites[file] = suite
    outcomes = [] if mistakes else [(f, o) for f, s in suites.items() for o in run_suite(s)]
    failed = sum(not outcome.is_passed for _, outcome in outcomes)
    if as_json:
        results = [
            {"file": str(file), "passed": outcome.is_passed, **asdict(outcome)}
            for file, outcome in outcomes
        ]
        told = {"passed": len(outcomes) - failed, "failed": failed, "tests": results}
        typer.echo(json.dumps({**told, "mistakes": [asdict(mistake) for mistake in mistakes]}))
    else:
        for mistake in mistakes:
            typer.echo(mistake, err=True)
        _show(outcomes)
    if mistakes:
        raise typer.Exit(2)
    if failed:
        raise typer.Exit(1)


def _show(outcomes: Sequence[tuple[Path, Outcome]]) -> None:
    for file, outcome in outcomes:
        typer.echo(
            f"{'ok  ' if outcome.is_passed else 'FAIL'} {file}:{outcome.line}: {outcome.name}"
        )
        for failure in outcome.failures:
            typer.echo(f"     {file}:{failure.line}: {failure.what}")
            typer.echo(f"       expected: {failure.expected}")
            typer.echo(f"       got:      {failure.got}")
        if outcome.failures:
            typer.echo("     what happened:")
            for text in outcome.happened or ["nothing"]:
                typer.echo(f"       {text}")
    if outcomes:
        failed = sum(not outcome.is_passed for _, outcome in outcomes)
        typer.echo(f"{counted(len(outcomes), 'test')}, {failed or 'none'} failed")
