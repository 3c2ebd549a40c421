"""Wrong usage of every command, found by walking through them: a new one is tested, too."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command

from kedge_services.cli import application, main

#: Nobody listens there.
CLOSED = "127.0.0.1:1"
MONITOR = 'model = "m"\ntask = "regression"\nfeatures.a = "numeric"\n'
EVENT = '{"prediction_id":"r","model":"m","version":"1","event_time_ms":1,"features":{"a":1}}\n'

#: What a command needs to come as far as to Kafka. A command that is not here gets a value for
#: every required parameter, by its type.
ARGUMENTS: Mapping[str, list[str]] = {
    "run": ["panes"],
    "apply": ["monitor.toml"],
    "init": ["--topic", "--out", "new.toml"],
    "replay": ["--monitor", "monitor.toml", "--out", "out", "--from-topics"],
    "send": ["events.ndjson"],
    "tail": ["windows"],
    "dead-letters show": ["0:0"],
    "dead-letters resend": ["--reason", "late", "--yes"],
}
GUESSES = {"Path": "events.ndjson", "int": "1", "float": "1.0"}
#: Shows on standard output what is wrong, Kafka among it.
TELLS = "doctor"


class Command(NamedTuple):
    path: tuple[str, ...]
    help: str
    parameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        return " ".join(self.path)

    def arguments(self) -> list[str]:
        """Give arguments with which it would go on to ask Kafka."""
        if self.name in ARGUMENTS:
            return ARGUMENTS[self.name]
        given = []
        for parameter in self.parameters.values():
            if parameter.required:
                value = next((v for k, v in GUESSES.items() if k in type_of(parameter)), "m")
                given += [*options_of(parameter)[:1], value]
        return given


def type_of(parameter: Any) -> str:
    return repr(parameter.type_descriptor.annotation)


def options_of(parameter: Any) -> list[str]:
    """Give how an option is written; nothing for an argument."""
    return [text for text in parameter.opts if text.startswith("--")]


def walk(group: Any, path: tuple[str, ...] = ()) -> Iterator[Command]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from walk(command, (*path, name))
        else:
            parameters = {p.name: p for p in command.params}
            yield Command((*path, name), command.help or "", parameters)


COMMANDS = list(walk(get_command(application())))


def with_option(kind: str) -> list[Any]:
    """Give commands and options that take a value of a type, e.g. ``int``."""
    return [
        pytest.param(command, options_of(p)[0], id=f"{command.name} {options_of(p)[0]}")
        for command in COMMANDS
        for p in command.parameters.values()
        if options_of(p) and kind in type_of(p)
    ]


def unbroken(text: str) -> str:
    """Leave out what breaking lines changes."""
    return "".join(text.split()).rstrip(".")


every_command = pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a directory with a good monitor and a good file of events, and nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEDGE_KAFKA__TIMEOUT_S", "0.2")
    (tmp_path / "monitor.toml").write_text(MONITOR)
    (tmp_path / "events.ndjson").write_text(EVENT)
    (tmp_path / "rows.csv").write_text("a,y\n" + "1,no\n2,yes\n" * 50)
    (tmp_path / "directory").mkdir()


class Told(NamedTuple):
    status: int
    out: str
    error: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; an exception that gets out of it fails the test."""

    def command(*arguments: str) -> Told:
        status = main(list(arguments))
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        return Told(status, shown.out, shown.err)

    return command


def test_the_walk_finds_what_is_nested() -> None:
    names = {command.name for command in COMMANDS}
    assert {"run", "send", "doctor", "models promote", "dead-letters resend"} <= names
    assert ARGUMENTS.keys() <= names


@every_command
def test_help_explains_every_parameter(command: Command, run: Any) -> None:
    status, out, error = run(*command.path, "--help")
    assert (status, error) == (0, "")
    for parameter in command.parameters.values():
        assert parameter.help, f"{command.name} {parameter.name}"
        assert unbroken(parameter.help) in unbroken(out)


@every_command
def test_help_has_an_example_that_can_be_typed(command: Command) -> None:
    example = " ".join(command.help.split("Example: ", 1)[-1].split("\n\n")[0].split())
    program, *arguments = shlex.split(example)
    assert program == "kedge"
    assert tuple(arguments[: len(command.path)]) == command.path
    group = get_command(application())
    for name in command.path[:-1]:
        group = group.commands[name]  # type: ignore[attr-defined]
    leaf = group.commands[command.path[-1]]  # type: ignore[attr-defined]
    leaf.make_context("kedge", arguments[len(command.path) :])  # raises on a wrong option


