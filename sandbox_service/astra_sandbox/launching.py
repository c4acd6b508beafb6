"""Sandbox servers on this machine, in the strongest containment that works here.

    gvisor       runsc: a user-space kernel
    docker       a container of a Docker engine that has runsc (extra [docker]); gVisor as well
    namespaces   bubblewrap: namespaces of this kernel
    process      processes with limits, no more

Each is *tried*: a server is started and asked what contains it. What fails is recorded, and the next one is taken,
down to the minimum that was asked for.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.interface import Isolation, SandboxUnavailable
from astra_sandbox.placing import PLACES, LaunchError, Place, Running

LEVEL_VARIABLE = "ASTRA_ISOLATION"
_START_SECONDS = 120.0
_RESTART_PAUSE = 0.2
_SOCKET_PATH = 107  # bytes that the kernel takes for a socket's path
_BELOW = 55  # bytes of the longest path below the folder of all servers: runsc's own socket
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


class LocalSandbox(SandboxClient):
    """A SandboxClient whose servers run here, and what contains them."""

    isolation: Isolation
    containment: str  # one line for people
    servers: "list[LocalServer]"


@dataclass
class LocalServer:
    """One server on this machine. It is started anew when it ends; its clients then replay their sessions."""

    place: Place
    folder: Path
    capacity: int
    running: Running
    restarts: int = 0

    @property
    def address(self) -> str:
        return f"unix:{self.folder / 'server.sock'}"

    async def keep_up(self) -> None:
        """Restarts the server whenever it ends, until cancelled."""
        while True:
            await self.running.wait()
            await asyncio.sleep(_RESTART_PAUSE)
            with contextlib.suppress(LaunchError):  # it is tried again; clients see UNAVAILABLE in the meantime
                self.running = await self.place.start(self.folder, self.capacity)
                self.restarts += 1


@contextlib.asynccontextmanager
async def launch_local(
    servers: int = 1,
    minimum: Isolation | None = None,
    level: Isolation | None = None,
    *,
    capacity: int = 512,
    retry: Retry | None = None,
) -> AsyncIterator[LocalSandbox]:
    """Starts servers and yields a client of them; on leaving, all is ended and removed.

    `level` takes exactly that containment, `minimum` nothing weaker; by default the strongest that works.
    The environment variable ASTRA_ISOLATION (process, namespaces, gvisor) stands in for `level`.
    Raises SandboxUnavailable with the reason of every attempt.
    """
    wanted = level or _level_of_environment()
    places = [
        place
        for place in PLACES
        if (wanted is None or place.isolation == wanted) and place.isolation >= (minimum or Isolation.PROCESS)
    ]
    if not places:
        raise SandboxUnavailable(
            f"{wanted.name.lower() if wanted else ''} containment is weaker than the minimum asked"
        )
    with _folder() as folder:
        first, reasons = await _strongest(places, folder, capacity)
        started = [first]
        keepers: list[asyncio.Task[None]] = []
        client = None
        try:
            for index in range(1, servers):
                started.append(await _start(first.place, folder / str(index), capacity))
            client = LocalSandbox([server.address for server in started], retry=retry)
            status = (await client.status())[0]
            client.servers, client.isolation = started, status.isolation
            client.containment = _describe(first.place, status.isolation, reasons)
            keepers += [asyncio.ensure_future(server.keep_up()) for server in started]
            yield client
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            if client is not None:
                await client.close()
            await asyncio.gather(*(server.running.stop() for server in started))


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for servers, removed on leaving. Where TMPDIR is no place for sockets, it is a link to it."""
    with contextlib.ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="astra-", ignore_cleanup_errors=True)))
        yield made if _holds_sockets(made) else stack.enter_context(_short_link(made))


@contextlib.contextmanager
def _short_link(target: Path) -> Iterator[Path]:
    for parent in filter(None, (os.environ.get("XDG_RUNTIME_DIR"), *_SHORT_FOLDERS)):
        if not _holds_sockets(Path(parent, "astra-12345678", "s")):
            continue
        try:
            made = tempfile.TemporaryDirectory(prefix="astra-", dir=parent)
        except OSError:
            continue
        with made as folder:
            link = Path(folder, "s")
            link.symlink_to(target)
            yield link
        return
    raise SandboxUnavailable(
        f"sockets cannot be made in {target}, nor in a shorter folder: set TMPDIR to one that can be written, "
        f"has no comma in its name and {_SOCKET_PATH - _BELOW - len('/astra-12345678')} bytes at most"
    )


def _holds_sockets(folder: Path) -> bool:
    """Whether the kernel takes the paths of sockets in it; where there is a comma, gRPC takes one for two addresses."""
    return len(os.fsencode(folder)) + _BELOW <= _SOCKET_PATH and "," not in str(folder)


async def _strongest(places: list[Place], folder: Path, capacity: int) -> tuple[LocalServer, list[str]]:
    reasons: list[str] = []
    for place in places:
        try:
            server = await _start(place, folder / f"0-{place.name}", capacity)
        except LaunchError as error:
            reasons.append(f"{place.name}: {error}")
            continue
        return server, reasons
    raise SandboxUnavailable("no containment that was asked for works here: " + "; ".join(reasons))


async def _start(place: Place, folder: Path, capacity: int) -> LocalServer:
    """A server that answers, in the containment that its place promises. Raises LaunchError."""
    os.mkdir(folder, mode=0o700)
    server = LocalServer(place, folder, capacity, await place.start(folder, capacity))
    client = SandboxClient([server.address], retry=Retry(budget=_START_SECONDS, longest=0.2))
    asked = asyncio.ensure_future(client.status())
    ended = asyncio.ensure_future(server.running.wait())
    try:
        await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            raise LaunchError(f"the server ended: {server.running.last_words()}")
        try:
            found = asked.result()[0].isolation
        except SandboxUnavailable as error:
            raise LaunchError(f"the server does not answer: {error} {server.running.last_words()}") from None
        if found < place.isolation:
            raise LaunchError(f"the server finds itself in no more than {found.name.lower()}")
    except BaseException:
        await server.running.stop()
        raise
    finally:
        asked.cancel()
        ended.cancel()
        await asyncio.gather(asked, ended, return_exceptions=True)
        await client.close()
    return server


def _describe(place: Place, isolation: Isolation, reasons: list[str]) -> str:
    line = f"sandbox containment: {isolation.name.lower()} ({place.meaning})"
    return line + ("" if not reasons else "; not in force: " + "; ".join(reasons))


def _level_of_environment() -> Isolation | None:
    text = os.environ.get(LEVEL_VARIABLE, "").strip()
    if not text:
        return None
    try:
        return Isolation[text.upper()]
    except KeyError:
        names = ", ".join(level.name.lower() for level in Isolation)
        raise SandboxUnavailable(f"{LEVEL_VARIABLE}={text}: give one of {names}") from None
