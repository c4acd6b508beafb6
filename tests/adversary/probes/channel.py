"""Attacks on the channel that answers come through: forging, closing, breaking, and patching what writes to it."""

import asyncio
from textwrap import dedent

from adversary.arenas import Arena
from adversary.probing import PRELUDE, VICTIM, Topic, attacker, sound
from astra_sandbox.interface import ToolsetRejected

probe = Topic("the channel")

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


@probe
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


@probe
async def an_answer_to_a_call_of_another_session(arena: Arena) -> bool:
    """Through the descriptors of siblings, were they inherited, and through /proc."""
    source = (
        VICTIM
        + PRELUDE
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


@probe
async def closing_it(arena: Arena) -> bool:
    hostile = await attacker(arena, "def attack():\n    os.closerange(3, 256)\n    time.sleep(1)\n    return 1")
    outcome = await hostile.call("attack")
    return outcome.error != "RAISED"


@probe
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


@probe
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


@probe
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
