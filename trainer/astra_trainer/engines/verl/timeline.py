"""When a rollout generated and when it waited for its tools, and what tools cost a step."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from astra_api.records import CallRecord, SessionLimits, ToolOutcome, Toolset
from astra_sandbox.interface import Sandbox, SandboxStatus, Session

Span = tuple[float, float]


@dataclass
class Timeline:
    """One rollout's time, in seconds since the epoch."""

    began: float = field(default_factory=time.time)
    ended: float = 0.0
    generating: list[Span] = field(default_factory=list)
    calling: list[Span] = field(default_factory=list)  # a tool, or for a session to call it in

    @property
    def generating_seconds(self) -> float:
        return sum(end - start for start, end in self.generating)

    @property
    def tool_seconds(self) -> float:
        return sum(end - start for start, end in self.calling)

    @contextlib.contextmanager
    def noted(self, spans: list[Span]) -> Iterator[None]:
        """Adds the time that the block takes to `spans`."""
        start = time.time()
        try:
            yield
        finally:
            spans.append((start, time.time()))


def waiting_seconds(timelines: Sequence[Timeline]) -> float:
    """Seconds in which rollouts were under way and every one of them waited for its tools: what tools cost a step.

    Tool latency that is hidden behind the generation of other rollouts costs nothing.
    """
    changes: list[tuple[float, int, int]] = []  # when, change of rollouts, change of those that wait for tools
    for line in timelines:
        changes += [(line.began, 1, 0), (line.ended, -1, 0)]
        for start, end in line.calling:
            changes += [(start, 0, 1), (end, 0, -1)]
    changes.sort()
    waited, under_way, calling, before = 0.0, 0, 0, 0.0
    for when, rollouts, calls in changes:
        if under_way > 0 and calling == under_way:
            waited += when - before
        under_way, calling, before = under_way + rollouts, calling + calls, when
    return waited


class TimedSession:
    """A session whose calls are noted."""

    def __init__(self, session: Session, timeline: Timeline) -> None:
        self._session, self._timeline = session, timeline

    @property
    def id(self) -> str:
        return self._session.id

    @property
    def log(self) -> Sequence[CallRecord]:
        return self._session.log

    async def call(self, tool: str, arguments_json: str, *, call_id: str | None = None) -> ToolOutcome:
        with self._timeline.noted(self._timeline.calling):
            return await self._session.call(tool, arguments_json, call_id=call_id)

    async def close(self) -> None:
        await self._session.close()


class TimedSandbox:
    """A sandbox whose openings are noted, and the calls of what is opened."""

    def __init__(self, sandbox: Sandbox, timeline: Timeline) -> None:
        self._sandbox, self._timeline = sandbox, timeline

    async def open_sessions(
        self,
        toolset: Toolset,
        count: int,
        *,
        seed: int = 0,
        limits: SessionLimits | None = None,
        variant: int = 0,
    ) -> list[Session]:
        with self._timeline.noted(self._timeline.calling):
            opened = await self._sandbox.open_sessions(toolset, count, seed=seed, limits=limits, variant=variant)
        return [TimedSession(session, self._timeline) for session in opened]

    async def status(self) -> list[SandboxStatus]:
        return await self._sandbox.status()

    async def close(self) -> None:
        await self._sandbox.close()
