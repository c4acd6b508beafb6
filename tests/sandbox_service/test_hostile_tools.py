"""Tools that misbehave: each costs its own call at most, in every containment."""

import asyncio
import json
from collections.abc import Callable

import pytest

from astra_api.records import SessionLimits, ToolError, ToolErrorKind, ToolOutcome, ToolResult, Toolset
from astra_sandbox.interface import Sandbox, Session, ToolsetRejected

pytestmark = pytest.mark.asyncio(loop_scope="session")
MakeToolset = Callable[..., Toolset]

HOSTILE = """
import asyncio, ctypes, os, resource, signal, socket, sys, threading, time

def fine():
    return "fine"

def hang():
    while True:
        pass

def sleep():
    time.sleep(3600)

def hang_catching_signals():
    for number in range(1, 65):
        try:
            signal.signal(number, lambda number, frame: None)
        except (OSError, ValueError):
            continue
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    while True:
        try:
            time.sleep(1)
        except BaseException:
            continue

def memory():
    return len([bytes(1 << 20) for _ in range(1 << 20)])

def memory_at_once():
    return len(bytes(1 << 40))

def memory_file():
    return os.memfd_create("hidden")

def fork():
    while True:
        os.fork()

def spawn():
    return os.spawnv(os.P_WAIT, "/bin/true", ["true"])

def threads():
    threading.Thread(target=time.sleep, args=(3600,)).start()

def flood():
    return "x" * (8 << 20)

def nested():
    value = []
    for _ in range(100_000):
        value = [value]
    return value

def leave():
    os._exit(7)

def leave_quietly():
    os._exit(0)

def abort():
    os.abort()

def crash():
    ctypes.string_at(0)

def overflow():
    sys.setrecursionlimit(1 << 30)
    def dive():
        return [dive() for _ in range(2)]
    return dive()

def interrupt():
    raise KeyboardInterrupt("stop")

def missing():
    import numpy

def unprintable():
    class Rude(Exception):
        def __str__(self):
            raise ValueError("no")
    raise Rude

def close_everything():
    os.closerange(0, 256)

def forge():
    for fd in range(256):
        try:
            os.write(fd, b"\\0" * 13 + b"forged")
        except OSError:
            continue
    time.sleep(3600)

def disk():
    with open("file", "wb") as file:
        while True:
            file.write(bytes(1 << 20))

def many_files():
    return [open(f"file{number}", "w") for number in range(10_000)]

def write_and_list():
    with open("mine", "w") as file:
        file.write("x")
    return os.listdir(".")

def see_files():
    return os.listdir("..")

def network():
    return socket.create_connection(("127.0.0.1", 1), timeout=1)

def kill_all():
    os.kill(-1, signal.SIGKILL)

def kill_parent():
    os.kill(os.getppid(), signal.SIGKILL)

def raise_limits():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)

def alarm():
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    return "set"

def event_loop():
    async def later():
        await asyncio.sleep(0.001)
        return "later"
    return asyncio.run(later())

def environment():
    return dict(os.environ)

def ours():
    return [name for name in [*sys.modules, *sys.path] if "astra" in name or "site-packages" in name]
"""
NAMES = [line[4 : line.index("(")] for line in HOSTILE.splitlines() if line.startswith("def ")]
LIMITS = SessionLimits(call_seconds=1, memory_bytes=64 << 20, file_bytes=1 << 20, output_bytes=1 << 20)


@pytest.fixture(scope="module")
def hostile(make_toolset: MakeToolset) -> Toolset:
    return make_toolset(HOSTILE, *NAMES)


async def outcome_of(sandbox: Sandbox, toolset: Toolset, name: str) -> ToolOutcome:
    """Calls a tool, checks that the session still works, and that the outcome is the same in another session."""
    first, second = await sandbox.open_sessions(toolset, 2, limits=LIMITS)
    outcome, other = await asyncio.gather(first.call(name, "{}"), second.call(name, "{}"))
    assert outcome == other
    assert await first.call("fine", "{}") == ToolResult(json_text='"fine"')
    await close(first, second)
    return outcome


async def close(*sessions: Session) -> None:
    for session in sessions:
        await session.close()


