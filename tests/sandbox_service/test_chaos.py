"""The short form of `make soak`: rollouts while things are killed, and sessions in numbers."""

import asyncio
import importlib.util
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from astra_sandbox.client import Retry
from astra_sandbox.interface import Isolation
from astra_sandbox.launching import launch_local


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chaos", Path(__file__).with_name("chaos.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["chaos"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
async def test_every_trajectory_equals_its_undisturbed_twin(soak: ModuleType) -> None:
    async with launch_local(servers=2, level=Isolation.PROCESS, retry=Retry(budget=120)) as client:
        found = await soak.chaos(client, rollouts=48, calls=12, seed=1, pause=0.05)
    assert found.different == 0
    assert found.calls == 48 * 12
    assert sum(found.kills.values()) >= 5
    assert found.replays > 0


async def test_nothing_stays_behind(soak: ModuleType) -> None:
    async with launch_local(level=Isolation.PROCESS, retry=Retry(budget=120)) as client:
        first, *_, last = await soak.leaks(client, sessions=640, points=5)
    assert (last.processes, last.files) == (first.processes, first.files)
    assert last.descriptors <= first.descriptors + 2
    assert last.kib < first.kib + 4096


async def test_a_killed_server_leaves_no_folder_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    async with launch_local(level=Isolation.PROCESS) as client:
        server = client.servers[0]
        (before,) = folders(tmp_path)
        assert server.running.pid is not None
        os.kill(server.running.pid, 9)
        end = time.monotonic() + 60
        while server.restarts == 0 and time.monotonic() < end:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0.1)
        await client.status()
        (after,) = folders(tmp_path)
        assert after != before
    assert not folders(tmp_path)


def folders(place: Path) -> list[str]:
    """The folders of servers in a place."""
    return sorted(name for name in os.listdir(place) if name.startswith("astra-sandbox-"))
