"""What probes are made of. Each says whether its attack succeeded; it judges by evidence, a secret that came out or an
effect that others feel, and not by what the attack claims.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from textwrap import dedent

from adversary.arenas import Arena, Attacker, Outcome

Attack = Callable[[Arena], Awaitable[bool]]

VICTIM = dedent("""
    import os
    _held = []
    def hold(item):
        _held.append(item)
        return len(_held)
    def held():
        return _held
    def identity():
        return os.getpid()
    def fine():
        return {"a": [1, 2.5, "x"]}
    def leave_file(item):
        import ctypes
        ctypes.CDLL(None).prctl(15, b"esc-victim", 0, 0, 0)
        for folder in (".", "/tmp", "/dev/shm", "/var/tmp", "/scratch", "/scratch/sessions"):
            try:
                with open(folder + "/leftover-" + item[-8:], "w") as file:
                    file.write(item)
                os.chmod(folder + "/leftover-" + item[-8:], 0o644)
            except OSError:
                continue
        return 0
    """)

PRELUDE = dedent('''
    import ctypes, errno, gc, mmap, os, re, signal, socket, struct, sys, time
    _libc = ctypes.CDLL(None, use_errno=True)
    _CANARY = re.compile(rb"canary-[0-9a-f]{32}")
    def _pids(facts):
        """Every process to be found, others first."""
        found = set(facts["pids"]) | set(range(1, 400)) | {os.getppid()}
        try:
            found |= {int(name) for name in os.listdir("/proc") if name.isdigit()}
        except OSError:
            pass
        return sorted(found - {os.getpid()})
    def _read(path, size=1 << 20):
        try:
            with open(path, "rb") as file:
                return file.read(size)
        except (OSError, ValueError):
            return b""
    def _canaries(chunks):
        found = set()
        for chunk in chunks:
            found |= {match.decode() for match in _CANARY.findall(chunk)}
        return sorted(found)
    def _maps(pid):
        for line in _read(f"/proc/{pid}/maps", 1 << 22).decode(errors="replace").splitlines():
            span, mode = line.split()[:2]
            if mode.startswith("rw"):
                start, end = (int(part, 16) for part in span.split("-"))
                yield start, min(end - start, 1 << 26)
    def _succeeds(function, *arguments):
        ctypes.set_errno(0)
        return function(*arguments) != -1
    def _walk(*roots):
        for root in roots:
            for folder, folders, names in os.walk(root):
                if folder[len(root):].count("/") >= 3:
                    folders.clear()  # a big machine has more than there is time for
                for name in names:
                    yield os.path.join(folder, name)
    ''')

PEEK = """
def _peek(pid, start, size):
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
            file.seek(start)
            return file.read(size) or b""
    except (OSError, OverflowError, ValueError):
        return b""
def _vm_read(pid, start, size):
    buffer = ctypes.create_string_buffer(size)
    local = struct.pack("QQ", ctypes.addressof(buffer), size)
    remote = struct.pack("QQ", start, size)
    got = _libc.process_vm_readv(pid, local, 1, remote, 1, 0)
    return buffer.raw[:got] if got > 0 else b""
"""


@dataclass(frozen=True)
class Probe:
    """One class of attack. `attack` returns whether it succeeded."""

    name: str
    topic: str
    attack: Attack


class Topic:
    """What attacks are on: decorates each of its probes, whose name is the function's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.probes: list[Probe] = []

    def __call__(self, attack: Attack) -> Attack:
        self.probes.append(Probe(attack.__name__.replace("_", " "), self.name, attack))
        return attack


async def attacker(arena: Arena, body: str, **limits: object) -> Attacker:
    """A session of a source that attacks."""
    return (await arena.open(PRELUDE + dedent(body), **limits))[0]


async def says(arena: Arena, body: str, **limits: object) -> str:
    """What `attack(facts)` returns, as text; errors are no success."""
    session = await attacker(arena, body, **limits)
    outcome = await session.call("attack", {"facts": arena.facts})
    await session.close()
    return outcome.text or ""


async def any_done(arena: Arena, body: str) -> bool:
    """Whether `attack(facts)` says that it did something."""
    return await says(arena, body) not in ("", "[]", "0", "false")


def sound(outcome: Outcome) -> bool:
    """Whether an innocent call gave its result."""
    return outcome.text is not None and json.loads(outcome.text) == {"a": [1, 2.5, "x"]}
