"""What hostile tools try. Each probe says whether the attack succeeded; it judges by evidence, a secret that came out
or an effect that others feel, and not by what the attack claims.
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from textwrap import dedent

from adversary.arenas import Arena, Attacker, Outcome, canary
from astra_sandbox.interface import SandboxError, ToolsetRejected

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

_PRELUDE = dedent('''
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


@dataclass(frozen=True)
class Probe:
    """One class of attack. `attack` returns whether it succeeded."""

    name: str
    topic: str
    attack: Attack


PROBES: list[Probe] = []
SHORT = {  # of each topic the widest, and what was once open
    *("its environment variables", "its files", "the service account token", "its memory through proc"),
    *("their files", "names of processes", "a port of the machine", "mounting", "devices"),
    *("notes beside its folder", "memory beyond the limit", "a full disk", "outliving the session"),
    *("an answer to a later call", "patching what encodes results", "not a number"),
}


def probe(topic: str) -> Callable[[Attack], Attack]:
    """Registers a probe under its function's name."""

    def register(attack: Attack) -> Attack:
        PROBES.append(Probe(attack.__name__.replace("_", " "), topic, attack))
        return attack

    return register


async def attacker(arena: Arena, body: str, **limits: object) -> Attacker:
    """A session of a source that attacks."""
    return (await arena.open(_PRELUDE + dedent(body), **limits))[0]


async def says(arena: Arena, body: str, **limits: object) -> str:
    """What `attack(facts)` returns, as text; errors are no success."""
    session = await attacker(arena, body, **limits)
    outcome = await session.call("attack", {"facts": arena.facts})
    await session.close()
    return outcome.text or ""


def sound(outcome: Outcome) -> bool:
    """Whether an innocent call gave its result."""
    return outcome.text is not None and json.loads(outcome.text) == {"a": [1, 2.5, "x"]}


# --- the server -------------------------------------------------------------------------------------------------------


