"""FakeSandbox: the behaviour of a sandbox in memory, over Python functions that a test registers.

It never executes a toolset's source, cannot stop a function that hangs, and contains nothing. Everything else (what
is an observation, what is an error, idempotency, capacity) is as on a server: one contract suite holds them together.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from astra_api.records import (
    CallRecord,
    SessionLimits,
    ToolError,
    ToolErrorKind,
    ToolOutcome,
    ToolResult,
    Toolset,
)
from astra_sandbox import limits as session_limits
from astra_sandbox.interface import (
    CapacityExhausted,
    Isolation,
    SandboxError,
    SandboxStatus,
    Session,
    ToolsetRejected,
    past_outcome,
)
from astra_sandbox.wire import no_such_tool, unsendable
from astra_sandbox.worker.frames import Kind
from astra_sandbox.worker.session import run

Functions = Mapping[str, Callable[..., Any]]
_KINDS = {
    Kind.RAISED: ToolErrorKind.RAISED,
    Kind.EXITED: ToolErrorKind.RAISED,
    Kind.OUT_OF_MEMORY: ToolErrorKind.OUT_OF_MEMORY,
    Kind.OUTPUT_TOO_LARGE: ToolErrorKind.OUTPUT_TOO_LARGE,
}


class FakeSandbox:
    """A Sandbox over registered functions.

    `functions`: tool name -> function, shared by all toolsets. `modules`: toolset digest -> a function that makes the
    toolset's functions anew, once a session: what they share is the session's state.
    """

    def __init__(
        self,
        functions: Functions | None = None,
        *,
        modules: Mapping[str, Callable[[], Functions]] | None = None,
        capacity: int = 512,
    ) -> None:
        self._functions, self._modules = dict(functions or {}), dict(modules or {})
        self._capacity = capacity
        self._digests: set[str] = set()
        self._numbers = itertools.count()
        self.sessions: dict[str, FakeSession] = {}  # those that are open

    async def open_sessions(
        self,
        toolset: Toolset,
        count: int,
        *,
        seed: int = 0,
        limits: SessionLimits | None = None,
        variant: int = 0,
    ) -> list[Session]:
        """Opens a group. CapacityExhausted comes at once: a fake does not wait."""
        if not 1 <= count <= self._capacity:
            raise SandboxError(f"count: {count} is not in 1..{self._capacity}, the capacity")
        if len(self.sessions) + count > self._capacity:
            raise CapacityExhausted(f"{count} sessions asked, {self._capacity - len(self.sessions)} free")
        make = self._modules.get(toolset.digest, lambda: self._functions)
        opened = []
        granted = session_limits.DEFAULT.for_session(limits, session_limits.MAXIMUM)
        for _ in range(count):
            functions = make()
            for tool in toolset.tools:
                if tool.name not in functions:
                    raise ToolsetRejected(f"tool {tool.name!r} is not a public function of the source")
            session_id = f"fake-{next(self._numbers)}"
            opened.append(FakeSession(self, session_id, toolset, make, seed, granted))
        self.sessions.update((session.id, session) for session in opened)
        self._digests.add(toolset.digest)
        return list(opened)

    async def status(self) -> list[SandboxStatus]:
        """One entry: this process."""
        status = SandboxStatus(
            address="memory:",
            isolation=Isolation.PROCESS,
            measures=("in memory: nothing is contained",),
            capacity=self._capacity,
            sessions=len(self.sessions),
            toolsets=len(self._digests),
            version="fake",
        )
        return [status]

    async def close(self) -> None:
        """Closes every session."""
        self.sessions.clear()


class FakeSession:
    """A session of a FakeSandbox."""

    def __init__(
        self,
        sandbox: FakeSandbox,
        session_id: str,
        toolset: Toolset,
        make: Callable[[], Functions],
        seed: int,
        limits: session_limits.Limits,
    ) -> None:
        from astra_sandbox.server.toolsets import BadToolsetError, StoredToolset  # needs the extra [sandbox]

        try:
            self._stored = StoredToolset(toolset)
        except BadToolsetError as error:
            raise ToolsetRejected(str(error)) from None
        self._sandbox, self._id, self._make, self._seed, self._limits = sandbox, session_id, make, seed, limits
        self._log: list[CallRecord] = []
        self._lock = asyncio.Lock()
        self._start()

    @property
    def id(self) -> str:
        return self._id

    @property
    def log(self) -> Sequence[CallRecord]:
        return tuple(self._log)

    async def call(self, tool: str, arguments_json: str, *, call_id: str | None = None) -> ToolOutcome:
        """Runs one call, after those before it."""
        async with self._lock:
            await asyncio.sleep(0)  # a real sandbox lets others run too
            if self._id not in self._sandbox.sessions:
                raise SandboxError("the session is closed")
            if (past := past_outcome(self._log, call_id, tool, arguments_json)) is not None:
                return past
            name = call_id if call_id is not None else f"#{len(self._log)}"
            outcome = unsendable(tool, arguments_json) or self._run(tool, arguments_json)
            self._log.append(CallRecord(call_id=name, tool=tool, arguments_json=arguments_json, outcome=outcome))
            if isinstance(outcome, ToolError) and outcome.ended_process:
                self._restart()
            return outcome

    async def close(self) -> None:
        self._sandbox.sessions.pop(self._id, None)

    def _start(self) -> None:
        self._functions = self._make()
        self._random = random.Random(self._seed).getstate()

    def _restart(self) -> None:
        """What a server does when a call ended the process: a fresh one, with the surviving calls run again."""
        self._start()
        for past in self._log:
            if not (isinstance(past.outcome, ToolError) and past.outcome.ended_process):
                self._run(past.tool, past.arguments_json)

    def _run(self, tool: str, arguments_json: str) -> ToolOutcome:
        check = self._stored.checks.get(tool)
        if check is None:
            return ToolError(kind=ToolErrorKind.UNKNOWN_TOOL, message=no_such_tool(tool))
        if fault := check.fault(arguments_json):
            return ToolError(kind=ToolErrorKind.INVALID_ARGUMENTS, message=fault)
        outside = random.getstate()
        random.setstate(self._random)
        kind, reply = run(self._functions[tool], arguments_json.encode(), self._limits.output_bytes)
        if not self._stored.stateless:
            self._random = random.getstate()
        random.setstate(outside)
        if kind is Kind.RESULT:
            return ToolResult(json_text=reply.decode())
        ended = kind in (Kind.EXITED, Kind.OUT_OF_MEMORY)
        return ToolError(kind=_KINDS[kind], message=reply.decode(), ended_process=ended)