@pytest.mark.parametrize(
    ("name", "kind", "ended", "said"),
    [
        ("hang", ToolErrorKind.TIMED_OUT, True, "1 s"),
        ("sleep", ToolErrorKind.TIMED_OUT, True, "1 s"),
        ("hang_catching_signals", ToolErrorKind.TIMED_OUT, True, "1 s"),
        ("memory", ToolErrorKind.OUT_OF_MEMORY, True, "memory"),
        ("memory_at_once", ToolErrorKind.OUT_OF_MEMORY, True, "memory"),
        ("flood", ToolErrorKind.OUTPUT_TOO_LARGE, False, "bytes"),
        ("nested", ToolErrorKind.RAISED, False, "nested deeper"),
        ("leave", ToolErrorKind.RAISED, True, "exit status 7"),
        ("leave_quietly", ToolErrorKind.RAISED, True, "exit status 0"),
        ("crash", ToolErrorKind.RAISED, True, "SIGSEGV"),
        ("interrupt", ToolErrorKind.RAISED, False, "KeyboardInterrupt: stop"),
        ("missing", ToolErrorKind.RAISED, False, "ModuleNotFoundError: No module named 'numpy'"),
        ("unprintable", ToolErrorKind.RAISED, False, "Rude"),
        ("forge", ToolErrorKind.RAISED, True, "channel"),
        ("disk", ToolErrorKind.RAISED, False, "OSError"),
        ("many_files", ToolErrorKind.RAISED, False, "OSError"),
        ("see_files", ToolErrorKind.RAISED, False, "PermissionError"),
        ("raise_limits", ToolErrorKind.RAISED, False, "ValueError"),
        ("network", ToolErrorKind.RAISED, False, ""),
        ("fork", ToolErrorKind.RAISED, False, ""),
        ("spawn", ToolErrorKind.RAISED, False, ""),
        ("threads", ToolErrorKind.RAISED, False, "RuntimeError: can't start new thread"),
        ("kill_all", ToolErrorKind.RAISED, False, "PermissionError"),
        ("kill_parent", ToolErrorKind.RAISED, False, "PermissionError"),
        ("memory_file", ToolErrorKind.RAISED, False, "PermissionError"),
    ],
)
async def test_a_misbehaving_tool_is_an_observation(
    real_sandbox: Sandbox, hostile: Toolset, name: str, kind: ToolErrorKind, ended: bool, said: str
) -> None:
    outcome = await outcome_of(real_sandbox, hostile, name)
    assert isinstance(outcome, ToolError), outcome
    assert (outcome.kind, outcome.ended_process) == (kind, ended)
    assert said in outcome.message


async def test_a_stack_overflow_costs_only_the_call(real_sandbox: Sandbox, hostile: Toolset) -> None:
    session = (await real_sandbox.open_sessions(hostile, 1, limits=LIMITS))[0]
    assert isinstance(await session.call("overflow", "{}"), ToolError)  # a crash, or memory: the machine decides
    assert await session.call("fine", "{}") == ToolResult(json_text='"fine"')
    await close(session)


@pytest.mark.parametrize("name", ["abort", "close_everything"])
async def test_a_tool_that_kills_its_process_ends_it(real_sandbox: Sandbox, hostile: Toolset, name: str) -> None:
    outcome = await outcome_of(real_sandbox, hostile, name)
    assert isinstance(outcome, ToolError)
    assert outcome.ended_process


async def test_a_session_sees_nothing_of_the_server(real_sandbox: Sandbox, hostile: Toolset) -> None:
    session = (await real_sandbox.open_sessions(hostile, 1))[0]
    assert await session.call("ours", "{}") == ToolResult(json_text="[]")
    environment = await session.call("environment", "{}")
    assert isinstance(environment, ToolResult)
    assert set(json.loads(environment.json_text)) <= {"PYTHONHASHSEED", "LANG", "TZ", "HOME", "PWD", "LC_CTYPE"}
    await close(session)


async def test_each_session_has_a_folder_of_its_own(real_sandbox: Sandbox, hostile: Toolset) -> None:
    sessions = await real_sandbox.open_sessions(hostile, 2)
    for session in sessions:
        assert await session.call("write_and_list", "{}") == ToolResult(json_text='["mine"]')
    await close(*sessions)


async def test_an_event_loop_works(real_sandbox: Sandbox, hostile: Toolset) -> None:
    session = (await real_sandbox.open_sessions(hostile, 1))[0]
    assert await session.call("event_loop", "{}") == ToolResult(json_text='"later"')
    await close(session)


LIBRARY = """
import asyncio, bz2, ctypes, decimal, hashlib, lzma, sqlite3, ssl, statistics, unicodedata, zlib, zoneinfo

def early():
    rows = sqlite3.connect(":memory:").execute("select 6 * 7").fetchall()
    digest = hashlib.new("sha3_256", lzma.decompress(lzma.compress(bz2.compress(zlib.compress(b"x"))))).hexdigest()
    return [rows, digest[:8], str(decimal.Decimal(1) / 3)[:5], zoneinfo.ZoneInfo("Asia/Tokyo").key]

def late():
    import _zoneinfo, csv, xml.etree.ElementTree
    return [next(csv.reader(["a,b"])), xml.etree.ElementTree.fromstring("<a>b</a>").text]
"""


