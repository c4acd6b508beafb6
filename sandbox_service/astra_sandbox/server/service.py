"""SandboxService: the gRPC surface over sessions. It maps what goes wrong to status codes and keeps the counts."""

import asyncio
import functools
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc

from astra_api.sandbox.v1 import sandbox_pb2 as pb
from astra_api.sandbox.v1 import sandbox_pb2_grpc as stubs
from astra_sandbox import limits
from astra_sandbox.interface import Isolation
from astra_sandbox.server.disks import Changes
from astra_sandbox.server.guard import Guard
from astra_sandbox.server.memory import Memory
from astra_sandbox.server.metrics import Metrics
from astra_sandbox.server.sessions import CallConflictError, OverloadError, ReplayError, ServerSession, SessionGoneError
from astra_sandbox.server.templates import LoadRejectedError, Templates, WorkerLostError, new_session_id
from astra_sandbox.server.toolsets import BadToolsetError, ToolsetStore
from astra_sandbox.wire import limits_from_wire, toolset_from_wire

_CODES: dict[type[Exception], grpc.StatusCode] = {
    SessionGoneError: grpc.StatusCode.NOT_FOUND,
    ReplayError: grpc.StatusCode.DATA_LOSS,
    CallConflictError: grpc.StatusCode.INVALID_ARGUMENT,
    BadToolsetError: grpc.StatusCode.INVALID_ARGUMENT,
    LoadRejectedError: grpc.StatusCode.FAILED_PRECONDITION,
    WorkerLostError: grpc.StatusCode.UNAVAILABLE,
    OverloadError: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_REMEMBERED_REQUESTS = 4096
_STREAM_BACKLOG = 1024  # calls of one stream that may be under way


@dataclass(frozen=True)
class Policy:
    """What a server allows."""

    capacity: int = 512
    idle_seconds: float = 900.0
    default_limits: limits.Limits = limits.DEFAULT
    maximum_limits: limits.Limits = limits.MAXIMUM


class SandboxService(stubs.SandboxServiceServicer):
    """The service of one server process; all of it runs on one event loop."""

    def __init__(self, templates: Templates, policy: Policy, memory: Memory, disks: Changes) -> None:
        self.isolation = Isolation.PROCESS
        self.measures: tuple[str, ...] = ()
        self.draining = False
        self.sessions: dict[str, ServerSession] = {}
        self._templates, self._policy, self._memory = templates, policy, memory
        self._toolsets = ToolsetStore()
        self.guard = Guard(self.sessions, memory, templates, disks)
        self._opening = 0
        self.metrics = Metrics()
        self._watch_counts()
        self._emptied = asyncio.Event()
        self._requests: OrderedDict[str, tuple[bytes, asyncio.Task[list[str]]]] = OrderedDict()

    def _watch_counts(self) -> None:
        gauge = self.metrics.gauge
        gauge("capacity", "Sessions at most", lambda: self._policy.capacity)
        gauge("sessions", "Sessions open", lambda: len(self.sessions))
        gauge("toolsets", "Toolsets stored", lambda: len(self._toolsets))
        gauge("isolation", "1 process, 2 namespaces, 3 gvisor", lambda: self.isolation.value)
        gauge("draining", "Whether new sessions are refused for good", lambda: self.draining)
        gauge("memory_limit_bytes", "Memory of this pod or machine", lambda: self._memory.limit)
        gauge("memory_used_bytes", "Memory in use in it", lambda: self._memory.used())

    async def PutToolset(self, request: pb.PutToolsetRequest, context: Any) -> pb.PutToolsetResponse:
        """Stores a toolset; INVALID_ARGUMENT says what is wrong with it."""
        try:
            return pb.PutToolsetResponse(digest=self._toolsets.put(toolset_from_wire(request)).digest)
        except ValueError as error:
            await _abort(context, BadToolsetError(error))

    async def OpenSessions(self, request: pb.OpenSessionsRequest, context: Any) -> pb.OpenSessionsResponse:
        """Opens a group, or returns the group of a repeated request_id."""
        fingerprint = request.SerializeToString(deterministic=True)
        known = self._requests.get(request.request_id) if request.request_id else None
        if known is not None and known[0] != fingerprint:
            message = f"request_id {request.request_id!r} was used for another request"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        if known is not None:
            task = known[1]
        else:
            await self._refuse_unless_open(request, context)
            task = asyncio.ensure_future(self._open(request))
            if request.request_id:
                self._requests[request.request_id] = (fingerprint, task)
                while len(self._requests) > _REMEMBERED_REQUESTS:
                    self._requests.popitem(last=False)
        try:
            return pb.OpenSessionsResponse(session_ids=await asyncio.shield(task))
        except (LoadRejectedError, WorkerLostError) as error:
            self._requests.pop(request.request_id, None)
            await _abort(context, error)

    async def _refuse_unless_open(self, request: pb.OpenSessionsRequest, context: Any) -> None:
        refusal = self._refusal(request)
        if refusal is not None:
            self.metrics.refused(refusal[0].name)
            await context.abort(*refusal)

    def _refusal(self, request: pb.OpenSessionsRequest) -> tuple[grpc.StatusCode, str] | None:
        if self.draining:
            return grpc.StatusCode.UNAVAILABLE, "the server is draining"
        if not 1 <= request.count <= self._policy.capacity:
            message = f"count: {request.count} is not in 1..{self._policy.capacity}, the server's capacity"
            return grpc.StatusCode.INVALID_ARGUMENT, message
        if self._toolsets.find(request.digest) is None:
            message = f"no toolset {request.digest[:80]!r} here: put it first"
            return grpc.StatusCode.NOT_FOUND, message
        if self.guard.memory_scarce:
            return grpc.StatusCode.RESOURCE_EXHAUSTED, "memory is short: no new sessions for now"
        free = self._policy.capacity - len(self.sessions) - self._opening
        if request.count > free:
            message = f"{request.count} sessions asked, {free} of {self._policy.capacity} free"
            return grpc.StatusCode.RESOURCE_EXHAUSTED, message
        return None

    async def _open(self, request: pb.OpenSessionsRequest) -> list[str]:
        toolset = self._toolsets.find(request.digest)
        assert toolset is not None  # checked in the same turn of the loop
        granted = self._policy.default_limits.for_session(limits_from_wire(request.limits), self._policy.maximum_limits)
        self._opening += request.count
        start = time.perf_counter()
        try:
            processes = await self._templates.fork(toolset, request.variant, request.count, request.seed, granted)
            opened = [
                ServerSession(
                    new_session_id(),
                    toolset,
                    self._templates,
                    process,
                    variant=request.variant,
                    seed=request.seed,
                    limits=granted,
                    on_gone=self._forget,
                    metrics=self.metrics,
                )
                for process in processes
            ]
        finally:
            self._opening -= request.count
        self.sessions.update((session.id, session) for session in opened)
        self.metrics.opened_sessions(request.digest, len(opened), time.perf_counter() - start)
        return [session.id for session in opened]

    def _forget(self, session: ServerSession) -> None:
        self.sessions.pop(session.id, None)
        if not self.sessions:
            self._emptied.set()

    def _submit(self, request: pb.CallToolRequest) -> "asyncio.Future[pb.CallToolResponse]":
        if not request.call_id:
            raise CallConflictError("call_id is empty")
        session = self.sessions.get(request.session_id)
        if session is None:
            raise SessionGoneError(f"no session {request.session_id[:64]!r} here")
        return session.submit(request.call_id, request.tool, request.arguments_json)

    async def CallTool(self, request: pb.CallToolRequest, context: Any) -> pb.CallToolResponse:
        """Runs one call."""
        try:
            return await asyncio.shield(self._submit(request))
        except (SessionGoneError, ReplayError, CallConflictError, OverloadError) as error:
            self.metrics.failed(_CODES[type(error)].name)
            await _abort(context, error)

    async def Rollout(self, requests: AsyncIterator[pb.CallToolRequest], context: Any) -> None:
        """Runs the calls of a stream; a failure answers its own call and leaves the stream alone."""
        stream = _RolloutStream(context)
        writer = asyncio.ensure_future(stream.write_all())
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                try:
                    stream.add(request, self._submit(request))
                except (SessionGoneError, CallConflictError, OverloadError) as error:
                    self.metrics.failed(_CODES[type(error)].name)
                    stream.answer(_failure(request, error))
                await stream.room()
            stream.finish()
            await writer
        finally:
            writer.cancel()

    async def CloseSessions(self, request: pb.CloseSessionsRequest, context: Any) -> pb.CloseSessionsResponse:
        """Frees sessions."""
        for session_id in request.session_ids:
            session = self.sessions.get(session_id)
            if session is not None:
                session.close()
        return pb.CloseSessionsResponse()

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        """The counts, and the containment that was measured at start."""
        return pb.GetStatusResponse(
            isolation=self.isolation.value,  # type: ignore[arg-type]
            measures=self.measures,
            capacity=self._policy.capacity,
            sessions=len(self.sessions),
            toolsets=len(self._toolsets),
            version=_version(),
        )

    async def wait_empty(self) -> None:
        """Waits until no session is open."""
        while self.sessions:
            self._emptied.clear()
            await self._emptied.wait()

    async def expire_forever(self) -> None:
        """Closes sessions that nobody has called for `idle_seconds`."""
        idle = self._policy.idle_seconds
        while True:
            await asyncio.sleep(min(30.0, idle / 4))
            now = asyncio.get_running_loop().time()
            for session in list(self.sessions.values()):
                if not session.busy and now - session.last_used > idle:
                    session.close("the session expired")


class _RolloutStream:
    """The answers of one stream, written one at a time in the order in which calls finish."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._answers: deque[pb.CallToolResponse] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._pending = 0
        self._finished = False

    def add(self, request: pb.CallToolRequest, future: "asyncio.Future[pb.CallToolResponse]") -> None:
        """Answers `request` when `future` is done."""
        self._pending += 1
        if future.done():
            self._done(request, future)
        else:
            future.add_done_callback(functools.partial(self._done, request))

    async def room(self) -> None:
        """Waits while too many calls are under way, or their answers are not taken."""
        while self._pending + len(self._answers) >= _STREAM_BACKLOG:
            self._room.clear()
            await self._room.wait()

    def answer(self, response: pb.CallToolResponse) -> None:
        """Queues one answer."""
        self._answers.append(response)
        self._wake.set()

    def finish(self) -> None:
        """No more calls will come."""
        self._finished = True
        self._wake.set()

    async def write_all(self) -> None:
        """Writes answers until the last call of a finished stream is answered."""
        while True:
            while self._answers:
                await self._context.write(self._answers.popleft())
                self._room.set()
            if self._finished and not self._pending:
                return
            self._wake.clear()
            await self._wake.wait()

    def _done(self, request: pb.CallToolRequest, future: "asyncio.Future[pb.CallToolResponse]") -> None:
        self._pending -= 1
        error = future.exception()
        self.answer(future.result() if error is None else _failure(request, error))


def _failure(request: pb.CallToolRequest, error: BaseException) -> pb.CallToolResponse:
    code = _code(error)
    failure = pb.Failure(code=code, message=str(error)[:2000])
    return pb.CallToolResponse(session_id=request.session_id, call_id=request.call_id, failure=failure)


def _code(error: BaseException) -> int:
    for kind, status in _CODES.items():
        if isinstance(error, kind):
            return int(status.value[0])
    return int(grpc.StatusCode.INTERNAL.value[0])


async def _abort(context: Any, error: Exception) -> NoReturn:
    await context.abort(_CODES[type(error)], str(error)[:2000])
    raise AssertionError("abort does not return")


@functools.cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("astra-farm")
    except PackageNotFoundError:  # run from a checkout
        return "0"
