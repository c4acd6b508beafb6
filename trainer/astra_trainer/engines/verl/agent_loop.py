"""verl's agent loop over the sandboxes: one rollout, exactly as the embedded engine rolls out.

verl makes an instance for each rollout; what rollouts share (connections, tools, environments) lives in the process.
A tool error is an observation. What the infrastructure fails is raised: verl then marks the whole group as failed, and
the sampler asks for another.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register

from astra_api.records import Trajectory
from astra_sandbox.interface import Sandbox, Session
from astra_trainer.engines.verl.generation import EngineDied, Server, ServerGenerator
from astra_trainer.engines.verl.job import floor
from astra_trainer.engines.verl.timeline import TimedSandbox, TimedSession
from astra_trainer.group_sessions import GroupSessions, open_group
from astra_trainer.rollout import Episode, Place, episode_prompt, run_rollout

NAME = "astra"
TRAJECTORY, TIMELINE = "astra_trajectory", "astra_timeline"  # extra fields of the output, as JSON


@register(NAME)
class AstraAgentLoop(AgentLoopBase):  # type: ignore[misc]
    """Rolls out row {number, session_id, uid, global_steps} of `datasets.EnvironmentDraws`."""

    def __init__(self, trainer_config: Any, server_manager: Server, **_: Any) -> None:
        # Not the base's: it would render the chat template anew for each rollout, for helpers that are not used here.
        self.rollout_config = trainer_config.config.actor_rollout_ref.rollout
        self.server_manager = server_manager

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """One rollout. Raises EngineDied, SandboxError and PromptTooLong."""
        here = floor()
        try:
            return await self._run(int(row["number"]), int(row["session_id"]), int(row["global_steps"]), row["uid"])
        except Exception as error:
            here.note_failure(error, fatal=isinstance(error, EngineDied))
            raise

    async def _run(self, number: int, index: int, step: int, uid: str) -> AgentLoopOutput:
        here = floor()
        episode = here.episode(number, step)
        place = Place(stage="rl", step=step, group=number, index=index, seed=here.run.spec.seed)
        prompt = episode_prompt(episode, here.chat, here.settings)
        generator = ServerGenerator(self.server_manager, here.chat.stop_ids, here.job.room)
        async with _GROUPS.session(here.sandbox, episode, place, uid, self.rollout_config.n) as session:
            timeline = generator.timeline
            timeline.began = time.time()
            trajectory = await run_rollout(
                episode,
                place=place,
                session=TimedSession(session, timeline),
                sandbox=TimedSandbox(here.sandbox, timeline),
                generator=generator,
                chat=here.chat,
                settings=here.settings,
                prompt=prompt,
            )
            timeline.ended = time.time()
        return output(trajectory, len(prompt), generator)


def output(trajectory: Trajectory, prompt_tokens: int, generator: ServerGenerator) -> AgentLoopOutput:
    """A rollout as verl takes it: token by token what was sampled, and the reward already given."""
    timeline = generator.timeline
    least, greatest = generator.versions or (trajectory.step - 1, trajectory.step - 1)
    return AgentLoopOutput(
        prompt_ids=list(trajectory.tokens[:prompt_tokens]),
        response_ids=list(trajectory.tokens[prompt_tokens:]),
        response_mask=list(trajectory.mask[prompt_tokens:]),
        response_logprobs=list(trajectory.logprobs[prompt_tokens:]),
        reward_score=trajectory.reward.value,
        num_turns=trajectory.turns,
        metrics=AgentLoopMetrics(generate_sequences=timeline.generating_seconds, tool_calls=timeline.tool_seconds),
        extra_fields={
            TRAJECTORY: trajectory.model_dump_json(),
            TIMELINE: json.dumps(asdict(timeline)),
            "reward_extra_info": {"f1": trajectory.reward.f1},
            "min_global_steps": least,
            "max_global_steps": greatest,
        },
    )


@dataclass
class _Group:
    begun: "asyncio.Task[GroupSessions]"
    rollouts_left: int


@dataclass
class _Groups:
    """The groups under way: a group's first rollout has its sessions opened, its last closes them.

    A group that the sandboxes have no room for waits: it may need as many sessions again for mixed-in tools.
    """

    groups: dict[str, _Group] = field(default_factory=dict)
    room: asyncio.Semaphore | None = None

    @contextlib.asynccontextmanager
    async def session(
        self, sandbox: Sandbox, episode: Episode, place: Place, uid: str, size: int
    ) -> AsyncIterator[Session]:
        group = self.groups.get(uid)
        if group is None:
            group = self.groups[uid] = _Group(asyncio.create_task(self._begin(sandbox, episode, place, size)), size)
        try:
            sessions = await asyncio.shield(group.begun)
            yield sessions[place.index]
            await sessions.opened()
        finally:
            group.rollouts_left -= 1
            if group.rollouts_left == 0:
                del self.groups[uid]
                group.begun.cancel()
                if group.begun.done() and not group.begun.cancelled():
                    await group.begun.result().close()
                    self._places(size).release()

    async def _begin(self, sandbox: Sandbox, episode: Episode, place: Place, size: int) -> GroupSessions:
        await self._places(size).acquire()
        return GroupSessions(open_group(sandbox, episode, place, size))

    def _places(self, size: int) -> asyncio.Semaphore:
        if self.room is None:
            job = floor().job
            self.room = asyncio.Semaphore(max(1, job.capacity // (2 * size * job.agents)))
        return self.room


_GROUPS = _Groups()