@every_command
def test_help_fits_a_terminal_of_80_columns(
    command: Command, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, run(*command.path, "--help").out.splitlines())) <= 80


@every_command
def test_an_unknown_option_is_named(command: Command, run: Any) -> None:
    status, out, error = run(*command.path, "--no-such-option")
    assert (status, out) == (2, "")
    assert "--no-such-option" in error


@every_command
def test_what_is_missing_is_named(command: Command, run: Any) -> None:
    required = [p for p in command.parameters.values() if p.required]
    if not required:
        pytest.skip("it can be run as it is")
    status, _, error = run(*command.path)
    assert status == 2
    assert "Missing" in error
    names = [(options_of(p) or [p.metavar or p.name])[0] for p in required]
    assert any(name.lower() in error.lower() for name in names)


@every_command
def test_one_argument_too_many_is_named(command: Command, run: Any) -> None:
    arguments = [p for p in command.parameters.values() if not options_of(p)]
    if any(p.nargs == -1 for p in arguments):
        pytest.skip("it takes any number")
    status, _, error = run(*command.path, *["x"] * len(arguments), "too-many")
    assert status == 2
    assert "too-many" in error or "Missing option" in error


@every_command
def test_without_a_broker_it_fails_soon_with_one_sentence(command: Command, run: Any) -> None:
    if "bootstrap_servers" not in command.parameters:
        pytest.skip("it needs no Kafka of others")
    began = time.monotonic()
    status, out, error = run(*command.path, *command.arguments(), "--bootstrap-servers", CLOSED)
    assert time.monotonic() - began < 10
    assert status == 1
    if command.name == TELLS:
        assert CLOSED in out
    else:
        assert error.startswith(f"kedge: no Kafka answers at {CLOSED}")
        assert error.count("\n") == 1


@every_command
def test_what_is_no_address_is_not_even_tried(command: Command, run: Any) -> None:
    if "bootstrap_servers" not in command.parameters:
        pytest.skip("it needs no Kafka of others")
    given = [*command.arguments(), "--bootstrap-servers", "kafka:port"]
    status, out, error = run(*command.path, *given)
    assert status == (1 if command.name == TELLS else 2)
    assert "'kafka:port' is no address of a Kafka; write HOST:PORT" in " ".join(
        (out + error).split()
    )


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("one two:9092", 2),
        ("kafka:9092,", 2),
        ("user:secret@kafka:9092", 2),
        ("http://kafka:9092/x", 2),
        ("127.0.0.1:1,127.0.0.1:2", 1),
        ("PLAINTEXT://127.0.0.1:1", 1),
        ("[::1]:1", 1),
    ],
)
def test_addresses_are_what_kafka_takes(address: str, status: int, run: Any) -> None:
    assert run("topics", "check", "--bootstrap-servers", address).status == status


@every_command
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "none.toml: no such settings file"),
        ("[kafka", "not valid TOML"),
        ("[kafka]\nbroker = 1", "kafka.broker: no such setting"),
        ('[kafka.properties]\n"no.such" = 1', "No such configuration property"),
    ],
    ids=["missing", "no-toml", "unknown-setting", "unknown-property"],
)
def test_wrong_settings_are_named(
    command: Command, content: str | None, complaint: str, run: Any
) -> None:
    if "config" not in command.parameters:
        pytest.skip("it reads no settings file")
    if content is not None:
        Path("none.toml").write_text(content)
    arguments = [*command.arguments(), "--config", "none.toml", "--bootstrap-servers", CLOSED]
    status, out, error = run(*command.path, *arguments)
    assert status == (1 if command.name == TELLS else 2)
    assert complaint in " ".join((out + error).split())


def paths() -> list[Any]:
    """Give the parameters that name a file to be read."""
    return [
        pytest.param(command, parameter, id=f"{command.name} {parameter.name}")
        for command in COMMANDS
        for parameter in command.parameters.values()
        if "Path" in type_of(parameter) and "DIR" not in (parameter.metavar or "")
    ]


@pytest.mark.parametrize(("command", "parameter"), paths())
@pytest.mark.parametrize("value", ["no-such/file", "directory"])
def test_a_file_that_is_none_is_refused(
    command: Command, parameter: Any, value: str, run: Any
) -> None:
    given = [*options_of(parameter)[:1], value]
    required = [p for p in command.parameters.values() if p.required and p is not parameter]
    for other in required:
        kind = next((v for k, v in GUESSES.items() if k in type_of(other)), "m")
        given += [*options_of(other)[:1], "monitor.toml" if "toml" in str(other.metavar) else kind]
    if "bootstrap_servers" in command.parameters:
        given += ["--bootstrap-servers", CLOSED]
    status, out, error = run(*command.path, *given)
    assert status in {1, 2}
    assert (out if command.name == TELLS else error).strip()


