"""Groups of rollouts of one prompt, many groups at once.

A group that the infrastructure failed is excluded and counted, never scored.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from astra_api.records import Record, Reject, Trajectory
from astra_sandbox.interface import ReplayDiverged, Sandbox, SandboxError, ToolsetRejected
from astra_trainer.chat import ChatFormat
from astra_trainer.generation import Generator
from astra_trainer.group_sessions import GroupSessions, open_group
from astra_trainer.rollout import Episode, Place, PromptTooLong, RolloutSettings, episode_prompt, run_rollout

_OWN_FAULTS = (ToolsetRejected, ReplayDiverged)  # of one environment, whatever the server


class Group(Record):
    """The rollouts of one prompt, in order of their index."""

    trajectories: tuple[Trajectory, ...]

    @property
    def rewards(self) -> tuple[float, ...]:
        return tuple(trajectory.reward.value for trajectory in self.trajectories)


@dataclass(frozen=True)
class GroupRequest:
    """Asks for `size` rollouts of one episode at `place` (its index is counted from 0)."""

    episode: Episode
    place: Place
    size: int


@dataclass(frozen=True)
class GroupResults:
    """What came of a batch of requests, in the order of the requests."""

    groups: list[Group]
    excluded: list[Reject]


async def roll_out_groups(
    requests: Sequence[GroupRequest],
    *,
    sandbox: Sandbox,
    generator: Generator,
    chat: ChatFormat,
    settings: RolloutSettings,
    concurrency: int = 32,
    on_done: Callable[[], None] = lambda: None,
) -> GroupResults:
    """Rolls out every request, at most `concurrency` groups at a time; calls `on_done` after each.

    A trajectory is a function of its request, not of what runs beside it. A running group holds `size` sessions and up
    to as many again for mixed-in tools: choose `concurrency` so that they fit the sandboxes' capacity. A request that
    fails with a SandboxError or PromptTooLong is listed in `excluded` with its reason. Raises SandboxError when nothing
    was rolled out and the servers are to blame (not one environment's source): going on would hide an outage.
    """
    gate = asyncio.Semaphore(concurrency)

    async def one(request: GroupRequest) -> Group | SandboxError | PromptTooLong:
        async with gate:
            try:
                return await _roll_out(request, sandbox, generator, chat, settings)
            except (SandboxError, PromptTooLong) as error:
                return error
            finally:
                on_done()

    async with _UnwrappingTasks() as tasks:
        running = [tasks.create_task(one(request)) for request in requests]
    results = [task.result() for task in running]
    groups = [result for result in results if isinstance(result, Group)]
    outages = [result for result in results if isinstance(result, SandboxError) and not isinstance(result, _OWN_FAULTS)]
    if outages and not groups:
        raise outages[0]
    excluded = [
        Reject(name=request.episode.name, stage="rollout", reason=type(failure).__name__, message=str(failure))
        for request, failure in zip(requests, results, strict=True)
        if not isinstance(failure, Group)
    ]
    return GroupResults(groups=groups, excluded=excluded)


async def _roll_out(
    request: GroupRequest, sandbox: Sandbox, generator: Generator, chat: ChatFormat, settings: RolloutSettings
) -> Group:
    episode, place = request.episode, request.place
    prompt = episode_prompt(episode, chat, settings)
    sessions = GroupSessions(open_group(sandbox, episode, place, request.size))
    try:
        async with _UnwrappingTasks() as tasks:
            running = [
                tasks.create_task(
                    run_rollout(
                        episode,
                        place=replace(place, index=index),
                        session=sessions[index],
                        sandbox=sandbox,
                        generator=generator,
                        chat=chat,
                        settings=settings,
                        prompt=prompt,
                    )
                )
                for index in range(request.size)
            ]
        await sessions.opened()
    finally:
        await sessions.close()
    return Group(trajectories=tuple(task.result() for task in running))


class _UnwrappingTasks(asyncio.TaskGroup):
    """A TaskGroup that raises the first failure itself: callers see the sandbox's error tree, not a group of it."""

    async def __aexit__(self, *details: object) -> None:
        try:
            await super().__aexit__(*details)  # type: ignore[arg-type]
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
