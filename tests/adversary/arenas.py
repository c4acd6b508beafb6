"""Where probes run: `Contained`, a real server at some level, and `Naive`, the positive control."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from astra_api.records import SessionLimits, ToolError, ToolResult, Toolset, ToolSpec
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.interface import Isolation, SandboxError, Session
from astra_sandbox.launching import LocalSandbox, launch_local
from astra_sandbox.placing import InGvisor
from astra_sandbox.server.containment import may_change_user

TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
LEVELS = ("process", "namespaces", "gvisor", "pod")
LIMITS = SessionLimits(call_seconds=3, memory_bytes=64 << 20, file_bytes=1 << 20, output_bytes=1 << 20)
_ANSWER_SECONDS = 25.0


def canary() -> str:
    """A secret that an attack can recognise but not guess."""
    return f"canary-{secrets.token_hex(16)}"


@dataclass(frozen=True)
class Outcome:
    """What one call gave: a JSON text, or a kind of error and its message."""

    text: str | None
    error: str = ""
    message: str = ""


class Attacker(Protocol):
    """One session, as a probe uses it."""

    async def call(self, tool: str, arguments: dict[str, Any] | None = None) -> Outcome: ...

    async def close(self) -> None: ...


@dataclass
class Secrets:
    """What a server holds and a session must not get, planted before the server starts."""

    folder: Path
    environment: str = field(default_factory=canary)
    file: str = field(default_factory=canary)
    token: str = field(default_factory=canary)
    service: str = field(default_factory=canary)

    @property
    def token_file(self) -> Path:
        """Where a token lies outside of a pod."""
        return self.folder / "token"

    @property
    def files(self) -> list[Path]:
        """Files of the server: one for everybody to read, one like a TLS key, in the home."""
        return [self.folder / "open.txt", self.folder / "tls.key", Path.home() / f".{self.folder.name}"]

    @contextlib.contextmanager
    def planted(self) -> Any:
        """Writes them, and removes them again."""
        self.folder.chmod(0o755)
        for path in self.files:
            path.write_text(self.file)
            path.chmod(0o644 if path.name == "open.txt" else 0o600)
        self.token_file.write_text(self.token)
        try:
            yield
        finally:
            self.files[2].unlink(missing_ok=True)


class Arena(Protocol):
    """A place for probes."""

    name: str
    secrets: Secrets

    @property
    def facts(self) -> dict[str, Any]:
        """What an attacker could learn by itself, given as arguments: process ids, ports, paths."""
        ...

    async def open(self, source: str, count: int = 1, *, extra: Any = None, **limits: Any) -> list[Attacker]:
        """Sessions of a source. `extra`: what the caller knows and must not hand over (a naive server gets it)."""
        ...

    def escaped(self, name: str) -> bool:
        """Whether a process with this name runs on the machine."""
        ...


def toolset_of(source: str) -> Toolset:
    """The toolset of a source: every function of it that is a tool."""
    names = [line[4 : line.index("(")] for line in source.splitlines() if line.startswith("def ") and line[4] != "_"]
    specs = tuple(ToolSpec(name=name, description="", parameters={"type": "object"}) for name in names)
    return Toolset(tools=specs, source=source, state="stateful")


class Contained:
    """A real server."""

    def __init__(self, name: str, client: SandboxClient, held: Secrets, service: dict[str, Any]) -> None:
        self.name, self.secrets, self._client, self._service = name, held, client, service
        self._opened: list[Session] = []

    @property
    def facts(self) -> dict[str, Any]:
        pids = []
        if isinstance(self._client, LocalSandbox):
            pids = [server.running.pid for server in self._client.servers if server.running.pid]
        address = self._client.addresses[0].removeprefix("unix:")
        return self._service | {
            "pids": pids,
            "files": [*map(str, self.secrets.files), "/run/astra/open.txt", "/keys/tls.key"],
            "sockets": [address, "/run/astra/server.sock"],
            "tokens": [str(TOKEN), str(self.secrets.token_file)],
            "naive": False,
        }

    @property
    def restarts(self) -> int:
        """How often the server had to be started anew."""
        return sum(server.restarts for server in self._client.servers) if isinstance(self._client, LocalSandbox) else 0

    async def open(self, source: str, count: int = 1, *, extra: Any = None, **limits: Any) -> list[Attacker]:
        granted = LIMITS.model_copy(update=limits)
        sessions = await self._client.open_sessions(toolset_of(source), count, limits=granted)
        self._opened += sessions
        return [_ContainedAttacker(session) for session in sessions]

    async def close_all(self) -> None:
        """Closes what probes opened."""
        for session in self._opened:
            with contextlib.suppress(SandboxError):
                await session.close()
        self._opened.clear()

    def escaped(self, name: str) -> bool:
        return _runs(name)


class _ContainedAttacker:
    def __init__(self, session: Session) -> None:
        self._session = session

    async def call(self, tool: str, arguments: dict[str, Any] | None = None) -> Outcome:
        try:
            outcome = await self._session.call(tool, json.dumps(arguments or {}))
        except SandboxError as error:
            return Outcome(None, type(error).__name__, str(error))
        if isinstance(outcome, ToolError):
            return Outcome(None, outcome.kind.value, outcome.message)
        assert isinstance(outcome, ToolResult)
        return Outcome(outcome.json_text)

    async def close(self) -> None:
        await self._session.close()


class Naive:
    """The naive server, fresh for one probe."""

    name = "control"

    def __init__(self, held: Secrets, process: asyncio.subprocess.Process, service: dict[str, Any]) -> None:
        self.secrets, self._process, self._service = held, process, service
        self._lock = asyncio.Lock()
        self._calls = 0

    @property
    def facts(self) -> dict[str, Any]:
        return self._service | {
            "pids": [self._process.pid],
            "files": [*map(str, self.secrets.files)],
            "sockets": ["\0astra-adversary-control"],
            "tokens": [str(self.secrets.token_file)],
            "naive": True,
        }

    async def open(self, source: str, count: int = 1, *, extra: Any = None, **limits: Any) -> list[Attacker]:
        granted = LIMITS.model_copy(update=limits).model_dump()
        order = {"open": source, "limits": granted, "extra": extra}
        return [_NaiveAttacker(self, (await self.order(order)).get("session", "")) for _ in range(count)]

    async def order(self, order: dict[str, Any]) -> dict[str, Any]:
        """One order and its answer. Raises EOFError or TimeoutError when the server is dead or hangs."""
        async with self._lock, asyncio.timeout(_ANSWER_SECONDS):
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()
            try:
                answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
            except ValueError:
                raise EOFError("the naive server died, or somebody else wrote its answer") from None
        return answer

    async def call(self, session: str, tool: str, arguments: dict[str, Any] | None) -> Outcome:
        """One call of a session."""
        self._calls += 1
        order = {"call": session, "tool": tool, "arguments": arguments or {}, "call_id": f"#{self._calls}"}
        try:
            answer = await self.order(order)
        except (EOFError, ConnectionError) as error:
            return Outcome(None, "DEAD", str(error))
        except TimeoutError:
            return Outcome(None, "HANGS", "")
        if answer.get("kind") == "error":
            return Outcome(None, "RAISED", answer.get("value", ""))
        return Outcome(json.dumps(answer.get("value", "")))

    def escaped(self, name: str) -> bool:
        return _runs(name)


class _NaiveAttacker:
    def __init__(self, arena: Naive, session: str) -> None:
        self._arena, self._session = arena, session

    async def call(self, tool: str, arguments: dict[str, Any] | None = None) -> Outcome:
        return await self._arena.call(self._session, tool, arguments)

    async def close(self) -> None:
        await self._arena.order({"close": self._session})


class InPod(InGvisor):
    """gVisor as a pod of the farm has it: another user than root, no capabilities, keys and a token mounted beside."""

    def __init__(self, held: Secrets) -> None:
        super().__init__()
        object.__setattr__(self, "held", held)

    def _configuration(self, folder: Path, capacity: int) -> dict[str, Any]:
        held: Secrets = self.held  # type: ignore[attr-defined]
        keys, token = folder / "keys", folder / "token"
        for place, name, text in ((keys, "tls.key", held.file), (token, "token", held.token)):
            place.mkdir(exist_ok=True)
            (place / name).write_text(text)
            (place / name).chmod(0o644)
            place.chmod(0o755)
        folder.chmod(0o777)
        configuration = super()._configuration(folder, capacity)
        configuration["process"]["user"] = {"uid": 10001, "gid": 10001}
        configuration["process"]["env"] += [f"TLS_SECRET={held.environment}"]
        configuration["mounts"] += [
            {"destination": "/keys", "type": "bind", "source": str(keys), "options": ["ro", "rbind"]},
            {"destination": str(TOKEN.parent), "type": "bind", "source": str(token), "options": ["ro", "rbind"]},
        ]
        return configuration


@contextlib.asynccontextmanager
async def contained(level: str) -> AsyncIterator[Contained]:
    """A server at a level, with its secrets."""
    with tempfile.TemporaryDirectory(prefix="adv-") as folder:
        held = Secrets(Path(folder))
        with held.planted():
            os.environ["ASTRA_ADVERSARY_SECRET"] = held.environment
            try:
                async with _services(held.service) as service:
                    if level == "pod":
                        async with _pod(Path(folder), held) as client:
                            yield Contained(level, client, held, service)
                        return
                    wanted = Isolation[level.upper()]
                    async with launch_local(level=wanted, capacity=64, retry=Retry(budget=60)) as client:
                        yield Contained(level, client, held, service)
            finally:
                del os.environ["ASTRA_ADVERSARY_SECRET"]


@contextlib.asynccontextmanager
async def _pod(folder: Path, held: Secrets) -> AsyncIterator[SandboxClient]:
    place = folder / "pod"
    place.mkdir()
    running = await InPod(held).start(place, 64)
    client = SandboxClient([f"unix:{place}/server.sock"], retry=Retry(budget=60))
    try:
        yield client
    finally:
        await client.close()
        await running.stop()


@contextlib.asynccontextmanager
async def naive() -> AsyncIterator[Naive]:
    """A naive server, with its secrets; it and all that it left are killed at the end."""
    with tempfile.TemporaryDirectory(prefix="adv-") as folder:
        held = Secrets(Path(folder))
        with held.planted():
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(Path(__file__).with_name("naive.py")),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=os.environ | {"NAIVE_SECRET": held.environment, "NAIVE_FILE": str(held.files[0])},
                cwd=folder,
                limit=1 << 26,
                start_new_session=True,
            )
            held.service = held.environment
            try:
                assert process.stdout is not None
                yield Naive(held, process, json.loads(await process.stdout.readline()))
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
                _remove_leftovers()
                for pid in _named("esc-"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def _services(secret: str) -> AsyncIterator[dict[str, Any]]:
    """Services on this machine's loopback, beside the server; each answers with a secret."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(secret.encode())
        writer.close()

    class Datagrams(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, peer: Any) -> None:
            self.transport.sendto(secret.encode(), peer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
    try:
        yield {
            "port": server.sockets[0].getsockname()[1],
            "dns": transport.get_extra_info("sockname")[1],
        }
    finally:
        transport.close()
        server.close()
        await server.wait_closed()


def _remove_leftovers() -> None:
    for folder in ("/tmp", "/dev/shm", "/var/tmp"):
        for left in Path(folder).glob("leftover-*"):
            left.unlink(missing_ok=True)


def missing(level: str) -> str | None:
    """What a level needs and is not to be had here."""
    if level == "pod" and not may_change_user():
        return "root, for a pod's user is another"
    program = {"namespaces": "bwrap", "gvisor": "runsc", "pod": "runsc"}.get(level)
    return program if program and shutil.which(program) is None else None


def _named(prefix: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if (folder / "comm").read_text().startswith(prefix) and not zombie:
                found.append(int(folder.name))
    return found


def _runs(name: str) -> bool:
    return bool(_named(name))