@pytest.mark.parametrize(("command", "option"), [*with_option("int"), *with_option("float")])
@pytest.mark.parametrize("value", ["soon", "", "nan"])
def test_what_is_no_number_is_refused(command: Command, option: str, value: str, run: Any) -> None:
    status, _, error = run(*command.path, *command.arguments(), option, value)
    assert status == 2
    assert option in error


@pytest.mark.parametrize(("command", "option"), with_option("enum"))
def test_a_word_that_is_no_choice_gets_the_choices(command: Command, option: str, run: Any) -> None:
    status, _, error = run(*command.path, *command.arguments(), option, "no-such-choice")
    assert status == 2
    assert option in error
    assert "is not one of" in error


@pytest.mark.parametrize(
    ("command", "parameter"),
    [
        pytest.param(command, p, id=f"{command.name} {p.name}")
        for command in COMMANDS
        for p in command.parameters.values()
        if getattr(p, "min", None) is not None
    ],
)
def test_a_number_below_its_bound_is_refused(command: Command, parameter: Any, run: Any) -> None:
    option = options_of(parameter)[0]
    value = str(parameter.min - 1)
    status, _, error = run(*command.path, *command.arguments(), option, value)
    assert status == 2
    assert option in error
    assert "greater than or equal to" in error


@pytest.mark.parametrize(
    ("command", "option"),
    [
        pytest.param(command, options_of(p)[0], id=f"{command.name} {p.name}")
        for command in COMMANDS
        for p in command.parameters.values()
        if p.metavar == "DURATION"
    ],
)
@pytest.mark.parametrize("value", ["soon", "5", "-1s", "1h30", "9" * 400 + "d"])
def test_what_is_no_duration_is_refused(
    command: Command, option: str, value: str, run: Any
) -> None:
    # About a file, `init` has more options than about a topic.
    given = ["rows.csv", "--out", "new.toml"] if command.name == "init" else command.arguments()
    status, _, error = run(*command.path, *given, option, value)
    assert status == 2
    assert "is no duration; write it like" in error


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "pane"], "there is no service 'pane'; did you mean \"panes\"?"),
        (["up", "--services", "panes,window"], "no service 'window'; did you mean \"windows\"?"),
        (["up", "--services", ","], "--services names none"),
        (["tail", "windoes"], "there is no topic 'windoes'; did you mean \"windows\"?"),
        (["send", "events.ndjson", "--topic", "predictons"], 'did you mean "predictions"?'),
        (["send", "events.ndjson", "--topic", "windows"], "windows cannot be sent"),
        (["send", "events.ndjson", "--topic", "candidates"], "`kedge models register`"),
        (["send", "events.ndjson", "--topic", "monitors"], "`kedge apply MONITOR.toml`"),
        (["dead-letters", "list", "--topic", "outcome"], 'did you mean "outcomes"?'),
        (["dead-letters", "list", "--reason", "misroute"], 'did you mean "misrouted"?'),
        (["dead-letters", "show", "17"], "write PARTITION:OFFSET"),
        (["dead-letters", "resend"], "say which"),
        (["dead-letters", "resend", "1:x", "--yes"], "write PARTITION:OFFSET"),
        (["dead-letters", "resend", "1:2"], "there is nobody to ask: add --yes"),
        (["models", "register", "--model", "m", "--version", "1", "--label", "y"], "--reference"),
        (["nonsense"], "nonsense"),
        (["models", "nonsense"], "nonsense"),
        (["--nonsense"], "--nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_name_gets_a_suggestion(arguments: list[str], complaint: str, run: Any) -> None:
    status, _, error = run(*arguments)
    assert status == 2
    assert complaint in error


@pytest.mark.parametrize("group", [[], ["topics"], ["models"], ["dead-letters"]])
def test_a_group_alone_shows_its_help(group: list[str], run: Any) -> None:
    _, out, error = run(*group)
    assert (out + error).startswith("Usage: kedge")


def test_without_a_setting_a_command_waits_five_seconds(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KEDGE_KAFKA__TIMEOUT_S")
    began = time.monotonic()
    assert run("topics", "check", "--bootstrap-servers", CLOSED).status == 1
    assert 4 < time.monotonic() - began < 12


def test_a_full_disk_is_one_sentence() -> None:
    program = Path(sys.executable).with_name("kedge")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [program, "check", "monitor.toml"], stdout=full, stderr=subprocess.PIPE, text=True,
            check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "kedge: No space left on device\n"
