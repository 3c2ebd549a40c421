"""The commands.

Importing this package needs nothing but the standard library, so that a
``kedge`` without its extras can say what to install.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

__all__ = ["application", "main"]

_OK, _FAILURE, _USAGE, _INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; give its exit status (0, 1 failure, 2 usage, 130 interrupted)."""
    try:
        return _run(arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "kedge", "kedge_services"):
            raise
        _complain(f"{package} is not installed; run: pip install 'kedge[services,local]'")
        return _FAILURE


def application() -> typer.Typer:
    """Give the whole command line as one Typer application."""
    import typer

    from kedge_services.cli import (
        bench,
        broker,
        dead_letters,
        demo,
        doctor,
        init,
        models,
        monitors,
        replay,
        run,
        send,
        tail,
        test,
        topics,
        up,
    )

    app = typer.Typer(
        name="kedge",
        help="Watches live machine-learning models on Kafka and keeps them good.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        *,
        version: bool = typer.Option(
            False, "--version", help="Show the version and exit.", is_eager=True,
            callback=_show_version,
        ),
    ) -> None:  # fmt: skip
        del version

    # In the order of --help: to begin, to run it, to look and to repair.
    for module in (
        demo, up, run, broker, topics, init, monitors, test, replay, models, send, tail,
        dead_letters, doctor, bench,
    ):  # fmt: skip
        app.add_typer(module.commands)
    return app


def _run(arguments: Sequence[str] | None) -> int:
    from kedge.errors import KedgeError, UsageError

    try:
        application()(list(arguments) if arguments is not None else None, prog_name="kedge")
    except UsageError as error:
        _complain(str(error))
        return _USAGE
    except KedgeError as error:
        _complain(str(error))
        return _FAILURE
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        _complain(f"{where}{error.strerror or error}")
        return _FAILURE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else _OK
    return _OK


def _show_version(wanted: bool) -> None:  # noqa: FBT001 -- Typer calls it
    if wanted:
        from importlib.metadata import version

        import typer

        typer.echo(f"kedge {version('kedge')}")
        raise typer.Exit


def _complain(text: str) -> None:
    # Bytes of the command line that are no UTF-8 come as what no encoder takes.
    shown = text.encode(errors="backslashreplace").decode()
    sys.stderr.write(f"kedge: {shown}\n")
