"""The shape of the code, held by reading its imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTRACT = ROOT / "schemas" / "kedge"
SERVICES = ROOT / "services" / "kedge_services"
TESTS = ROOT / "tests"

#: From the top to the bottom; a module imports from its own layer's package or from below.
LAYERS = ("cli", "local", "services", "runtime", "core", "schemas")
PACKAGES = {"cli": "cli", "local": "local", "runtime": "runtime", "core": "core"}

#: What would give the core a broker, a clock, an environment, a log or a network.
FORBIDDEN_IN_CORE = {
    "aiohttp", "aiokafka", "asyncio", "confluent_kafka", "datetime.datetime.now", "fastapi",
    "faust", "fsspec", "httpx", "kedge.client", "kedge.outbox", "logging", "os",
    "prometheus_client", "requests",
    "rocksdict", "socket", "structlog", "subprocess", "threading", "time", "urllib", "uvicorn",
}  # fmt: skip

SOURCES = sorted([*CONTRACT.rglob("*.py"), *SERVICES.rglob("*.py")])
EVERYTHING = sorted([*SOURCES, *TESTS.rglob("*.py")])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Give the dotted names a module imports, wherever in it, without those for types only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module: str) -> tuple[str, str] | None:
    """Give layer and package of one of our modules."""
    parts = module.split(".")
    if parts[0] == "kedge":
        return "schemas", "kedge"
    if parts[0] != "kedge_services" or len(parts) == 1:
        return None
    package = parts[1]
    return PACKAGES.get(package, "services"), package


def module_of(path: Path) -> str:
    root = ROOT / "schemas" if path.is_relative_to(CONTRACT) else ROOT / "services"
    return ".".join(path.relative_to(root).with_suffix("").parts)


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_dependencies_point_one_way(path: Path) -> None:
    mine = layer(module_of(path))
    if mine is None:
        return
    for name in imports(path):
        theirs = layer(name)
        if theirs is None or theirs == mine:
            continue
        assert mine[0] != "services" or theirs[0] != "services", (
            f"a service imports another: {name}"
        )
        assert LAYERS.index(mine[0]) < LAYERS.index(theirs[0]), f"{mine[0]} imports {name}"


@pytest.mark.parametrize("path", sorted((SERVICES / "core").rglob("*.py")), ids=name_of)
def test_the_core_is_pure(path: Path) -> None:
    found = [n for n in imports(path) for f in FORBIDDEN_IN_CORE if is_below(n, f)]
    assert found == []
    source = ast.parse(path.read_text(encoding="utf-8"))
    calls = {
        ast.unparse(node.func)
        for node in ast.walk(source)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not calls & {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_the_runtime_the_client_and_local_know_kafka(path: Path) -> None:
    at_home = ("kedge_services.runtime", "kedge.client", "kedge.outbox", "kedge_services.local")
    if any(is_below(module_of(path), module) for module in at_home):
        return
    assert [n for n in imports(path) if is_below(n, "confluent_kafka")] == []


@pytest.mark.parametrize("path", sorted((SERVICES / "local/recount").glob("*.py")), ids=name_of)
def test_the_recount_shares_no_code_with_what_it_recounts(path: Path) -> None:
    others = [n for n in imports(path) if not is_below(n, "kedge_services.local.recount")]
    allowed = sys.stdlib_module_names | {"confluent_kafka", "pyarrow"}
    assert [n for n in others if n.partition(".")[0] not in allowed] == []


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    is_suite = path.is_relative_to(TESTS)
    assert lines <= (700 if is_suite else 400)


@pytest.mark.parametrize("path", sorted(SERVICES.glob("*/service.py")), ids=name_of)
def test_a_service_is_decode_core_encode(path: Path) -> None:
    """At most 100 lines of code; blank lines, comments and docstrings are free."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    free: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            free.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code = [
        line
        for number, line in enumerate(source.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#") and number not in free
    ]
    assert len(code) <= 100


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_nobody_patches_our_code(path: Path) -> None:
    assert [n for n in imports(path) if is_below(n, "unittest.mock")] == []


def test_importing_the_contract_is_light() -> None:
    heavy = ("confluent_kafka", "numpy", "scipy", "kedge_services", "msgspec")
    program = f"import sys, kedge; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_importing_the_runtime_connects_to_nothing() -> None:
    program = (
        "import socket\n"
        "def refuse(*_):\n"
        "    raise AssertionError('a module connects when it is imported')\n"
        "socket.socket.connect = refuse\n"
        "import kedge_services.runtime.app, kedge_services.runtime.memory\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
