"""``kedge topics``: creates and checks the topics of the one table."""

from __future__ import annotations

import json

import typer

from kedge_services.cli.options import BootstrapServers, Config, Json, settings_from
from kedge_services.runtime.admin import check_topics, create_topics, plan_topics

__all__ = ["commands"]

commands = typer.Typer(name="topics", help="Create or check Kedge's topics.", no_args_is_help=True)


@commands.command()
def create(
    *, config: Config = None, bootstrap_servers: BootstrapServers = None, as_json: Json = False
) -> None:
    """Create every topic that is missing, then check all of them.

    Partitions come from the settings request_partitions (8) and model_partitions
    (4) and never change in the life of a cluster. Existing topics are left alone.

    Example: kedge topics create --bootstrap-servers kafka-1:9092
    """
    settings = settings_from(config, bootstrap_servers)
    created = create_topics(settings)
    problems = check_topics(settings)
    if as_json:
        typer.echo(json.dumps({"created": created, "problems": problems}))
    else:
        for name in created:
            typer.echo(f"created {name}")
        typer.echo(f"{len(created)} created, {len(plan_topics(settings))} in all")
        _tell(problems)
    if problems:
        raise typer.Exit(1)


@commands.command()
def check(
    *, config: Config = None, bootstrap_servers: BootstrapServers = None, as_json: Json = False
) -> None:
    """Compare the cluster's topics with what Kedge needs; exit status 1 on a difference.

    Example: kedge topics check --json
    """
    settings = settings_from(config, bootstrap_servers)
    problems = check_topics(settings)
    if as_json:
        typer.echo(json.dumps({"problems": problems}))
    elif not problems:
        typer.echo(f"all {len(plan_topics(settings))} topics are as they must be")
    else:
        _tell(problems)
    if problems:
        raise typer.Exit(1)


def _tell(problems: list[str]) -> None:
    for problem in problems:
        typer.echo(problem, err=True)
