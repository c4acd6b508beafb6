"""SandboxClient: one Sandbox over many servers. Back-off, idempotent retries, and replay of sessions that got lost.

A session is (toolset, seed, variant, call log); the client holds the log, so a lost server costs a replay and
nothing else: the caller never notices.
"""

import asyncio
import contextlib
import random
import uuid
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import grpc

from astra_api.canonical import NotCanonicalError
from astra_api.records import CallRecord, SessionLimits, ToolError, ToolOutcome, Toolset
from astra_api.sandbox.v1 import sandbox_pb2 as pb
from astra_sandbox import limits as session_limits
from astra_sandbox.interface import (
    CapacityExhausted,
    Isolation,
    ReplayDiverged,
    SandboxError,
    SandboxStatus,
    SandboxUnavailable,
    Session,
    SessionLost,
    ToolsetRejected,
    past_outcome,
)
from astra_sandbox.link import ClientTls, Link, ServerError
from astra_sandbox.wire import MESSAGE_BYTES, limits_to_wire, outcome_from_wire, toolset_to_wire, unsendable

_GONE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)
_FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
_PASSING = (*_GONE, _FULL)  # the same request may succeed later, or elsewhere
_ANSWER_SECONDS = 60.0  # beyond a call's own limit: waiting in line, forking and replaying on a busy server


@dataclass(frozen=True)
class Retry:
    """Exponential back-off with full jitter: waits of up to `first` seconds, doubling up to `longest`."""

    budget: float = 60.0  # seconds spent on one operation before it is given up
    first: float = 0.05
    longest: float = 2.0

    async def attempts(self) -> AsyncIterator[bool]:
        """Yields after each wait; True for the last attempt that the budget allows."""
        loop = asyncio.get_running_loop()
        end, wait = loop.time() + self.budget, self.first
        while True:
            last = loop.time() >= end
            yield last
            if last:
                return
            await asyncio.sleep(min(random.uniform(0, wait), max(0.0, end - loop.time())))
            wait = min(2 * wait, self.longest)


class SandboxClient:
    """A Sandbox over the servers at `addresses` (`host:port` or `unix:path`).

    Usable from several event loops and after a fork: each loop gets connections of its own.
    """

    def __init__(self, addresses: Sequence[str], tls: ClientTls | None = None, *, retry: Retry | None = None) -> None:
        if not addresses:
            raise ValueError("addresses: give at least one server")
        self.addresses = tuple(addresses)
        self.retry = retry or Retry()
        self.replays = 0
        self._tls = tls
        self._links: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[Link]] = weakref.WeakKeyDictionary()

    @property
    def secured(self) -> bool:
        """Whether its connections carry a certificate."""
        return self._tls is not None

    @property
    def links(self) -> list[Link]:
        """The connections of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._links:
            self._links[loop] = [Link(address, self._tls) for address in self.addresses]
        return self._links[loop]

    async def open_sessions(
        self,
        toolset: Toolset,
        count: int,
        *,
        seed: int = 0,
        limits: SessionLimits | None = None,
        variant: int = 0,
    ) -> list[Session]:
        """Opens a group on the server with the fewest sessions. Raises SandboxError's children."""
        try:
            origin = _Origin(toolset, seed, limits, variant)
        except NotCanonicalError as error:
            raise ToolsetRejected(f"the toolset has no canonical JSON: {error}") from None
        link, ids = await self.place(origin, count)
        return [_RemoteSession(self, origin, link, session_id) for session_id in ids]

    async def place(self, origin: "_Origin", count: int) -> tuple[Link, list[str]]:
        """Opens `count` sessions on one server, trying them all until the retry budget ends."""
        request = origin.request(count)
        full, faults = 0, ["no server was tried"]
        async for _ in self.retry.attempts():
            full, faults = 0, []
            for link in sorted(self.links, key=lambda link: (link.open_sessions, random.random())):
                link.open_sessions += count  # now: others choose by it while this one waits
                try:
                    return link, await self._open(link, request, origin.toolset)
                except ServerError as error:
                    link.open_sessions -= count
                    if error.code is grpc.StatusCode.FAILED_PRECONDITION:
                        raise ToolsetRejected(str(error)) from None
                    if error.code not in _PASSING:
                        raise SandboxError(f"{link.address}: {error.code.name}: {error}") from None
                    full += error.code is _FULL
                    faults.append(f"{link.address}: {error}")
                except BaseException:
                    link.open_sessions -= count
                    raise
        kind = CapacityExhausted if full else SandboxUnavailable
        raise kind(f"after {self.retry.budget:g} s: " + "; ".join(faults))

    async def _open(self, link: Link, request: pb.OpenSessionsRequest, toolset: Toolset) -> list[str]:
        try:
            return await link.open(request)
        except ServerError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
        put = toolset_to_wire(toolset)
        if put.ByteSize() > MESSAGE_BYTES:
            raise ToolsetRejected(f"the toolset takes {put.ByteSize()} bytes; at most {MESSAGE_BYTES} can be sent")
        try:
            await link.put(put)
        except ServerError as error:
            if error.code is grpc.StatusCode.INVALID_ARGUMENT:
                raise ToolsetRejected(str(error)) from None
            raise
        return await link.open(request)

    async def status(self) -> list[SandboxStatus]:
        """One entry a server. Raises SandboxUnavailable if one does not answer."""
        return list(await asyncio.gather(*(self._status(link) for link in self.links)))

    async def _status(self, link: Link) -> SandboxStatus:
        async for last in self.retry.attempts():
            try:
                status = await link.status()
                break
            except ServerError as error:
                if last or error.code not in _GONE:
                    raise SandboxUnavailable(f"{link.address}: {error}") from None
        return SandboxStatus(
            address=link.address,
            isolation=Isolation(status.isolation),
            measures=tuple(status.measures),
            capacity=status.capacity,
            sessions=status.sessions,
            toolsets=status.toolsets,
            version=status.version,
        )

    async def close(self) -> None:
        """Closes the connections of this event loop; sessions that are still open end on the servers."""
        for link in self._links.pop(asyncio.get_running_loop(), []):
            await link.close()


