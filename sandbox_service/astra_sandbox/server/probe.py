"""Which containment is in force? Asked of the kernel and of a session, never of the configuration."""

import asyncio
import ctypes
import json
import os
from pathlib import Path

from astra_api.records import Toolset, ToolSpec
from astra_sandbox.interface import Isolation
from astra_sandbox.limits import DEFAULT
from astra_sandbox.server.sessions import ServerSession
from astra_sandbox.server.templates import Templates
from astra_sandbox.server.toolsets import StoredToolset
from astra_sandbox.server.zygotes import Zygote

_LOOK = """
import errno, os, socket

def _attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno, "refused")
    return "allowed"

def _connect():
    with socket.socket() as connection:
        connection.settimeout(1)
        connection.connect(("127.0.0.1", 9))

def look():
    return {
        "user": os.getuid(),
        "root": sorted(os.listdir("/")) if _attempt(lambda: os.listdir("/")) == "allowed" else [],
        "network": _attempt(_connect),
        "fork": _attempt(lambda: os.fork() or os._exit(0)),
        "home": _attempt(lambda: os.listdir(os.path.expanduser("~root"))),
        "siblings": _attempt(lambda: os.listdir("/proc/1")),
        "write": _attempt(lambda: open("/usr/.astra", "w").close()),
    }
"""
_VIEWS = {
    "namespaces": "a root folder made by bubblewrap",
    "jail": "a root folder with Python's library alone",
    "process": "those of this machine, as Landlock and the user's rights allow",
}
_NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "user")


async def measure(templates: Templates, zygote: Zygote, missing: list[str]) -> tuple[Isolation, tuple[str, ...]]:
    """(the level, what was found, one line each). `missing`: what start-up already found to be lacking."""
    look = ToolSpec(name="look", description="", parameters={"type": "object"})
    toolset = StoredToolset(Toolset(tools=(look,), source=_LOOK))
    process = (await templates.fork(toolset, 0, 1, 0, DEFAULT))[0]
    assert process.pid is not None
    kernel = gvisor_kernel()  # its /proc shows other namespaces where there are none
    entered = sorted({*([] if kernel else _entered_namespaces(process.pid)), *zygote.namespaces, *zygote.own})
    session = ServerSession(
        "probe",
        toolset,
        templates,
        process,
        variant=0,
        seed=0,
        limits=DEFAULT,
        on_gone=lambda session: None,
    )
    try:
        response = await asyncio.shield(session.submit("look", "look", "{}"))
    finally:
        session.close()
    seen = json.loads(response.result_json) if response.HasField("result_json") else {}
    lines = [f"user id {seen.get('user', 'unknown')} in the session"]
    for name, meaning in (
        ("network", "connecting to a network address"),
        ("fork", "starting a process"),
        ("siblings", "looking at other processes"),
        ("home", "reading the server's home"),
        ("write", "writing to the system's files"),
    ):
        lines.append(f"{meaning}: {seen.get(name, 'not tried: ' + response.error.message)}")
    lines.insert(0, "namespaces of its own: " + (", ".join(entered) or "none"))
    lines.insert(1, "namespaces of each toolset's own: " + (", ".join(zygote.own) or "none"))
    lines.insert(2, "files in sight: " + _VIEWS[zygote.placement.name])
    if kernel:
        lines.insert(0, f"kernel: gVisor ({kernel})")
        return Isolation.GVISOR, (*lines, *missing)
    apart = {"mnt", "pid", "net"} <= set(entered) and zygote.placement.enclose
    return Isolation.NAMESPACES if apart else Isolation.PROCESS, (*lines, *missing)


def _entered_namespaces(pid: int) -> list[str]:
    entered = []
    for name in _NAMESPACES:
        try:
            theirs, ours = os.readlink(f"/proc/{pid}/ns/{name}"), os.readlink(f"/proc/self/ns/{name}")
        except OSError:
            continue  # not to be seen: not counted
        if theirs != ours:
            entered.append(name)
    return entered


def gvisor_kernel() -> str | None:
    """What the kernel's log says at its start, if it is gVisor's."""
    buffer = ctypes.create_string_buffer(1 << 14)
    read_all = 3
    length = ctypes.CDLL(None).klogctl(read_all, buffer, len(buffer))
    first = buffer.raw[: max(0, length)].decode(errors="replace").splitlines()
    if not any("Starting gVisor" in line for line in first[:5]):
        return None
    return Path("/proc/version").read_text().strip()
