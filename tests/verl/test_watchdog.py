"""The watchdog over a real Ray: it tells a worker that died from one that was ended."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs the environment of `make test-verl`")

import ray

from astra_trainer.engines.verl import watchdog


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=4, include_dashboard=False)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Worker:
    def pid(self) -> int:
        return os.getpid()

    def leave(self) -> None:
        ray.actor.exit_actor()


def ended(actors: int) -> bool:
    from ray._private.state import state

    return sum(actor["State"] == "DEAD" for actor in state.actor_table(None).values()) >= actors


def test_a_killed_worker_is_told_and_an_ended_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_EVERY_SECONDS", 0.5)
    dog = watchdog.Watchdog(tmp_path)
    dog.start()
    released, told, left = Worker.remote(), Worker.remote(), Worker.remote()
    ray.get([worker.pid.remote() for worker in (released, told, left)])
    ray.kill(told)
    left.leave.remote()
    del released
    deadline = time.monotonic() + 60
    while not ended(3):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert watchdog.dead_actor() is None, "all of these were meant to end"
    bob = Worker.options(name="bob").remote()
    os.kill(ray.get(bob.pid.remote()), signal.SIGKILL)
    while not (tmp_path / "diagnosis.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "the worker bob died" in json.loads((tmp_path / "diagnosis.json").read_bytes())["message"]