async def test_the_standard_library_is_there_with_its_compiled_modules(
    real_sandbox: Sandbox, make_toolset: MakeToolset
) -> None:
    session = (await real_sandbox.open_sessions(make_toolset(LIBRARY, "early", "late"), 1))[0]
    early = await session.call("early", "{}")
    assert isinstance(early, ToolResult), early
    assert json.loads(early.json_text)[0::2] == [[[42]], "0.333"]
    assert json.loads(early.json_text)[3] == "Asia/Tokyo"
    assert await session.call("late", "{}") == ToolResult(json_text='[["a","b"],"b"]')
    await close(session)


async def test_a_process_that_dies_between_calls_is_replaced(real_sandbox: Sandbox, hostile: Toolset) -> None:
    session = (await real_sandbox.open_sessions(hostile, 1))[0]
    assert await session.call("alarm", "{}") == ToolResult(json_text='"set"')
    await asyncio.sleep(0.3)
    assert await session.call("fine", "{}") == ToolResult(json_text='"fine"')
    await close(session)


async def test_processor_time_is_limited(process_sandbox: Sandbox, hostile: Toolset) -> None:
    limits = SessionLimits(cpu_seconds=1, call_seconds=20)
    session = (await process_sandbox.open_sessions(hostile, 1, limits=limits))[0]
    outcome = await session.call("hang", "{}")
    assert isinstance(outcome, ToolError)
    assert (outcome.kind, outcome.ended_process) == (ToolErrorKind.TIMED_OUT, True)
    assert "processor" in outcome.message
    await close(session)


async def test_a_hanging_session_does_not_delay_its_siblings(real_sandbox: Sandbox, hostile: Toolset) -> None:
    slow, quick = await real_sandbox.open_sessions(hostile, 2, limits=SessionLimits(call_seconds=60))
    hanging = asyncio.ensure_future(slow.call("sleep", "{}"))
    for _ in range(20):
        assert await quick.call("fine", "{}") == ToolResult(json_text='"fine"')
    assert not hanging.done()
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    await close(slow, quick)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import numpy\ndef tool(): ...", "line 1: ModuleNotFoundError: No module named 'numpy'"),
        ("def tool(: ...", "SyntaxError"),
        ("1 / 0\ndef tool(): ...", "ZeroDivisionError"),
        ("import sys\nsys.exit(0)\ndef tool(): ...", "SystemExit"),
        ("tool = 3", "not a public function"),
        ("x = [0] * (1 << 40)\ndef tool(): ...", "memory"),
        ("import os\nos._exit(0)\ndef tool(): ...", "ends its process while it loads"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()\ndef tool(): ...", "thread"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 9))\ndef tool(): ...", "Error"),
        ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef tool(): ...", "PermissionError"),
        ("def tool(): ...\n" + "\0", "null bytes"),
    ],
)
async def test_a_source_that_does_not_load_is_rejected(
    real_sandbox: Sandbox, make_toolset: MakeToolset, source: str, said: str
) -> None:
    with pytest.raises(ToolsetRejected, match=said):
        await real_sandbox.open_sessions(make_toolset(source, "tool"), 1)


async def test_a_variant_has_another_clock_hash_seed_and_folder(
    process_sandbox: Sandbox, make_toolset: MakeToolset
) -> None:
    source = (
        "import time, datetime, os\nCWD = os.getcwd().count('/')\n"
        "def tool(): return [time.time() // 86400, str(datetime.date.today()), str(datetime.datetime.now())[:10],"
        " time.strftime('%Y'), hash('x') % 1000, list({'a', 'b', 'c', 'd', 'e'}), CWD]"
    )
    toolset = make_toolset(source, "tool")
    first = await process_sandbox.open_sessions(toolset, 2)
    other = await process_sandbox.open_sessions(toolset, 1, variant=1)
    one, two, three = [await session.call("tool", "{}") for session in [*first, *other]]
    assert one == two
    assert isinstance(one, ToolResult)
    assert isinstance(three, ToolResult)
    here, there = json.loads(one.json_text), json.loads(three.json_text)
    assert there[0] - here[0] == pytest.approx(37, abs=1)
    assert [a != b for a, b in zip(here[1:], there[1:], strict=True)][:2] == [True, True]
    assert here[4] != there[4]
    assert here[6] != there[6]
    await close(*first, *other)
