"""Who uses too much memory or disk dies, and its neighbours do not notice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from astra_api.records import SessionLimits, ToolError, ToolErrorKind, ToolResult, Toolset
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.interface import CapacityExhausted, SandboxError, Session
from astra_sandbox.server import guard
from astra_sandbox.server.disks import Changes
from astra_sandbox.server.memory import Memory
from astra_sandbox.server.processes import process_groups

SOURCE = """
import ctypes, os, signal, time
KEPT = []
def eat(mib):
    for _ in range(mib):
        KEPT.append(os.urandom(1 << 20))
        time.sleep(0.005)
    time.sleep(2)
    return len(KEPT)
def fine():
    return len(KEPT)
def who():
    return os.getpid()
def fill(mib):
    for number in range(mib):
        with open(f"f{number}", "wb") as file:
            file.write(bytes(1 << 20))
        time.sleep(0.02)
    return mib
def burst(part):
    for number in range(5):
        with open(f"b{part}-{number}", "wb") as file:
            file.write(bytes(1 << 20))
def later():
    signal.signal(signal.SIGALRM, lambda *_: fill(60))
    signal.setitimer(signal.ITIMER_REAL, 1.5)
def kept():
    return sum(os.stat(name).st_size for name in os.listdir(".")) >> 20
def nameless(mib):
    for number in range(mib):
        file = open("n", "wb", buffering=0)
        os.unlink("n")
        file.write(bytes(1 << 20))
        KEPT.append(file)
    return mib
def close_all():
    KEPT.clear()
def mapped(files):
    map_page = ctypes.CDLL(None).mmap  # Python's own keeps the file open
    map_page.restype = ctypes.c_void_p
    map_page.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    for _ in range(files):
        with open("m", "w+b", buffering=0) as file:
            os.unlink("m")
            file.write(bytes(1 << 20))
            assert map_page(None, 4096, 1, 2, file.fileno(), 0) != 2**64 - 1
    return files
def hide():
    os.mkdir("hidden", 0o300)
    home = os.getcwd()
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    with open("f", "wb") as file:
        file.write(bytes(1 << 20))
    os.chdir(home)
"""
HOSTILE_WHEN_LOADED = """
import os, signal
KEPT = []
def _eat(*_):
    KEPT.append(os.urandom(8 << 20))
signal.signal(signal.SIGALRM, _eat)
signal.setitimer(signal.ITIMER_REAL, 0.5, 0.02)
def who():
    return os.getpid()
"""
HUNGRY_AS_IT_LOADS = """
import os, time
KEPT = []
while True:
    KEPT.append(os.urandom(8 << 20))
    time.sleep(0.02)
def who():
    return os.getpid()
"""
HUNGRY_CHILDREN = """
import os, signal, time
KEPT = []
def _start(*_):
    for _ in range(8):
        if os.fork() == 0:
            while True:
                KEPT.append(os.urandom(1 << 20))
                time.sleep(0.02)
signal.signal(signal.SIGALRM, _start)
signal.setitimer(signal.ITIMER_REAL, 0.5)
def who():
    return os.getpid()
"""
STARTS_PROCESSES = """
import os, signal, time
def _start(*_):
    for _ in range(40):
        if os.fork() == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            while True:
                time.sleep(60)
signal.signal(signal.SIGALRM, _start)
signal.setitimer(signal.ITIMER_REAL, 0.3)
def who():
    return os.getpid()
"""
COMPUTES_WHEN_LOADED = """
import os, signal
def _compute(*_):
    for _ in range(10**6):
        pass
signal.signal(signal.SIGALRM, _compute)
signal.setitimer(signal.ITIMER_REAL, 0.3, 0.02)
def who():
    return os.getpid()
"""
TELLS_OF_ENDS = """
import gc, json, os, signal, socket
CONTROL = [one for one in gc.get_objects() if type(one) is socket.socket]
def _tell(*_):
    for number in range(1000):
        CONTROL[0].send(json.dumps({"ended": number, "status": 0, "cpu": 0}).encode())
signal.signal(signal.SIGALRM, _tell)
signal.setitimer(signal.ITIMER_REAL, 0.3)
def who():
    return os.getpid()
