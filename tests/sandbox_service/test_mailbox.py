"""Replies through memory: what is left is found whole, and nothing that a session does to it harms the server."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from astra_api.records import Toolset
from astra_sandbox.limits import DEFAULT
from astra_sandbox.server.disks import Changes
from astra_sandbox.server.rounds import Rounds, new_mailbox
from astra_sandbox.server.sessions import ServerSession
from astra_sandbox.server.templates import Templates
from astra_sandbox.server.toolsets import StoredToolset
from astra_sandbox.server.zygotes import Nursery
from astra_sandbox.worker.frames import FrameError, Kind
from astra_sandbox.worker.mailbox import LONGEST, SIZE, Mailbox

REPLIES = st.tuples(st.integers(1, 2**64 - 1), st.sampled_from(Kind), st.binary(max_size=300))
HEAD = SIZE - LONGEST


@given(st.lists(REPLIES, min_size=1, max_size=5))
def test_what_was_left_last_is_found(replies: list[tuple[int, Kind, bytes]]) -> None:
    memory = bytearray(SIZE)
    for nonce, kind, body in replies:
        assert Mailbox(memoryview(memory)).put(nonce, kind, body)
        found = Mailbox(memoryview(memory))
        assert found.holds(nonce)
        assert not found.holds(nonce ^ 1)
        assert found.take() == (kind, body)


def test_a_reply_that_is_too_long_leaves_the_last_one_alone() -> None:
    mailbox = Mailbox(memoryview(bytearray(SIZE)))
    assert mailbox.put(7, Kind.RESULT, b"x" * LONGEST)
    assert not mailbox.put(8, Kind.RESULT, b"y" * (LONGEST + 1))
    assert mailbox.holds(7)
    assert mailbox.take() == (Kind.RESULT, b"x" * LONGEST)


@given(st.binary(max_size=50), st.data())
def test_a_reply_that_is_not_whole_is_none(body: bytes, data: st.DataObject) -> None:
    memory = bytearray(SIZE)
    mailbox = Mailbox(memoryview(memory))
    mailbox.put(7, Kind.RESULT, body)
    memory[data.draw(st.integers(8, HEAD + len(body) - 1))] ^= data.draw(st.integers(1, 255))
    assert mailbox.take() is None


@given(st.binary(min_size=HEAD, max_size=200))
def test_any_bytes_give_a_reply_none_or_an_error(data: bytes) -> None:
    mailbox = Mailbox(memoryview(bytearray(data + bytes(SIZE - len(data)))))
    try:
        found = mailbox.take()
    except FrameError:
        return
    assert found is None or len(found[1]) <= LONGEST


async def test_nobody_can_cut_the_servers_memory_short() -> None:
    file, _ = new_mailbox()
    for size in (0, 2 * SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(file, size)
    os.close(file)


SOURCE = """
import ctypes, os, sys, time
def add(a, b):
    return a + b
def text(length):
    return "x" * length
def fail():
    raise ValueError("no")
def leave():
    sys.exit(3)
def vanish():
    os._exit(4)
def nap():
    time.sleep(0.3)
    return "rested"
def _mailbox():
    frame = sys._getframe()
    while frame.f_locals.get("mailbox") is None:
        frame = frame.f_back
    return frame.f_locals["mailbox"], frame.f_locals["nonce"]
def scribble():
    mailbox, _ = _mailbox()
    mailbox._memory[:] = os.urandom(len(mailbox._memory))
    return "written over"
def forge():
    mailbox, nonce = _mailbox()
    mailbox.put(nonce, 200, b"forged")
    time.sleep(60)
def foretell():
    mailbox, nonce = _mailbox()
    mailbox.put(nonce, 1, b"add\\n{}")
    time.sleep(60)
def lie():
    mailbox, nonce = _mailbox()
    mailbox.put(nonce, 2, b"{not json")
    time.sleep(60)
