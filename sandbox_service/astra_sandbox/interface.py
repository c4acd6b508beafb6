"""The one interface of tool execution, and its error tree. Local servers, remote servers and the in-memory fake all
stand behind it, and one contract suite (`tests/sandbox_service/test_contract.py`) runs on every implementation.

    SandboxError                  infrastructure; never an observation, never a reward
    +-- SandboxUnavailable        no server could be reached, after retries
    +-- CapacityExhausted         every server stayed full, after back-off
    +-- ToolsetRejected           the toolset cannot be loaded (its source fails to import); final
    +-- SessionLost               the session is gone and could not be replayed
        +-- ReplayDiverged        a replayed call answered differently: the environment is not deterministic
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

from astra_api.records import CallRecord, Record, SessionLimits, ToolOutcome, Toolset


class SandboxError(Exception):
    """A failure of the infrastructure: replayed, excluded and counted, never scored."""


class SandboxUnavailable(SandboxError):
    """No server answered within the retry budget."""


class CapacityExhausted(SandboxError):
    """Every server answered RESOURCE_EXHAUSTED until the retry budget ended."""


class ToolsetRejected(SandboxError):
    """The toolset's source cannot be loaded; the message is for the author of the environment."""


class SessionLost(SandboxError):
    """The session's server is gone and no other could take the session over."""


class ReplayDiverged(SessionLost):
    """A replayed call gave another outcome than the log holds."""


class Isolation(IntEnum):
    """Containment, weakest first. The order is meant: `minimumIsolation` compares."""

    PROCESS = 1
    NAMESPACES = 2
    GVISOR = 3


class SandboxStatus(Record):
    """What a server says of itself."""

    address: str
    isolation: Isolation
    measures: tuple[str, ...]
    capacity: int
    sessions: int
    toolsets: int
    version: str


class Session(Protocol):
    """One session: a private process with the toolset's source loaded."""

    @property
    def id(self) -> str: ...

    @property
    def log(self) -> Sequence[CallRecord]:
        """The calls so far, in order: with digest and seed, all that the session is."""
        ...

    async def call(self, tool: str, arguments_json: str, *, call_id: str | None = None) -> ToolOutcome:
        """Runs one call; a repeated call_id returns the first outcome. Raises SandboxError, never for a tool error."""
        ...

    async def close(self) -> None: ...


def past_outcome(log: Sequence[CallRecord], call_id: str | None, tool: str, arguments_json: str) -> ToolOutcome | None:
    """The outcome of a repeated call, None for a new one. Raises ValueError for a call_id used for another call."""
    if call_id is None:
        return None
    for past in log:
        if past.call_id == call_id:
            if (past.tool, past.arguments_json) != (tool, arguments_json):
                raise ValueError(f"call_id {call_id!r} was used for another call")
            return past.outcome
    return None


class Sandbox(Protocol):
    """Where sessions are opened."""

    async def open_sessions(
        self,
        toolset: Toolset,
        count: int,
        *,
        seed: int = 0,
        limits: SessionLimits | None = None,
        variant: int = 0,
    ) -> list[Session]:
        """Opens a group: all or none, on one server. Puts the toolset where it is missing; waits while full."""
        ...

    async def status(self) -> list[SandboxStatus]:
        """One entry a server."""
        ...

    async def close(self) -> None: ...