class _Origin:
    """What a session is made from; with its log, all that it is."""

    def __init__(self, toolset: Toolset, seed: int, limits: SessionLimits | None, variant: int) -> None:
        self.toolset = toolset
        self.digest = toolset.digest
        self._fields = {"seed": seed, "limits": limits_to_wire(limits), "variant": variant}
        granted = session_limits.DEFAULT.for_session(limits, session_limits.MAXIMUM)
        self.answer_seconds = granted.call_seconds + _ANSWER_SECONDS

    def request(self, count: int) -> pb.OpenSessionsRequest:
        """A request of its own id: its retries give the same sessions."""
        fresh = uuid.uuid4().hex
        return pb.OpenSessionsRequest(request_id=fresh, digest=self.digest, count=count, **self._fields)  # type: ignore[arg-type]


class _RemoteSession:
    """A session on some server; on which one may change, its log may not."""

    def __init__(self, client: SandboxClient, origin: _Origin, link: Link, session_id: str) -> None:
        self._client, self._origin, self._link, self._id = client, origin, link, session_id
        self._log: list[CallRecord] = []
        self._lock = asyncio.Lock()
        self._closed = False

    @property
    def id(self) -> str:
        return self._id

    @property
    def log(self) -> Sequence[CallRecord]:
        return tuple(self._log)

    async def call(self, tool: str, arguments_json: str, *, call_id: str | None = None) -> ToolOutcome:
        """Runs one call, after those before it. Raises SandboxError; ValueError for a call_id used for another call."""
        async with self._lock:
            if (past := past_outcome(self._log, call_id, tool, arguments_json)) is not None:
                return past
            name = call_id if call_id is not None else f"#{len(self._log)}"
            outcome = unsendable(tool, arguments_json) or await self._run(name, tool, arguments_json)
            self._log.append(CallRecord(call_id=name, tool=tool, arguments_json=arguments_json, outcome=outcome))
            return outcome

    async def close(self) -> None:
        """Frees the session; a server that cannot be reached frees it by itself."""
        if self._closed:
            return
        self._closed = True
        self._link.open_sessions -= 1
        try:
            await self._link.close_sessions([self._id])
        except ServerError as error:
            if error.code not in _GONE:
                raise SandboxError(f"{self._link.address}: {error}") from None

    async def _run(self, call_id: str, tool: str, arguments_json: str) -> ToolOutcome:
        """One call, on as many servers as it takes. Each retry carries the call_id: none runs twice in one session."""
        if self._closed:
            raise SandboxError("the session is closed")
        fault = ""
        async for last in self._client.retry.attempts():
            try:
                return await self._send(call_id, tool, arguments_json)
            except ServerError as error:
                if error.code is grpc.StatusCode.DATA_LOSS:
                    raise ReplayDiverged(str(error)) from None
                if error.code not in _PASSING:
                    raise SandboxError(f"{self._link.address}: {error.code.name}: {error}") from None
                fault, lost, full = str(error), error.code is grpc.StatusCode.NOT_FOUND, error.code is _FULL
            if last:
                break
            if full:
                continue  # the session is there, and too much waits in it
            if not lost:  # the way to the server broke; the session may still be there, and then goes on
                try:
                    return await self._send(call_id, tool, arguments_json)
                except ServerError as error:
                    if error.code not in _PASSING:
                        raise SandboxError(f"{self._link.address}: {error.code.name}: {error}") from None
            try:
                await self._move()
            except ServerError as error:
                fault = str(error)
        raise SessionLost(f"{fault}; given up after {self._client.retry.budget:g} s")

    async def _move(self) -> None:
        """Opens the session anew, where there is room, and repeats its log there. Raises ServerError to try again."""
        try:
            link, ids = await self._client.place(self._origin, 1)
        except (SandboxUnavailable, CapacityExhausted) as error:
            raise SessionLost(f"no server takes the session over: {error}") from None
        try:
            await self._repeat_log(link, ids[0])
        except BaseException:  # a session with a part of the log must never answer
            link.open_sessions -= 1
            with contextlib.suppress(ServerError):
                await link.close_sessions(ids)
            raise
        self._link.open_sessions -= 1
        self._link, self._id = link, ids[0]

    async def _repeat_log(self, link: Link, session_id: str) -> None:
        self._client.replays += 1
        for past in self._log:
            if isinstance(past.outcome, ToolError) and past.outcome.ended_process:
                continue
            if unsendable(past.tool, past.arguments_json):
                continue
            outcome = await self._send_to(link, session_id, past.call_id, past.tool, past.arguments_json)
            if outcome != past.outcome:
                raise ReplayDiverged(f"call {past.call_id!r} of tool {past.tool!r} answered differently when repeated")

    async def _send(self, call_id: str, tool: str, arguments_json: str) -> ToolOutcome:
        return await self._send_to(self._link, self._id, call_id, tool, arguments_json)

    async def _send_to(self, link: Link, session_id: str, call_id: str, tool: str, arguments_json: str) -> ToolOutcome:
        request = pb.CallToolRequest(session_id=session_id, call_id=call_id, tool=tool, arguments_json=arguments_json)
        return outcome_from_wire(await link.call(request, self._origin.answer_seconds))
