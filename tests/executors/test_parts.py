"""What is around a run: the subprocess that tries a model, the desks of the partitions."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kedge import Artefact, Candidate
from kedge_services.executors.desk import Desk
from kedge_services.executors.desks import Desks
from kedge_services.executors.inspecting import Order
from kedge_services.executors.storing import in_child
from kedge_services.runtime.artefacts import ArtefactStore

if TYPE_CHECKING:
    from tests.executors.conftest import World

    from kedge_services.trainer.training import Trained


def order(tmp_path: Path, candidate: Candidate, data: bytes) -> Order:
    file = tmp_path / "model"
    file.write_bytes(data)
    return Order(candidate=candidate, file=file, store=str(tmp_path / "store"))


def test_a_child_stores_what_it_could_load_and_nothing_else(
    tmp_path: Path, trained: Trained
) -> None:
    assert trained.data is not None
    found = asyncio.run(in_child(order(tmp_path, trained.candidate, trained.data)))
    assert found.artefact is not None
    assert ArtefactStore(str(tmp_path / "store")).get(found.artefact) == trained.data

    found = asyncio.run(in_child(order(tmp_path, trained.candidate, b"{}")))
    assert found.artefact is None
    assert found.problem
    assert len([f for f in (tmp_path / "store").rglob("*") if f.is_file()]) == 1


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.abort()", "loading it ended with status -6"),
        ("print('Segmentation fault')", "loading it ended with status 0"),
        ("import time; time.sleep(60)", "loading it took longer than 1 s"),
        (
            "import time; x = bytearray(b'x') * (1 << 27); time.sleep(60)",
            "loading it took more than 100 MB",
        ),
    ],
)
def test_a_child_that_goes_wrong_takes_nobody_with_it(
    tmp_path: Path, program: str, said: str
) -> None:
    artefact = Artefact(uri="", sha256="0" * 64, format="onnx", size=0)
    candidate = Candidate(request_id="r", model="m", artefact=artefact, created_ms=0)
    found = asyncio.run(
        in_child(
            order(tmp_path, candidate, b""),
            program=[sys.executable, "-c", program],
            time_s=1 if said.endswith("1 s") else 60,
            memory_mb=100,
        )
    )
    assert (found.artefact, found.problem, found.may_pass) == (None, said, False)


def test_desks_follow_the_assignment(world: World) -> None:
    crashes: list[BaseException] = []

    async def on_crash(error: BaseException) -> None:
        crashes.append(error)

    async def scenario() -> None:
        made: list[int] = []

        def make(partition: int) -> Desk:
            made.append(partition)
            return world.desk()

        desks = Desks(make, on_crash)

        def are_open() -> bool:
            return desks.are_open

        asked = asyncio.create_task(desks.of(0))
        await asyncio.sleep(0)
        # Nobody knows yet whose it is.
        assert not asked.done()
        assert not are_open()
        await desks.assign({0})
        first = await asked
        assert first is not None
        assert are_open()
        assert await desks.of(1) is None

        # What stays is not opened again; what was revoked is, by whoever gets it.
        await desks.assign({0})
        assert await desks.of(0) is first
        await desks.revoke()
        assert not are_open()
        assert await first.take(world.record(0, world.request())) is False
        await desks.assign({0})
        second = await desks.of(0)
        assert second is not None
        assert second is not first
        assert made == [0, 0]
        await desks.revoke()

    asyncio.run(scenario())
    assert crashes == []


def test_a_desk_that_cannot_be_opened_stops_the_process() -> None:
    crashes: list[BaseException] = []

    async def on_crash(error: BaseException) -> None:
        crashes.append(error)

    def make(partition: int) -> Desk:
        raise ZeroDivisionError(partition)

    async def scenario() -> None:
        desks = Desks(make, on_crash)
        await desks.assign({3})
        with pytest.raises(ZeroDivisionError):
            await desks.of(3)
        assert not desks.are_open

    asyncio.run(scenario())
    assert [type(error) for error in crashes] == [ZeroDivisionError]
