"""A standstill is no time-out: what throttled, paused or starved a tool is never its observation."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio

from astra_api.records import SessionLimits, ToolErrorKind, Toolset
from astra_sandbox.client import Retry
from astra_sandbox.interface import Isolation, Session
from astra_sandbox.launching import LocalSandbox, launch_local
from astra_sandbox.server.own_time import OwnTime
from processes import tree

pytestmark = pytest.mark.asyncio(loop_scope="module")
SOURCE = """
import time
def sleep(seconds):
    time.sleep(seconds)
    return "rested"
def work(seconds):
    while time.process_time() < seconds:
        pass
    return "worked"
def hang():
    while True:
        pass
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def local() -> AsyncIterator[LocalSandbox]:
    async with launch_local(level=Isolation.PROCESS, retry=Retry(budget=30)) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def session(local: LocalSandbox, make_toolset: Callable[..., Toolset]) -> AsyncIterator[Session]:
    toolset = make_toolset(SOURCE, "sleep", "work", "hang")
    made = (await local.open_sessions(toolset, 1, limits=SessionLimits(call_seconds=1)))[0]
    yield made
    await made.close()


def _server(local: LocalSandbox) -> int:
    pid = local.servers[0].running.pid
    assert pid is not None
    return pid


async def _stand_still(pids: list[int], seconds: float) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)


async def test_a_server_that_stood_still_reports_what_was_answered(local: LocalSandbox, session: Session) -> None:
    running = asyncio.ensure_future(session.call("sleep", '{"seconds": 0.5}'))
    await asyncio.sleep(0.2)
    await _stand_still([_server(local)], 2.5)
    assert (await running).observation() == '"rested"'


async def test_many_calls_at_once_as_well(local: LocalSandbox, make_toolset: Callable[..., Toolset]) -> None:
    """Their replies lie in mailboxes, which a server that stood still has not looked into."""
    toolset = make_toolset(SOURCE, "sleep", "work", "hang")
    sessions = await local.open_sessions(toolset, 20, limits=SessionLimits(call_seconds=1))
    running = asyncio.gather(*(one.call("sleep", '{"seconds": 0.9}') for one in sessions))
    await asyncio.sleep(0.5)
    await _stand_still([_server(local)], 2)
    assert {outcome.observation() for outcome in await running} == {'"rested"'}
    await asyncio.gather(*(one.close() for one in sessions))


async def test_a_machine_that_was_paused_costs_a_tool_nothing(local: LocalSandbox, session: Session) -> None:
    running = asyncio.ensure_future(session.call("work", '{"seconds": 0.6}'))
    await asyncio.sleep(0.2)
    levels = tree(_server(local))
    await _stand_still([levels[0][0], *levels[3]], 2.5)
    assert (await running).observation() == '"worked"'


@contextlib.contextmanager
def _crowd(pid: int, others: int) -> Iterator[None]:
    """Has a process share one processor with busy ones."""
    one = {min(os.sched_getaffinity(0))}
    os.sched_setaffinity(pid, one)
    with contextlib.ExitStack() as crowd:
        for _ in range(others):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            crowd.callback(process.wait)
            crowd.callback(process.kill)
            os.sched_setaffinity(process.pid, one)
        yield


async def test_a_tool_that_gets_no_processor_has_its_time(local: LocalSandbox, session: Session) -> None:
    """Five others want the processor on which the session runs: its 0.8 seconds take more than its limit of 1."""
    assert (await session.call("sleep", '{"seconds": 0}')).observation() == '"rested"'
    (pid,) = tree(_server(local))[3]
    with _crowd(pid, 5):
        began = time.monotonic()
        outcome = await session.call("work", '{"seconds": 0.8}')
    assert outcome.observation() == '"worked"'
    assert time.monotonic() - began > 1, "or nothing was in its way"


@pytest.mark.parametrize("tool", ["sleep", "hang"])
async def test_its_own_time_still_ends(session: Session, tool: str) -> None:
    began = time.monotonic()
    outcome = await session.call(tool, '{"seconds": 30}' if tool == "sleep" else "{}")
    assert getattr(outcome, "kind", None) is ToolErrorKind.TIMED_OUT
    assert time.monotonic() - began >= 1


async def test_a_loop_that_stands_still_counts_a_slice() -> None:
    expired: list[float] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    timer = OwnTime(0.4, lambda: None, lambda: expired.append(loop.time() - began))
    await asyncio.sleep(0.05)
    time.sleep(1.5)  # noqa: ASYNC251
    assert not expired
    await asyncio.sleep(0.15)
    assert not expired, "the standstill was no time of its own"
    await asyncio.sleep(0.6)
    assert len(expired) == 1
    timer.cancel()


async def test_what_is_cancelled_calls_nobody() -> None:
    expired: list[int] = []
    timer = OwnTime(0.15, lambda: None, lambda: expired.append(1))
    await asyncio.sleep(0.05)
    timer.cancel()
    await asyncio.sleep(0.3)
    assert not expired
