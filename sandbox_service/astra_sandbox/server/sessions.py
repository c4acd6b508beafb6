"""A session as the server sees it: a log of calls, and now and then a process that runs them.

Calls run one at a time in the order received. A call that ends its process is answered; the next one gets a fresh
process, in which the session's surviving calls were run again. That is so for stateless toolsets too: nothing but their
author's word says that they keep no state, and a session must not depend on what happened to its processes.
"""

import asyncio
import os
import signal
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal

from astra_api.sandbox.v1 import sandbox_pb2 as pb
from astra_sandbox.limits import Limits
from astra_sandbox.server.metrics import Metrics
from astra_sandbox.server.own_time import OwnTime
from astra_sandbox.server.templates import LoadRejectedError, SessionProcess, Templates, WorkerLostError
from astra_sandbox.server.toolsets import StoredToolset
from astra_sandbox.strict_json import StrictJsonError, read
from astra_sandbox.wire import no_such_tool
from astra_sandbox.worker.frames import Kind

MAX_CALLS = 10_000
MAX_LOG_BYTES = 64 << 20
_BACKLOG = 256  # calls of one session that may wait
_REPORT_SECONDS = 2.0  # how long a template may take to say how a session ended

_Error = pb.ToolError
_KINDS = {
    Kind.RAISED: (_Error.RAISED, False),
    Kind.EXITED: (_Error.RAISED, True),
    Kind.OUT_OF_MEMORY: (_Error.OUT_OF_MEMORY, True),
    Kind.OUTPUT_TOO_LARGE: (_Error.OUTPUT_TOO_LARGE, False),
}


def _nonces() -> Iterator[int]:
    while True:
        yield from filter(None, array("Q", os.urandom(8 * 512)))


_draw_nonce = _nonces().__next__


class SessionGoneError(Exception):
    """The session was lost or closed; a client replays it elsewhere."""


class ReplayError(Exception):
    """A surviving call answered differently when it was run again: the toolset is not deterministic."""


class CallConflictError(Exception):
    """A call_id was reused for another call, or a session has too many calls."""


class OverloadError(Exception):
    """Too much waits already: the caller backs off and tries again. What was accepted is not affected."""


class _Call:
    """One call; its future gives the response that every retry gets."""

    __slots__ = ("arguments", "arrived", "call_id", "executed", "future", "tool")

    def __init__(
        self, call_id: str, tool: str, arguments: str, future: "asyncio.Future[pb.CallToolResponse]", arrived: float
    ) -> None:
        self.call_id, self.tool, self.arguments, self.future, self.arrived = call_id, tool, arguments, future, arrived
        self.executed = False  # it ran and left its process alive: a replay repeats it