def reach():
    mailbox, _ = _mailbox()
    own = (ctypes.c_char * len(mailbox._memory)).from_buffer(mailbox._memory)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mremap.restype = ctypes.c_void_p
    libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    larger = libc.mremap(ctypes.addressof(own), 0, 8 * len(own), 1)  # of no size: a second mapping beside the first
    if larger in (None, ctypes.c_void_p(-1).value):
        return "refused"
    return ctypes.string_at(larger + len(own), 200).decode(errors="replace")
"""
Opened = Callable[[int], Awaitable[list[ServerSession]]]
NAMES = [line[4 : line.index("(")] for line in SOURCE.splitlines() if line.startswith("def ") and line[4] != "_"]


@pytest_asyncio.fixture
async def opened(make_toolset: Callable[..., Toolset]) -> AsyncIterator[Opened]:
    """Opens sessions whose replies are all looked for, on bare processes."""
    nursery, changes = Nursery(wanted="process"), Changes()
    templates = Templates(nursery, nursery.launch(0), changes, Rounds(changes, many=1))
    toolset = StoredToolset(make_toolset(SOURCE, *NAMES))
    sessions: list[ServerSession] = []

    async def opening(count: int) -> list[ServerSession]:
        processes = await templates.fork(toolset, 0, count, 0, DEFAULT)
        for process in processes:
            session = ServerSession(
                str(len(sessions)),
                toolset,
                templates,
                process,
                variant=0,
                seed=0,
                limits=DEFAULT,
                on_gone=lambda _: None,
            )
            sessions.append(session)
        return sessions[-count:]

    yield opening
    for session in sessions:
        session.close()
    templates.close()
    changes.close()
    nursery.close()


async def call(session: ServerSession, tool: str, arguments: str = "{}") -> tuple[str, bool]:
    """(result or message, whether it ended the process)."""
    response = await asyncio.wait_for(session.submit(os.urandom(8).hex(), tool, arguments), 20)
    return response.result_json or response.error.message, response.error.ended_process


async def test_every_kind_of_reply_is_found(opened: Opened) -> None:
    sessions = await opened(8)

    async def use(session: ServerSession) -> list[tuple[str, bool]]:
        return [
            await call(session, "add", '{"a": 1, "b": 2}'),
            await call(session, "text", f'{{"length": {2 * SIZE}}}'),  # in a frame
            await call(session, "fail"),
            await call(session, "leave"),
            await call(session, "vanish"),
            await call(session, "nap"),
            await call(session, "add", '{"a": 3, "b": 4}'),
        ]

    expected = [
        ("3", False),
        (f'"{"x" * (2 * SIZE)}"', False),
        ("ValueError: no", False),
        ("SystemExit: 3", True),
        ("the tool ended its process with exit status 4", True),
        ('"rested"', False),
        ("7", False),
    ]
    assert await asyncio.gather(*(use(session) for session in sessions)) == [expected] * 8


async def test_nobody_reads_what_others_are_answered(opened: Opened) -> None:
    """A mapping can be made larger than it was, as long as its file is."""
    sessions = await opened(4)
    replies = await asyncio.gather(*(call(session, "text", '{"length": 90}') for session in sessions))
    assert replies == [(f'"{"x" * 90}"', False)] * 4
    reached = [await call(session, "reach") for session in sessions]
    assert not [text for text, _ in reached if "xxxx" in text]


@pytest.mark.parametrize("hostile", ["forge", "foretell", "lie"])
async def test_what_is_no_reply_costs_its_own_call_alone(opened: Opened, hostile: str) -> None:
    bad, good = await opened(2)
    forged, fine = await asyncio.gather(call(bad, hostile), call(good, "add", '{"a": 1, "b": 2}'))
    assert forged == ("the tool wrote to the channel of its sandbox", True)
    assert fine == ("3", False)
    assert await call(bad, "add", '{"a": 1, "b": 2}') == ("3", False)


async def test_a_mailbox_that_was_written_over_still_takes_a_reply(opened: Opened) -> None:
    (session,) = await opened(1)
    assert await call(session, "scribble") == ('"written over"', False)
    assert await call(session, "add", '{"a": 1, "b": 2}') == ("3", False)