"""
LIMITS = SessionLimits(call_seconds=60, memory_bytes=1 << 30, file_bytes=2 << 20)


@asynccontextmanager
async def opened(address: str, toolset: Toolset) -> AsyncIterator[Session]:
    client = SandboxClient([address], retry=Retry(budget=20))
    try:
        yield (await client.open_sessions(toolset, 1, limits=LIMITS))[0]
    finally:
        await client.close()


async def test_the_greediest_session_ends_when_memory_runs_short(
    tmp_path: Path, server: Any, make_toolset: Callable[..., Toolset]
) -> None:
    toolset = make_toolset(SOURCE, "eat", "fine", "fill", state="stateful")
    memory, large = Memory(), LIMITS.model_copy(update={"memory_bytes": 2 << 30})
    if memory.limit - memory.used() < 3 << 30:
        pytest.skip("3 GiB of free memory are needed")
    limit = str(int((memory.used() + (200 << 20)) / 0.9))  # 200 MiB below the high-water mark
    async with server(tmp_path, "--memory-limit", limit) as (address, process):
        client = SandboxClient([address], retry=Retry(budget=20))
        modest, greedy = await client.open_sessions(toolset, 2, limits=large)
        assert await modest.call("eat", '{"mib": 5}') == ToolResult(json_text="5")
        for _ in range(6):  # what others on this machine give back meanwhile is eaten too
            outcome = await greedy.call("eat", '{"mib": 300}')
            if isinstance(outcome, ToolError):
                break
            await asyncio.sleep(0.3)
        assert isinstance(outcome, ToolError)
        assert (outcome.kind, outcome.ended_process) == (ToolErrorKind.OUT_OF_MEMORY, True)
        assert "most" in outcome.message
        assert process.returncode is None
        assert await modest.call("fine", "{}") == ToolResult(json_text="5")
        assert await greedy.call("fine", "{}") == ToolResult(json_text="0")
        for session in (modest, greedy):
            await session.close()
        await client.close()


async def test_no_sessions_are_opened_while_memory_is_short(
    tmp_path: Path, server: Any, make_toolset: Callable[..., Toolset]
) -> None:
    async with server(tmp_path, "--memory-limit", str(64 << 20)) as (address, _):
        client = SandboxClient([address], retry=Retry(budget=1))
        await asyncio.sleep(2)  # the guard looks ten times a second, on a machine that has time for it
        with pytest.raises(CapacityExhausted, match="memory is short"):
            await client.open_sessions(make_toolset(SOURCE, "fine"), 1)
        await client.close()


async def test_a_session_that_fills_the_disk_ends(
    tmp_path: Path, server: Any, make_toolset: Callable[..., Toolset]
) -> None:
    toolset = make_toolset(SOURCE, "eat", "fine", "fill", state="stateful")
    async with server(tmp_path) as (address, _):
        client = SandboxClient([address], retry=Retry(budget=20))
        modest, greedy = await client.open_sessions(toolset, 2, limits=LIMITS)
        assert await modest.call("fill", '{"mib": 2}') == ToolResult(json_text="2")
        outcome = await greedy.call("fill", '{"mib": 500}')
        assert isinstance(outcome, ToolError)
        assert (outcome.kind, outcome.ended_process) == (ToolErrorKind.RAISED, True)
        assert "8 MiB" in outcome.message
        assert await modest.call("fine", "{}") == ToolResult(json_text="0")
        await client.close()


async def test_a_call_that_leaves_too_many_files_is_answered_so_however_fast_it_was(
    tmp_path: Path, server: Any, make_toolset: Callable[..., Toolset]
) -> None:
    toolset = make_toolset(SOURCE, "burst", "kept", state="stateful")
    async with server(tmp_path) as (address, _), opened(address, toolset) as session:
        assert await session.call("burst", '{"part": 0}') == ToolResult(json_text="null")
        outcome = await session.call("burst", '{"part": 1}')
        assert isinstance(outcome, ToolError)
        assert (outcome.kind, outcome.ended_process) == (ToolErrorKind.RAISED, True)
        assert "8 MiB" in outcome.message
        assert await session.call("kept", "{}") == ToolResult(json_text="5")  # the first call's files, made again


async def test_a_folder_that_was_long_empty_is_seen_to_fill(
    tmp_path: Path, server: Any, make_toolset: Callable[..., Toolset]
) -> None:
    toolset = make_toolset(SOURCE, "eat", "fine", "fill", state="stateful")
    async with server(tmp_path) as (address, _), opened(address, toolset) as session:
        for _ in range(3):
            assert await session.call("fine", "{}") == ToolResult(json_text="0")
            await asyncio.sleep(0.2)
        outcome = await session.call("fill", '{"mib": 9}')
        assert isinstance(outcome, ToolError)
        assert "8 MiB" in outcome.message


async def test_what_is_written_between_calls_is_seen(
    tmp_path: Path, server: Any, make_toolset: Callable[..., Toolset]
) -> None:
    toolset = make_toolset(SOURCE, "later", "kept", state="stateful")
    async with server(tmp_path) as (address, _), opened(address, toolset) as session:
        assert await session.call("later", "{}") == ToolResult(json_text="null")
        await asyncio.sleep(4)  # without a call it would have written 60 MiB
        assert await session.call("kept", "{}") == ToolResult(json_text="0")  # a fresh process: the old one was ended


async def test_files_without_a_name_count(
    tmp_path: Path, server: Any, prefix: tuple[str, ...], make_toolset: Callable[..., Toolset]
) -> None:
    toolset = make_toolset(SOURCE, "nameless", "close_all", "fine", state="stateful")
    async with server(tmp_path, prefix=prefix) as (address, _), opened(address, toolset) as session:
        assert await session.call("nameless", '{"mib": 6}') == ToolResult(json_text="6")
        assert await session.call("close_all", "{}") == ToolResult(json_text="null")
        assert await session.call("nameless", '{"mib": 7}') == ToolResult(json_text="7")  # the others are gone
        outcome = await session.call("nameless", '{"mib": 2}')
        assert isinstance(outcome, ToolError)
        assert "8 MiB" in outcome.message
        assert await session.call("fine", "{}") == ToolResult(json_text="7")


async def test_files_that_are_only_mapped_count_as_the_largest(
    tmp_path: Path, server: Any, prefix: tuple[str, ...], make_toolset: Callable[..., Toolset]
) -> None:
    toolset = make_toolset(SOURCE, "mapped", "fine", state="stateful")
    async with server(tmp_path, prefix=prefix) as (address, _), opened(address, toolset) as session:
        assert await session.call("mapped", '{"files": 4}') == ToolResult(json_text="4")
        outcome = await session.call("mapped", '{"files": 1}')
        assert isinstance(outcome, ToolError)
        assert (outcome.kind, outcome.ended_process) == (ToolErrorKind.RAISED, True)
        assert "8 MiB" in outcome.message


async def test_hidden_files_are_an_end(tmp_path: Path, server: Any, make_toolset: Callable[..., Toolset]) -> None:
    toolset = make_toolset(SOURCE, "hide", state="stateful")
    async with server(tmp_path) as (address, _), opened(address, toolset) as session:
        outcome = await session.call("hide", "{}")
        assert isinstance(outcome, ToolError)
        assert (outcome.kind, outcome.ended_process) == (ToolErrorKind.RAISED, True)
        assert "cannot be looked at" in outcome.message


@pytest.mark.parametrize(
    "hostile", [HOSTILE_WHEN_LOADED, HUNGRY_AS_IT_LOADS, HUNGRY_CHILDREN], ids=["loaded", "loading", "forked"]
)
async def test_a_source_that_takes_the_memory_ends_and_no_session_of_another(
    tmp_path: Path, server: Any, make_toolset: Callable[..., Toolset], hostile: str
) -> None:
    memory = Memory()
    if memory.limit - memory.used() < 2 << 30:
        pytest.skip("2 GiB of free memory are needed")
    limit = str(int((memory.used() + (600 << 20)) / 0.9))
    async with server(tmp_path, "--memory-limit", limit) as (address, process):
        client = SandboxClient([address], retry=Retry(budget=3))
        (modest,) = await client.open_sessions(make_toolset(SOURCE, "eat", "who", state="stateful"), 1, limits=LIMITS)
        before = await modest.call("who", "{}")
        assert await modest.call("eat", '{"mib": 5}') == ToolResult(json_text="5")
        with pytest.raises(SandboxError):  # it does not load, or is ended and then answers from another process
            await _call_on(client, make_toolset(hostile, "who"))
        assert process.returncode is None
        assert await modest.call("who", "{}") == before
        await client.close()


async def _call_on(client: SandboxClient, toolset: Toolset) -> None:
    (session,) = await client.open_sessions(toolset, 1, limits=LIMITS)
    while True:
        await session.call("who", "{}")
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "hostile", [STARTS_PROCESSES, COMPUTES_WHEN_LOADED, TELLS_OF_ENDS], ids=["processes", "processor", "ends"]
)
async def test_a_source_that_goes_on_after_it_is_loaded_is_ended(
    tmp_path: Path, server: Any, make_toolset: Callable[..., Toolset], hostile: str
) -> None:
    async with server(tmp_path) as (address, process):
        client = SandboxClient([address], retry=Retry(budget=3))
        modest, *_ = await client.open_sessions(make_toolset(SOURCE, "who", state="stateful"), 64, limits=LIMITS)
        before = await modest.call("who", "{}")
        with pytest.raises(SandboxError):  # its template is ended, and it answers from another
            await _call_on(client, make_toolset(hostile, "who"))
        assert process.returncode is None
        assert await modest.call("who", "{}") == before
        await client.close()


async def test_what_a_source_started_ends_with_a_server_that_is_killed(
    tmp_path: Path, server: Any, make_toolset: Callable[..., Toolset]
) -> None:
    async with server(tmp_path) as (address, process):
        client = SandboxClient([address], retry=Retry(budget=0.1))
        (session,) = await client.open_sessions(make_toolset(STARTS_PROCESSES, "who"), 1, limits=LIMITS)
        outcome = await session.call("who", "{}")
        assert isinstance(outcome, ToolResult)
        (group,) = (leader for leader, members in process_groups().items() if int(outcome.json_text) in members)
        async with asyncio.timeout(5):
            while 0 < len(process_groups().get(group, [])) < 40:  # noqa: ASYNC110 - or the guard has ended it already
                await asyncio.sleep(0.01)
        process.kill()
        async with asyncio.timeout(5):
            while group in process_groups():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await client.close()


class _Machine:
    """What a guard sees of a machine: templates with as many processes each as it says."""

    def __init__(self) -> None:
        self.running: list[Any] = []
        self.members: dict[int, list[int]] = {}

    def start(self, pid: int, processes: int) -> None:
        self.members[pid] = [pid] * processes
        self.running.append(SimpleNamespace(pid=pid, processes=1, overworked=False, close=lambda: self.end(pid)))

    def end(self, pid: int) -> None:
        self.members.pop(pid)
        self.running = [template for template in self.running if template.pid != pid]
        if pid == 1:
            self.start(2, 400)  # before the guard looks again


async def test_a_template_that_has_not_said_who_it_is_has_no_strays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own threads are group 0."""
    machine, ended = _Machine(), asyncio.Event()
    machine.members[0] = list(range(2, 82))
    machine.running.append(SimpleNamespace(pid=None, processes=1, overworked=False, close=ended.set))
    looks: list[dict[int, list[int]]] = []
    monkeypatch.setattr(guard, "running_processes", lambda: 100)
    monkeypatch.setattr(guard, "process_groups", lambda: looks.append(machine.members) or machine.members)
    memory: Any = SimpleNamespace(share=lambda: 0.0)
    watched = asyncio.create_task(guard.Guard({}, memory, machine, Changes()).watch())  # type: ignore[arg-type]
    async with asyncio.timeout(3):
        while not looks:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    watched.cancel()
    assert not ended.is_set()


async def test_processes_do_not_hide_behind_others_that_end_as_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = _Machine()
    monkeypatch.setattr(guard, "running_processes", lambda: 100 + sum(map(len, machine.members.values())))
    monkeypatch.setattr(guard, "process_groups", lambda: machine.members)
    memory: Any = SimpleNamespace(share=lambda: 0.0)
    watched = asyncio.create_task(guard.Guard({}, memory, machine, Changes()).watch())  # type: ignore[arg-type]
    machine.start(1, 400)
    async with asyncio.timeout(3):
        while machine.running:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    watched.cancel()
