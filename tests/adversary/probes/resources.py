"""Attacks on what all share: processes, processor, memory, disk, output and time."""

import asyncio
import contextlib
import json
import secrets

from adversary.arenas import Arena, Attacker
from adversary.probing import VICTIM, Topic, any_done, attacker, sound
from astra_sandbox.interface import SandboxError, ToolsetRejected

probe = Topic("resources")


@probe
async def a_fork_bomb(arena: Arena) -> bool:
    return await any_done(
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


@probe
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


@probe
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


@probe
async def threads(arena: Arena) -> bool:
    return await any_done(
        arena,
        """
        import threading
        def attack(facts):
            for _ in range(20):
                threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
            return True
        """,
    )


@probe
async def memory_beyond_the_limit(arena: Arena) -> bool:
    """Private, shared, and in files of a memory file system; the limit is 64 MiB."""
    return await any_done(
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


@probe
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


@probe
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


@probe
async def files_that_are_only_mapped(arena: Arena) -> bool:
    """Removed and closed, a file lives on in a mapping of one page of it: can a session keep more than 256 MiB so?"""
    session = await attacker(
        arena,
        """
        _held, _map = [], _libc.mmap  # Python's own would keep the file open
        _map.restype = ctypes.c_void_p
        _map.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        def fill(part):
            block = bytes(1 << 20)
            for number in range(8):
                try:
                    with open("m", "w+b", buffering=0) as file:
                        os.unlink("m")
                        for _ in range(15):
                            file.write(block)
                        address = _map(None, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, file.fileno(), 0)
                        if address != 2**64 - 1:
                            _held.append(address)
                except OSError:
                    break
            return len(_held)
        def kept():
            return sum((15 << 20) + ctypes.string_at(address, 1)[0] for address in _held)
        """,
        call_seconds=15,
        file_bytes=16 << 20,
    )
    return await _filled(session) > 256 << 20


@probe
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


@probe
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


@probe
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


@probe
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


@probe
async def a_flood_of_output(arena: Arena) -> bool:
    outcome = await (await attacker(arena, "def attack(): return 'x' * (8 << 20)")).call("attack")
    return outcome.text is not None


@probe
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


@probe
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


@probe
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


@probe
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
