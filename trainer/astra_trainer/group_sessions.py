"""The sessions of a group of rollouts: they open while its rollouts generate their first turns, and close together."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from astra_api.records import CallRecord, ToolOutcome
from astra_sandbox.interface import Sandbox, Session
from astra_trainer.rollout import Episode, Place, session_limits


async def open_group(sandbox: Sandbox, episode: Episode, place: Place, size: int) -> list[Session]:
    """`size` equal sessions of an episode's own toolset. Raises SandboxError."""
    environment = episode.environment
    return await sandbox.open_sessions(
        environment.toolset, size, seed=place.session_seed, limits=session_limits(environment)
    )


class GroupSessions:
    """Sessions that are being opened. `sessions[index]` can be used at once: its first call waits until it is open."""

    def __init__(self, opening: Coroutine[Any, Any, list[Session]]) -> None:
        self._opening = asyncio.create_task(opening)

    def __getitem__(self, index: int) -> Session:
        return _OpeningSession(self._opening, index)

    async def opened(self) -> None:
        """Returns once they are open. Raises SandboxError when they cannot be: then nothing of the group is scored."""
        await asyncio.shield(self._opening)

    async def close(self) -> None:
        """Closes what is open, and opens no more."""
        self._opening.cancel()
        await asyncio.wait([self._opening])
        if not self._opening.cancelled() and self._opening.exception() is None:
            await asyncio.gather(*(session.close() for session in self._opening.result()))


class _OpeningSession:
    """One of them. Its id and its log are there once it is open."""

    def __init__(self, opening: "asyncio.Task[list[Session]]", index: int) -> None:
        self._opening, self._index = opening, index

    @property
    def id(self) -> str:
        return self._opening.result()[self._index].id

    @property
    def log(self) -> Sequence[CallRecord]:
        return self._opening.result()[self._index].log

    async def call(self, tool: str, arguments_json: str, *, call_id: str | None = None) -> ToolOutcome:
        session = (await asyncio.shield(self._opening))[self._index]
        return await session.call(tool, arguments_json, call_id=call_id)

    async def close(self) -> None:
        await (await asyncio.shield(self._opening))[self._index].close()
