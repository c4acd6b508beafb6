"""Attacks on the server: its environment, memory, files, descriptors, and what only it may know."""

from textwrap import dedent

from adversary.arenas import Arena, canary
from adversary.probing import PEEK, PRELUDE, VICTIM, Topic, says

probe = Topic("the server")


@probe
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


@probe
async def its_memory_through_proc(arena: Arena) -> bool:
    return await _server_memory(arena, "lambda pid, start, size: _peek(pid, start, size)")


@probe
async def its_memory_through_a_system_call(arena: Arena) -> bool:
    return await _server_memory(arena, "lambda pid, start, size: _vm_read(pid, start, size)")


async def _server_memory(arena: Arena, read: str) -> bool:
    secret = canary()
    victim = (await arena.open(VICTIM))[0]
    await victim.call("hold", {"item": secret})
    found = await says(
        arena,
        PEEK
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


@probe
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


@probe
async def files_by_paths_with_dots(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            return _canaries(_read("../" * 20 + path.lstrip("/")) for path in facts["files"])
        """,
    )
    return arena.secrets.file in found


@probe
async def the_service_account_token(arena: Arena) -> bool:
    found = await says(arena, "def attack(facts): return _canaries(_read(path) for path in facts['tokens'])")
    return arena.secrets.token in found


@probe
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


@probe
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


@probe
async def the_gold_answer(arena: Arena) -> bool:
    """What the caller knows and the tools must not: the naive server is handed the whole environment."""
    answer = canary()
    source = (
        PRELUDE
        + PEEK
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