class ServerSession:
    """One session. `on_gone` is called once when it is lost."""

    def __init__(
        self,
        session_id: str,
        toolset: StoredToolset,
        templates: Templates,
        process: SessionProcess,
        *,
        variant: int,
        seed: int,
        limits: Limits,
        on_gone: Callable[["ServerSession"], None],
        metrics: Metrics | None = None,
    ) -> None:
        self.id = session_id
        self._toolset, self._templates = toolset, templates
        self._variant, self._seed, self._limits = variant, seed, limits
        self._on_gone, self._metrics = on_gone, metrics
        self._loop = asyncio.get_running_loop()
        self.last_used = self._loop.time()
        self._calls: dict[str, _Call] = {}  # by call_id, in order of arrival
        self._log_bytes = 0
        self._queue: deque[_Call] = deque()
        self._current: _Call | None = None
        self._nonce = 0
        self._timer: OwnTime | None = None
        self._replayed: asyncio.Future[pb.CallToolResponse] | None = None
        self._process: SessionProcess | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._adopt(process)
        self.closed = False

    @property
    def busy(self) -> bool:
        """Whether a call runs or waits."""
        return self._current is not None

    @property
    def called(self) -> bool:
        """Whether its tools ever ran: before that, nothing of its author's runs in its process."""
        return bool(self._calls)

    def disk_fault(self) -> str | None:
        """Why its process keeps too much in files, if it does."""
        return self._process.disk_fault(self._limits.file_bytes) if self._process else None

    @property
    def process_id(self) -> int | None:
        """The process that runs the calls, if there is one now."""
        return self._process.pid if self._process else None

    def memory(self) -> int:
        """Bytes that its process holds beyond those that it began with."""
        return self._process.memory() if self._process else 0

    def end_process(self, kind: Literal["memory", "disk"], reason: str) -> None:
        """Ends the process for what it used. A call under way is answered; else the next one finds a fresh process."""
        if self._metrics is not None:
            self._metrics.ended(kind)
        if self._current is None or not self._nonce:
            self._drop_process()
            return
        error = _Error.OUT_OF_MEMORY if kind == "memory" else _Error.RAISED
        self._settle(self._error(self._current, error, reason, True))

    def submit(self, call_id: str, tool: str, arguments: str) -> "asyncio.Future[pb.CallToolResponse]":
        """Queues a call. Raises CallConflictError; the future raises SessionGoneError and ReplayError."""
        self.last_used = self._loop.time()
        call = self._calls.get(call_id)
        if call is not None:
            if call.tool != tool or call.arguments != arguments:
                raise CallConflictError(f"call_id {call_id!r} was used for another call")
            return call.future
        if len(self._calls) >= MAX_CALLS or self._log_bytes > MAX_LOG_BYTES:
            raise CallConflictError(f"the session has had its {MAX_CALLS} calls or {MAX_LOG_BYTES} bytes")
        if len(self._queue) >= _BACKLOG:
            raise OverloadError(f"{_BACKLOG} calls of this session wait already")
        self._log_bytes += len(arguments)
        call = self._calls[call_id] = _Call(call_id, tool, arguments, self._loop.create_future(), self.last_used)
        self._queue.append(call)
        if self._current is None:
            self._next()
        return call.future

    def close(self, reason: str = "the session is closed") -> None:
        """Kills the process; calls under way fail with SessionGoneError."""
        if self.closed:
            return
        self.closed = True
        if self._timer:
            self._timer.cancel()
        self._drop_process()
        if self._reviving:
            self._reviving.cancel()
        for call in [self._current, *self._queue]:
            if call is not None and not call.future.done():
                call.future.set_exception(SessionGoneError(reason))
                call.future.exception()  # seen: the caller may have gone
        self._queue.clear()
        self._on_gone(self)

    def _next(self) -> None:
        self._current = None
        while self._queue and self._current is None:
            call = self._queue.popleft()
            check = self._toolset.checks.get(call.tool)
            if check is None:
                self._answer(call, self._error(call, _Error.UNKNOWN_TOOL, no_such_tool(call.tool)))
            elif fault := check.fault(call.arguments):
                self._answer(call, self._error(call, _Error.INVALID_ARGUMENTS, fault))
            else:
                self._current = call
                if self._process is not None:
                    self._start(call)
                else:
                    self._reviving = asyncio.ensure_future(self._revive(call))

    def _start(self, call: _Call) -> None:
        assert self._process is not None
        self._nonce = _draw_nonce()
        self._process.call(self._nonce, f"{call.tool}\n{call.arguments}".encode())
        self._timer = OwnTime(self._limits.call_seconds, lambda: self.process_id, self._time_out)

    def _settle(self, response: pb.CallToolResponse) -> None:
        """The current call, or the replayed one, has its outcome."""
        ended = response.HasField("error") and response.error.ended_process
        if not ended and (fault := self.disk_fault()):  # no such call is ever repeated in a fresh process
            self.end_process("disk", fault)
            return
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._nonce = 0
        if ended:
            self._drop_process()
        if self._replayed is not None:
            if not self._replayed.done():
                self._replayed.set_result(response)
            return
        call = self._current
        assert call is not None
        call.executed = not ended
        self._log_bytes += len(response.result_json)
        self._answer(call, response)
        self._next()

    def _answer(self, call: _Call, response: pb.CallToolResponse) -> None:
        if not call.future.done():
            call.future.set_result(response)
            if self._metrics is not None:
                self._metrics.answered(self.id, call.tool, response, self._loop.time() - call.arrived)

    def _on_frame(self, nonce: int, kind: Kind, body: bytes) -> None:
        call = self._current
        if call is None or nonce != self._nonce or not self._nonce or kind in (Kind.HELLO, Kind.CALL, Kind.QUIET_CALL):
            self._tampered()
        elif kind is Kind.RESULT:
            try:
                text = body.decode()
                read(text)
            except (UnicodeDecodeError, StrictJsonError):
                self._tampered()
                return
            if len(body) > self._limits.output_bytes:
                self._tampered()
                return
            self._settle(pb.CallToolResponse(session_id=self.id, call_id=call.call_id, result_json=text))
        else:
            error, ended = _KINDS[kind]
            self._settle(self._error(call, error, body.decode(errors="replace"), ended))

    def _tampered(self) -> None:
        if self._current is None or not self._nonce:
            self._drop_process()
        else:
            message = "the tool wrote to the channel of its sandbox"
            self._settle(self._error(self._current, _Error.RAISED, message, True))

    def _time_out(self) -> None:
        assert self._current is not None
        if self._process is not None and self._process.answered:  # in its mailbox, where nobody has looked yet
            self._process.collect()
            return
        message = f"the call took more than {self._limits.call_seconds:g} s"
        self._settle(self._error(self._current, _Error.TIMED_OUT, message, True))

    def _on_end(self) -> None:
        if self._current is None or not self._nonce:
            self._drop_process()  # it ended between calls; the next call gets a fresh one
        else:
            self._reviving = asyncio.ensure_future(self._explain_end(self._current))

    async def _explain_end(self, call: _Call) -> None:
        """The process ended, or closed its socket, in the midst of a call."""
        process = self._process
        if process is None:
            return
        try:
            async with asyncio.timeout(_REPORT_SECONDS):
                await process.reported.wait()
        except TimeoutError:
            if process.has_ended:  # its template, which would say how, stands still
                self.close("nobody told how the session's process ended")
                return
            self._settle_if(call, self._error(call, _Error.RAISED, "the tool closed the channel of its sandbox", True))
            return
        if process.status is None:
            self.close("the session's template is gone")
            return
        code = process.status & 0x7F
        if code == 0:
            message = f"the tool ended its process with exit status {process.status >> 8 & 0xFF}"
            response = self._error(call, _Error.RAISED, message, True)
        elif code == signal.SIGXCPU or (code == signal.SIGKILL and process.cpu >= self._limits.cpu_seconds):
            message = f"the session used more than its {self._limits.cpu_seconds:g} s of processor time"
            response = self._error(call, _Error.TIMED_OUT, message, True)
        elif code == signal.SIGKILL:  # not by its own doing: it can send no signals
            self.close("the session's process was killed")
            return
        else:
            message = f"the tool's process died of {signal.Signals(code).name}"
            response = self._error(call, _Error.RAISED, message, True)
        self._settle_if(call, response)

    def _settle_if(self, call: _Call, response: pb.CallToolResponse) -> None:
        if self._current is call and self._nonce:
            self._settle(response)

    async def _revive(self, call: _Call) -> None:
        """Forks a process for `call` and repeats the surviving calls in it."""
        try:
            forked = await self._templates.fork(self._toolset, self._variant, 1, self._seed, self._limits)
            self._adopt(forked[0])
            for past in [past for past in self._calls.values() if past.executed]:
                await self._repeat(past)
        except (WorkerLostError, LoadRejectedError, ReplayError) as error:
            if isinstance(error, ReplayError) and not call.future.done():
                call.future.set_exception(error)
                call.future.exception()
            self.close(str(error))
            return
        self._reviving = None
        if self._process is None:  # it died between the replay and the call
            self.close("the session's process was killed")
        else:
            self._start(call)

    async def _repeat(self, past: _Call) -> None:
        if self._process is None:
            raise WorkerLostError("the session's process was killed")
        self._replayed = self._loop.create_future()
        if self._metrics is not None:
            self._metrics.replayed.inc()
        try:
            self._start(past)
            response = await self._replayed
        finally:
            self._replayed = None
        first = past.future.result()
        if (response.result_json, response.error) != (first.result_json, first.error):
            raise ReplayError(f"call {past.call_id!r} of tool {past.tool!r} answered differently when run again")

    def _adopt(self, process: SessionProcess) -> None:
        self._process = process
        process.on_frame, process.on_end = self._on_frame, self._on_end

    def _drop_process(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def _error(self, call: _Call, kind: "pb.ToolError.Kind", message: str, ended: bool = False) -> pb.CallToolResponse:
        error = pb.ToolError(kind=kind, message=message, ended_process=ended)
        return pb.CallToolResponse(session_id=self.id, call_id=call.call_id, error=error)
