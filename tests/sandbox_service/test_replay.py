"""Whatever is killed in the middle of a rollout, the trajectory is that of an undisturbed twin."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from astra_api.records import CallRecord, SessionLimits, Toolset
from astra_api.sandbox.v1 import sandbox_pb2 as pb
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.interface import Isolation, ReplayDiverged, SandboxUnavailable, Session, SessionLost
from astra_sandbox.launching import LocalSandbox, launch_local
from astra_sandbox.link import Link, ServerError
from processes import tree

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPT = [
    ("remember", {"item": "one"}),
    ("roll", {}),
    ("leave", {"status": 1}),
    ("fail", {"text": "no"}),
    ("remember", {"item": "two"}),
    ("nothing", {}),
    ("add", {"a": "x", "b": 1}),
    ("roll", {}),
    ("remember", {"item": "three"}),
    ("roll", {}),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair() -> AsyncIterator[LocalSandbox]:
    async with launch_local(servers=2, level=Isolation.PROCESS, retry=Retry(budget=30)) as client:
        yield client


async def play(session: Session, disturb: Callable[[int], object] = lambda index: None) -> list[CallRecord]:
    for index, (tool, arguments) in enumerate(SCRIPT):
        disturb(index)
        await session.call(tool, json.dumps(arguments))
    return list(session.log)


@pytest.mark.parametrize("victim", ["server", "zygote", "template", "session"])
@pytest.mark.parametrize("state", ["stateless", "stateful"])
async def test_a_kill_changes_nothing(
    pair: LocalSandbox, request: pytest.FixtureRequest, victim: str, state: str
) -> None:
    toolset: Toolset = request.getfixturevalue(state)
    level = ["server", "zygote", "template", "session"].index(victim)

    def disturb(index: int) -> None:
        if index == 5:
            for server in pair.servers:
                assert server.running.pid is not None
                victims = tree(server.running.pid)[level]
                for pid in victims:
                    os.kill(pid, signal.SIGKILL)

    twin, disturbed = await pair.open_sessions(toolset, 2, seed=11)
    expected = await play(twin)
    assert await play(disturbed, disturb) == expected
    await twin.close()
    await disturbed.close()


async def test_a_group_goes_on_when_its_server_is_killed_in_the_middle_of_calls(
    pair: LocalSandbox, stateful: Toolset
) -> None:
    replays = pair.replays
    sessions = await pair.open_sessions(stateful, 8, seed=3)
    expected = await play(sessions[0])

    async def kill_soon() -> None:
        await asyncio.sleep(0.01)
        for server in pair.servers:
            assert server.running.pid is not None
            os.kill(server.running.pid, signal.SIGKILL)

    killer = asyncio.ensure_future(kill_soon())
    logs = await asyncio.gather(*(play(session) for session in sessions[1:]))
    await killer
    logs += await asyncio.gather(*(play(session) for session in await pair.open_sessions(stateful, 2, seed=3)))
    assert all(log == expected for log in logs)
    assert pair.replays > replays
    for session in sessions:
        await session.close()


async def test_a_move_that_breaks_half_way_answers_from_no_part_of_the_log(
    pair: LocalSandbox, stateful: Toolset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way to the new server breaks while the log is repeated there: that session must not take the call."""
    session = (await pair.open_sessions(stateful, 1, seed=5))[0]
    for item in ("one", "two", "three"):
        await session.call("remember", json.dumps({"item": item}))
    send, breaks = Link.call, ["#1", "#2"]

    async def call(self: Link, request: pb.CallToolRequest, timeout: float) -> pb.CallToolResponse:
        if breaks and request.call_id == breaks[0]:
            breaks.pop(0)
            raise ServerError(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        return await send(self, request, timeout)

    for server in pair.servers:
        assert server.running.pid is not None
        os.kill(server.running.pid, signal.SIGKILL)
    monkeypatch.setattr(Link, "call", call)
    outcome = await session.call("remember", json.dumps({"item": "four"}))
    assert not breaks
    assert json.loads(outcome.observation()) == ["one", "two", "three", "four"]
    await session.close()


async def test_a_lost_session_of_a_nondeterministic_toolset_diverges(
    pair: LocalSandbox, make_toolset: Callable[..., Toolset]
) -> None:
    toolset = make_toolset("import time\ndef now(): return time.time_ns() % 2**50", "now", state="stateful")
    session = (await pair.open_sessions(toolset, 1))[0]
    await session.call("now", "{}")
    for server in pair.servers:
        assert server.running.pid is not None
        for pid in tree(server.running.pid)[3]:
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(ReplayDiverged, match="now"):
        await session.call("now", "{}")


async def test_a_process_killed_in_the_middle_of_a_call_is_no_observation(
    pair: LocalSandbox, make_toolset: Callable[..., Toolset]
) -> None:
    toolset = make_toolset("import time\ndef slow():\n    time.sleep(1)\n    return 1", "slow")
    session = (await pair.open_sessions(toolset, 1, limits=SessionLimits(call_seconds=20)))[0]
    running = asyncio.ensure_future(session.call("slow", "{}"))
    await asyncio.sleep(0.3)
    killed = 0
    for server in pair.servers:
        assert server.running.pid is not None
        for pid in tree(server.running.pid)[3]:
            os.kill(pid, signal.SIGKILL)
            killed += 1
    assert killed
    assert (await running).observation() == "1"
    await session.close()


async def test_nobody_to_take_a_session_over(stateful: Toolset) -> None:
    async with launch_local(level=Isolation.PROCESS, retry=Retry(budget=0.5)) as client:
        session = (await client.open_sessions(stateful, 1))[0]
        await session.call("remember", '{"item": 1}')
        await client.servers[0].running.stop()
        client.servers[0].folder.joinpath("server.sock").unlink(missing_ok=True)
        os.rename(client.servers[0].folder, client.servers[0].folder.with_name("gone"))  # it cannot start again
        with pytest.raises(SessionLost):
            await session.call("remember", '{"item": 2}')


async def test_no_server_at_all(stateful: Toolset, tmp_path: Path) -> None:
    client = SandboxClient([f"unix:{tmp_path}/nobody"], retry=Retry(budget=0.3))
    with pytest.raises(SandboxUnavailable, match="nobody"):
        await client.open_sessions(stateful, 1)
    with pytest.raises(SandboxUnavailable):
        await client.status()
    await client.close()