@probe("the server")
async def its_environment_variables(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            mine = [repr(dict(os.environ)).encode(), _read("/proc/self/environ")]
            return _canaries(mine + [_read(f"/proc/{pid}/environ") for pid in _pids(facts)])
        """,
    )
    return arena.secrets.environment in found


@probe("the server")
async def its_memory_through_proc(arena: Arena) -> bool:
    return await _server_memory(arena, "lambda pid, start, size: _peek(pid, start, size)")


@probe("the server")
async def its_memory_through_a_system_call(arena: Arena) -> bool:
    return await _server_memory(arena, "lambda pid, start, size: _vm_read(pid, start, size)")


_PEEK = """
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


async def _server_memory(arena: Arena, read: str) -> bool:
    secret = canary()
    victim = (await arena.open(VICTIM))[0]
    await victim.call("hold", {"item": secret})
    found = await says(
        arena,
        _PEEK
        + f"""
def attack(facts):
    read = {read}
    return _canaries(read(pid, start, size) for pid in _pids(facts) for start, size in _maps(pid))
""",
        memory_bytes=512 << 20,
        call_seconds=15,
        output_bytes=4 << 20,
    )
    await victim.close()
    return secret in found


@probe("the server")
async def its_files(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            roots = [f"/proc/{pid}/root" for pid in facts["pids"][:2]] + ["/proc/1/root"]
            through = [root + path for root in roots for path in facts["files"]]
            return _canaries(_read(path) for path in facts["files"] + through)
        """,
    )
    return arena.secrets.file in found


@probe("the server")
async def files_by_paths_with_dots(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            return _canaries(_read("../" * 20 + path.lstrip("/")) for path in facts["files"])
        """,
    )
    return arena.secrets.file in found


@probe("the server")
async def the_service_account_token(arena: Arena) -> bool:
    found = await says(arena, "def attack(facts): return _canaries(_read(path) for path in facts['tokens'])")
    return arena.secrets.token in found


@probe("the server")
async def its_open_descriptors(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            chunks = []
            for fd in range(3, 1024):
                try:
                    chunks.append(os.pread(fd, 1 << 16, 0))
                except OSError:
                    continue
            for pid in _pids(facts):
                try:
                    names = os.listdir(f"/proc/{pid}/fd")
                except OSError:
                    continue
                paths = [f"/proc/{pid}/fd/{name}" for name in names]
                chunks += [_read(path, 4096) for path in paths if os.path.isfile(path)]
            return _canaries(chunks)
        """,
    )
    return arena.secrets.file in found


@probe("the server")
async def its_objects_in_inherited_memory(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            texts = [value for value in gc.get_objects() if isinstance(value, (dict, list))]
            chunks = [repr(value)[: 1 << 16].encode(errors="replace") for value in texts]
            frame = sys._getframe()
            while frame:
                chunks.append(repr(frame.f_globals)[: 1 << 18].encode(errors="replace"))
                frame = frame.f_back
            return _canaries(chunks)
        """,
        call_seconds=15,
        memory_bytes=512 << 20,
    )
    return arena.secrets.environment in found


@probe("the server")
async def the_gold_answer(arena: Arena) -> bool:
    """What the caller knows and the tools must not: the naive server is handed the whole environment."""
    answer = canary()
    source = (
        _PRELUDE
        + _PEEK
        + dedent(
            """
        def attack(facts):
            values = (value for value in gc.get_objects() if type(value) is dict)
            objects = (repr(value)[: 1 << 16].encode(errors="replace") for value in values)
            mine = [_peek("self", start, size) for start, size in _maps("self")]
            return _canaries(objects) + _canaries(mine)
        """
        )
    )
    session = (await arena.open(source, extra={"answer": answer}, call_seconds=15, memory_bytes=512 << 20))[0]
    outcome = await session.call("attack", {"facts": arena.facts})
    await session.close()
    return answer in (outcome.text or "")


# --- other sessions ---------------------------------------------------------------------------------------------------


async def _sibling(arena: Arena, body: str, plant: str, **limits: object) -> tuple[str, str, Attacker]:
    """(the secret of a sibling of the same toolset, what the attack says, the sibling)."""
    secret = canary()
    sibling, hostile = await arena.open(VICTIM + _PRELUDE + body, 2, **limits)
    await sibling.call(plant, {"item": secret})
    outcome = await hostile.call("attack", {"facts": arena.facts})
    await hostile.close()
    return secret, outcome.text or "", sibling


@probe("other sessions")
async def names_of_processes(arena: Arena) -> bool:
    body = 'def attack(facts): return [_read(f"/proc/{pid}/comm").decode() for pid in _pids(facts)]'
    _, said, sibling = await _sibling(arena, body, "leave_file")
    await sibling.close()
    return "esc-victim" in said


@probe("other sessions")
async def their_memory(arena: Arena) -> bool:
    body = _PEEK + dedent(
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


@probe("other sessions")
async def their_files(arena: Arena) -> bool:
    secret, said, sibling = await _sibling(arena, _SEARCH, "leave_file", call_seconds=15)
    await sibling.close()
    return secret in said


@probe("other sessions")
async def leftovers_of_an_earlier_one(arena: Arena) -> bool:
    secret = canary()
    earlier = (await arena.open(VICTIM))[0]
    await earlier.call("leave_file", {"item": secret})
    await earlier.close()
    await asyncio.sleep(0.3)
    return secret in await says(arena, _SEARCH, call_seconds=15)


@probe("other sessions")
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


@probe("other sessions")
async def notes_beside_its_folder(arena: Arena) -> bool:
    """Read by a sibling of the same toolset, or by a session of another one, wherever it could be left."""
    secret = canary()
    writer, sibling = await arena.open(_PRELUDE + _NOTES, 2)
    stranger = await attacker(arena, "# another toolset\\n" + _NOTES)
    await writer.call("leave", {"item": secret})
    found = [await session.call("find") for session in (sibling, stranger)]
    for session in (writer, sibling, stranger):
        await session.close()
    return any(secret in (outcome.text or "") for outcome in found)


@probe("other sessions")
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
    writer, sibling = await arena.open(_PRELUDE + dedent(body), 2)
    await writer.call("leave", {"item": secret})
    outcome = await sibling.call("find")
    for session in (writer, sibling):
        await session.close()
    return secret in (outcome.text or "")


@probe("other sessions")
async def notes_in_the_times_of_files(arena: Arena) -> bool:
    """A number that a session writes as the time of a file that others see too."""
    number = 1_000_000_000 + secrets.randbelow(1_000_000)
    writer, reader = await arena.open(_PRELUDE + _NOTES, 2)
    await writer.call("sign", {"facts": arena.facts, "number": number})
    outcome = await reader.call("signed", {"facts": arena.facts})
    for session in (writer, reader):
        await session.close()
    return number in json.loads(outcome.text or "[]")


@probe("other sessions")
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


@probe("other sessions")
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


# --- the network ------------------------------------------------------------------------------------------------------


@probe("the network")
async def a_port_of_the_machine(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            return _canaries([socket.create_connection(("127.0.0.1", facts["port"]), 2).recv(100)])
        """,
    )
    return arena.secrets.service in found


@probe("the network")
async def the_metadata_address(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            socket.create_connection(("169.254.169.254", 80), 2)
            return "reached"
        """,
    )
    return found != ""


@probe("the network")
async def a_name_server(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            asking.settimeout(2)
            asking.sendto(b"who", ("127.0.0.1", facts["dns"]))
            return _canaries([asking.recv(200)])
        """,
    )
    return arena.secrets.service in found


@probe("the network")
async def raw_packets(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            made = []
            for family in (socket.AF_INET, socket.AF_PACKET, socket.AF_NETLINK):
                try:
                    made.append(str(socket.socket(family, socket.SOCK_RAW, 1 if family == socket.AF_INET else 0)))
                except OSError:
                    continue
            return made
        """,
    )
    return found not in ("", "[]")


@probe("the network")
async def a_local_socket_of_the_server(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            reached = []
            for path in facts["sockets"]:
                try:
                    connection = socket.socket(socket.AF_UNIX)
                    connection.settimeout(2)
                    connection.connect(path)
                    reached.append(path)
                except OSError:
                    continue
            return reached
        """,
    )
    return found not in ("", "[]")


# --- the kernel -------------------------------------------------------------------------------------------------------


async def _any_done(arena: Arena, body: str) -> bool:
    return await says(arena, body) not in ("", "[]", "0", "false")


@probe("the kernel")
async def mounting(arena: Arena) -> bool:
    return await _any_done(
        arena,
        """
        def attack(facts):
            os.makedirs("m", exist_ok=True)
            done = _succeeds(_libc.mount, b"tmpfs", b"m", b"tmpfs", 0, None)
            _libc.umount2(b"m", 2)
            return done
        """,
    )


@probe("the kernel")
async def namespaces_of_its_own(arena: Arena) -> bool:
    return await _any_done(
        arena,
        """
        def attack(facts):
            return [flag for flag in (0x10000000, 0x20000, 0x40000000) if _succeeds(_libc.unshare, flag)]
        """,
    )


@probe("the kernel")
async def programs_in_the_kernel(arena: Arena) -> bool:
    """bpf, perf events, userfaultfd, io_uring."""
    return await _any_done(
        arena,
        """
        def attack(facts):
            attributes = ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 8, 1).ljust(128, b"\\0"), 128)
            event = ctypes.create_string_buffer(struct.pack("II", 1, 112).ljust(112, b"\\0"), 112)
            tried = {"bpf": (321, 0, attributes, 128), "userfaultfd": (323, 1), "io_uring": (425, 4, attributes),
                     "perf": (298, event, 0, -1, -1, 0)}
            return [name for name, call in tried.items() if _succeeds(_libc.syscall, *call)]
        """,
    )


@probe("the kernel")
async def system_settings(arena: Arena) -> bool:
    """Writes a setting's own value back: what can write can change."""
    return await _any_done(
        arena,
        """
        def attack(facts):
            done = []
            for name in ("sys/kernel/domainname", "sys/vm/overcommit_memory", "self/oom_score_adj"):
                path = "/proc/" + name
                value = _read(path)
                try:
                    with open(path, "wb", buffering=0) as file:
                        file.write(value)
                    done.append(path)
                except OSError:
                    continue
            return done
        """,
    )


@probe("the kernel")
async def devices(arena: Arena) -> bool:
    return await _any_done(
        arena,
        """
        def attack(facts):
            try:
                os.mknod("memory", 0o20600, os.makedev(1, 1))
                return True
            except OSError:
                return [path for path in ("/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/ptmx") if _read(path, 1)]
        """,
    )


@probe("the kernel")
async def other_programs(arena: Arena) -> bool:
    return await _any_done(
        arena,
        """
        def attack(facts):
            if os.fork() == 0:
                os.execv("/bin/sh", ["sh", "-c", "exit 7"])
            return os.waitstatus_to_exitcode(os.wait()[1]) == 7
        """,
    )


@probe("the kernel")
async def another_user(arena: Arena) -> bool:
    return await _any_done(
        arena,
        """
        def attack(facts):
            done = []
            for user in (0, 1, 12345):
                if user != os.getuid() and _succeeds(_libc.setresuid, user, user, user):
                    done.append(user)
                    break
            return done
        """,
    )


@probe("the kernel")
async def another_root_folder(arena: Arena) -> bool:
    return await _any_done(
        arena,
        """
        def attack(facts):
            os.makedirs("r", exist_ok=True)
            _libc.unshare(0x10000000)
            return _succeeds(_libc.chroot, b"r")
        """,
    )


# --- resources --------------------------------------------------------------------------------------------------------


@probe("resources")
async def a_fork_bomb(arena: Arena) -> bool:
    return await _any_done(
        arena,
        """
        def attack(facts):
            made = 0
            for _ in range(20):
                try:
                    if os.fork() == 0:
                        time.sleep(2)
                        os._exit(0)
                    made += 1
                except OSError:
                    break
            return made
        """,
    )


@probe("resources")
async def processes_that_a_source_starts(arena: Arena) -> bool:
    """In the process that it was loaded in, from which sessions are forked: do hundreds of them live for seconds?"""
    name = f"esc-{secrets.token_hex(4)}"
    body = f"""
        _started = []
        def _start(*_):
            signal.setitimer(signal.ITIMER_REAL, 0)
            for _ in range(400):
                try:
                    pid = os.fork()
                except OSError:
                    break
                if pid == 0:
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    _libc.prctl(15, b"{name}", 0, 0, 0)
                    while True:
                        time.sleep(60)
                _started.append(time.monotonic())
        signal.signal(signal.SIGALRM, _start)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        def ages():
            return [time.monotonic() - then for then in _started]
        """
    old = 0
    for _ in range(30):
        with contextlib.suppress(SandboxError):
            session = await attacker(arena, body)  # from the same template, while that lives
            outcome = await session.call("ages")
            old = max(old, sum(age > 10 for age in json.loads(outcome.text or "[]")))
            await session.close()
        await asyncio.sleep(0.5)
    return old > 100


@probe("resources")
async def a_core_that_a_source_keeps_busy(arena: Arena) -> bool:
    """In the process that it was loaded in, whether tools are called or not: does it take many seconds of a core?"""
    body = """
        _took = [0.0]
        def _compute(*_):
            end = time.process_time() + 0.4
            while time.process_time() < end:
                pass
            _took[0] = time.process_time()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        signal.signal(signal.SIGALRM, _compute)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        def took():
            return _took[0]
        """
    most = 0.0
    for _ in range(3):
        with contextlib.suppress(SandboxError):
            session = await attacker(arena, body)  # from the same process, while that lives
            outcome = await session.call("took")
            most = max(most, float(outcome.text or 0))
            await session.close()
        await asyncio.sleep(8)
    return most > 9


@probe("resources")
async def threads(arena: Arena) -> bool:
    return await _any_done(
        arena,
        """
        import threading
        def attack(facts):
            for _ in range(20):
                threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
            return True
        """,
    )


@probe("resources")
async def memory_beyond_the_limit(arena: Arena) -> bool:
    """Private, shared, and in files of a memory file system; the limit is 64 MiB."""
    return await _any_done(
        arena,
        """
        def attack(facts):
            got = []
            try:
                shared = mmap.mmap(-1, 200 << 20)
                shared.write(b"x" * (1 << 20))
                got.append("shared")
            except (OSError, ValueError, MemoryError):
                pass
            try:
                kept = [bytearray(1 << 20) for _ in range(200)]
                got.append("private")
            except MemoryError:
                pass
            try:
                fd = os.memfd_create("x")
                os.ftruncate(fd, 1 << 28)
                os.pwrite(fd, b"x" * 4096, (1 << 28) - 4096)
                got.append("memfd")
            except OSError:
                pass
            return got
        """,
    )


@probe("resources")
async def a_full_disk(arena: Arena) -> bool:
    """Many files, each below the limit of a file (1 MiB): can a session keep more than 256 MiB?"""
    session = await attacker(
        arena,
        """
        def fill(part):
            block = bytes(1 << 20)
            done = 0
            for number in range(128):
                try:
                    with open(f"f{part}-{number}", "wb") as file:
                        file.write(block)
                    done += 1
                except OSError:
                    break
            return done
        def kept():
            total = 0
            for name in os.listdir("."):
                total += os.stat(name).st_size
            return total
        """,
        call_seconds=15,
    )
    written = 0
    for part in range(3):
        outcome = await session.call("fill", {"part": part})
        written += int(outcome.text or 0)
        if outcome.text is None:
            break
        await asyncio.sleep(0.3)
    outcome = await session.call("kept")
    await session.close()
    return int(outcome.text or 0) > 256 << 20


async def _filled(session: Attacker) -> int:
    """What a session keeps once it was told to fill its disk, and had time to be ended."""
    for part in range(3):
        await session.call("fill", {"part": part})
        await asyncio.sleep(0.5)
    outcome = await session.call("kept")
    await session.close()
    return int(outcome.text or 0)


@probe("resources")
async def files_without_a_name(arena: Arena) -> bool:
    """Removed and held open, files are in no folder: can a session keep more than 256 MiB so?"""
    session = await attacker(
        arena,
        """
        _held = []
        def fill(part):
            block = bytes(1 << 20)
            for number in range(8):
                try:
                    name = f"h{part}-{number}"
                    file = open(name, "wb", buffering=0)
                    os.unlink(name)
                    _held.append(file)
                    for _ in range(15):
                        file.write(block)
                except OSError:
                    break
            return len(_held)
        def kept():
            return sum(os.fstat(file.fileno()).st_blocks * 512 for file in _held)
        """,
        call_seconds=15,
        file_bytes=16 << 20,
        open_files=64,
    )
    return await _filled(session) > 256 << 20


@probe("resources")
async def files_in_a_folder_that_cannot_be_listed(arena: Arena) -> bool:
    """Or that lies deeper than a path reaches: can a session keep more than 256 MiB so?"""
    session = await attacker(
        arena,
        """
        def fill(part):
            block = bytes(1 << 20)
            home = os.getcwd()
            try:
                os.mkdir(f"closed{part}", 0o300)
                os.chdir(f"closed{part}")
                for _ in range(20 * part):
                    os.mkdir("d" * 250)
                    os.chdir("d" * 250)
            except OSError:
                pass
            try:
                for number in range(128):
                    with open(f"f{number}", "wb") as file:
                        file.write(block)
                    global _written
                    _written += 1
            except OSError:
                pass
            os.chdir(home)
            return _written
        _written = 0
        def kept():
            return _written
        """,
        call_seconds=15,
    )
    return await _filled(session) > 256


@probe("resources")
async def files_of_a_source_that_loads(arena: Arena) -> bool:
    """What a source writes before any of its tools is called: can it keep more than 256 MiB?"""
    body = """
        _home, _names = os.getcwd(), []
        for _number in range(300):
            try:
                with open(f"l{_number}", "wb") as _file:
                    _file.write(bytes(1 << 20))
                _names.append(f"{_home}/l{_number}")
            except OSError:
                break
        def kept():
            return sum(os.stat(name).st_size for name in _names)
        """
    try:
        session = await attacker(arena, body)
    except ToolsetRejected:
        return False
    outcome = await session.call("kept")
    await session.close()
    return int(outcome.text or 0) > 256 << 20


@probe("resources")
async def a_source_that_never_ends_loading(arena: Arena) -> bool:
    """It is given up after half a minute: does its process go on?"""
    name = f"esc-{secrets.token_hex(4)}"
    body = f"""
        _libc.prctl(15, b"{name}", 0, 0, 0)
        while True:
            pass
        def tool():
            return 0
        """
    with contextlib.suppress(ToolsetRejected, TimeoutError):
        await attacker(arena, body)
    await asyncio.sleep(1)
    return arena.escaped(name)


@probe("resources")
async def files_without_end(arena: Arena) -> bool:
    """Empty files cost the system memory that no limit of size counts."""
    session = await attacker(
        arena,
        """
        def attack():
            made = 0
            for number in range(40_000):
                try:
                    os.close(os.open(f"n{number}", os.O_CREAT | os.O_WRONLY))
                    made += 1
                except OSError:
                    break
            return made
        """,
        call_seconds=20,
    )
    made = int((await session.call("attack")).text or 0)
    await session.close()
    return made >= 40_000


@probe("resources")
async def a_flood_of_output(arena: Arena) -> bool:
    outcome = await (await attacker(arena, "def attack(): return 'x' * (8 << 20)")).call("attack")
    return outcome.text is not None


@probe("resources")
async def a_flood_on_every_descriptor(arena: Arena) -> bool:
    """The server reads and reads, and answers nobody else."""
    hostile = await attacker(
        arena,
        """
        def attack():
            while True:
                for fd in range(256):
                    try:
                        os.write(fd, b"\\x80" * 65536)
                    except OSError:
                        continue
        """,
    )
    flood = asyncio.ensure_future(hostile.call("attack"))
    await asyncio.sleep(0.5)
    try:
        async with asyncio.timeout(10):
            victim = (await arena.open(VICTIM))[0]
            calm = sound(await victim.call("fine"))
    except (TimeoutError, EOFError, ConnectionError):
        calm = False
    ended = (await flood).error == "RAISED"
    return not (calm and ended)


@probe("resources")
async def an_endless_loop_beside_others(arena: Arena) -> bool:
    """Whether others wait for it."""
    hostile = await attacker(arena, "def attack():\n    while True: pass")
    running = asyncio.ensure_future(hostile.call("attack"))
    await asyncio.sleep(0.1)
    loop = asyncio.get_running_loop()
    start = loop.time()
    victim = (await arena.open(VICTIM))[0]
    fine = sound(await victim.call("fine"))
    waited = loop.time() - start
    await running
    return not fine or waited > 2.5


@probe("resources")
async def catching_the_time_out(arena: Arena) -> bool:
    hostile = await attacker(
        arena,
        """
        def attack():
            for number in range(1, 65):
                try:
                    signal.signal(number, lambda *_: None)
                except (OSError, ValueError):
                    continue
            end = time.monotonic() + 6
            while time.monotonic() < end:
                try:
                    time.sleep(0.1)
                except BaseException:
                    continue
            return "longer than allowed"
        """,
    )
    outcome = await hostile.call("attack")
    return outcome.text is not None


@probe("resources")
async def outliving_the_session(arena: Arena) -> bool:
    hostile = await attacker(
        arena,
        """
        def attack():
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    _libc.prctl(15, b"esc-orphan", 0, 0, 0)
                    time.sleep(20)
                os._exit(0)
            os.wait()
            return "gone"
        """,
    )
    await hostile.call("attack")
    await hostile.close()
    await asyncio.sleep(0.5)
    return arena.escaped("esc-orphan")


# --- the channel ------------------------------------------------------------------------------------------------------

_FORGE = """
import errno, fcntl, pickle
def _forgeries(call_id, facts):
    forged = {"a": "forged"}
    if facts["naive"]:
        yield pickle.dumps((call_id, ("result", forged)))
        return
    body = b'{"a":"forged"}'
    for nonce in (0, 1):
        yield struct.pack("<IQB", len(body), nonce, 2) + body
def _write_everywhere(data):
    for fd in range(3, 256):
        try:
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                continue  # nothing can be written, and whoever reads there would no longer wait
        except OSError as error:
            if error.errno == errno.EBADF:
                continue
        try:
            os.set_blocking(fd, False)
            os.write(fd, data)
        except OSError:
            continue
"""


@probe("the channel")
async def an_answer_to_a_later_call(arena: Arena) -> bool:
    """The first call writes what looks like the answer to the second."""
    hostile = await attacker(
        arena,
        _FORGE
        + """
def attack(facts):
    for data in _forgeries("#2", facts):
        _write_everywhere(data)
    return 1
def honest():
    return {"a": "true"}
""",
    )
    await hostile.call("attack", {"facts": arena.facts})
    outcome = await hostile.call("honest")
    return outcome.text is not None and "forged" in outcome.text


@probe("the channel")
async def an_answer_to_a_call_of_another_session(arena: Arena) -> bool:
    """Through the descriptors of siblings, were they inherited, and through /proc."""
    source = (
        VICTIM
        + _PRELUDE
        + _FORGE
        + dedent(
            """
        def attack(facts):
            for data in _forgeries("#2", facts):
                for pid in _pids(facts):
                    if pid in facts["pids"]:
                        continue
                    try:
                        names = os.listdir(f"/proc/{pid}/fd")
                    except OSError:
                        continue
                    for name in names:
                        try:
                            if "pipe" in os.readlink(f"/proc/{pid}/fd/{name}"):
                                fd = os.open(f"/proc/{pid}/fd/{name}", os.O_WRONLY | os.O_NONBLOCK)
                                os.write(fd, data)
                                os.close(fd)
                        except OSError:
                            continue
            return 1
        """
        )
    )
    sibling, hostile = await arena.open(source, 2)
    await hostile.call("attack", {"facts": arena.facts})
    outcome = await sibling.call("fine")
    return not sound(outcome)


@probe("the channel")
async def closing_it(arena: Arena) -> bool:
    hostile = await attacker(arena, "def attack():\n    os.closerange(3, 256)\n    time.sleep(1)\n    return 1")
    outcome = await hostile.call("attack")
    return outcome.error != "RAISED"


@probe("the channel")
async def half_an_answer(arena: Arena) -> bool:
    """A header that announces bytes which never come: who waits for them?"""
    hostile = await attacker(
        arena,
        """
        def attack():
            for fd in range(3, 256):
                try:
                    os.write(fd, b"\\x80\\x04\\x95" + b"\\xff" * 4 + bytes(4))
                    os.write(fd, bytes(6))
                except OSError:
                    continue
            time.sleep(30)
        """,
    )
    calling = asyncio.ensure_future(hostile.call("attack"))
    outcome = (await asyncio.wait({calling}, timeout=10))[0]
    bad = not outcome or calling.result().error not in ("RAISED", "TIMED_OUT")
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    return bad


@probe("the channel")
async def code_in_a_pickle(arena: Arena) -> bool:
    """An object that runs code in whoever unpickles it."""
    mark = arena.secrets.folder / "pickled"
    hostile = await attacker(
        arena,
        """
        import pickle
        class _Bomb:
            def __init__(self, path):
                self.path = path
            def __reduce__(self):
                return (open, (self.path, "w"))
        def attack(path):
            data = pickle.dumps(("#1", _Bomb(path)))
            for fd in range(3, 256):
                try:
                    os.write(fd, data)
                except OSError:
                    continue
            return _Bomb(path)
        """,
    )
    await hostile.call("attack", {"path": str(mark)})
    return mark.exists()


@probe("the channel")
async def patching_what_encodes_results(arena: Arena) -> bool:
    """At load and in a call: another session, and another toolset, must not feel it."""
    source = dedent(
        """
        import json, pickle, builtins
        def _patch():
            real = json.dumps
            json.dumps = lambda value, *rest, **more: real({"a": "forged"})
            json.JSONEncoder.encode = lambda self, value: '{"a":"forged"}'
            json.loads = lambda *_, **__: {}
            builtins.repr = lambda value: "forged"
        _patch()
        def attack():
            _patch()
            return 1
        """
    )
    try:
        hostile = (await arena.open(source))[0]
        await hostile.call("attack")
    except ToolsetRejected:  # it has broken the process that loads it, and nothing else
        pass
    victim = (await arena.open(VICTIM))[0]
    return not sound(await victim.call("fine"))


# --- results ----------------------------------------------------------------------------------------------------------


async def _accepted(arena: Arena, expression: str) -> bool:
    outcome = await (await attacker(arena, f"def attack(): return {expression}")).call("attack")
    if outcome.text is None:
        return outcome.error in ("DEAD", "HANGS")
    return True


@probe("results")
async def not_a_number(arena: Arena) -> bool:
    return await _accepted(arena, "{'x': float('nan')}")


@probe("results")
async def a_huge_integer(arena: Arena) -> bool:
    return await _accepted(arena, "10 ** 400")


@probe("results")
async def a_lone_surrogate(arena: Arena) -> bool:
    return await _accepted(arena, "'\\ud800'")


@probe("results")
async def deep_nesting(arena: Arena) -> bool:
    return await _accepted(arena, "__import__('functools').reduce(lambda inner, _: [inner], range(500), 1)")


@probe("results")
async def a_subclass_that_lies(arena: Arena) -> bool:
    """A number whose text is another one when it is written."""
    outcome = await (
        await attacker(
            arena,
            """
            class Liar(int):
                def __repr__(self): return "1e999"
                __str__ = __repr__
            class Late(dict):
                def items(self): return [("a", float("nan"))]
            def attack(): return [Liar(1), Late(a=1)]
            """,
        )
    ).call("attack")
    if outcome.text is None:
        return outcome.error in ("DEAD", "HANGS")
    return outcome.text not in ('[1,{"a":1}]', '[1, {"a": 1}]')
