"""The data side over real servers: tool sources really run, and a server really dies."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from astra_api.environment import Environment
from astra_api.records import ToolCall, Trajectory
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.interface import Isolation, SandboxError
from astra_sandbox.launching import LocalSandbox, launch_local
from astra_trainer.chat import ChatFormat
from astra_trainer.demonstrations import DemonstrationSettings, demonstrate_all
from astra_trainer.generation import Generation
from astra_trainer.groups import GroupRequest, roll_out_groups
from astra_trainer.mixing import MixingSettings, ToolMixer
from astra_trainer.rollout import Place, RolloutSettings

COUNTING = '''
_total = 0


def add(amount: int) -> int:
    """Remembers: a lost session must come back with its memory."""
    global _total
    _total += amount
    return _total
'''
ADD = {
    "name": "add",
    "description": "Adds to a running total.",
    "parameters": {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]},
}


@pytest.fixture
async def servers() -> AsyncIterator[LocalSandbox]:
    async with launch_local(servers=2, level=Isolation.PROCESS, retry=Retry(budget=20)) as sandbox:
        yield sandbox


@pytest.fixture
def counting(make_environment: Callable[..., Environment]) -> Environment:
    """A stateful environment of three dependent steps."""
    steps: list[dict[str, Any]] = [
        {
            "id": f"s{number}",
            "question": "?",
            "answer": 10 * number,
            "dependsOn": [f"s{number - 1}"] if number > 1 else [],
            "call": {"tool": "add", "arguments": {"amount": 10}},
        }
        for number in (1, 2, 3)
    ]
    return make_environment(
        name="counting", domain="numbers", question="Add 10 three times.", answer=30, scenario="multi-hop",
        steps=steps, tools=[ADD], source=COUNTING, state="stateful",
    )  # fmt: skip


async def test_demonstrations_execute_gold_steps_for_real(
    servers: LocalSandbox,
    chat: ChatFormat,
    make_environment: Callable[..., Environment],
    other_environments: list[Environment],
    counting: Environment,
) -> None:
    environments = [make_environment(), counting, *other_environments]
    mixer = ToolMixer(environments, MixingSettings())
    episodes = [mixer.episode(env, seed=0, index=n, step=0) for n, env in enumerate(environments * 4)]
    settings = DemonstrationSettings(recoveries=0.5)
    trajectories = await demonstrate_all(episodes, sandbox=servers, chat=chat, settings=settings, seed=0)
    assert {t.reward.recall for t in trajectories} == {1.0}
    assert len({t.reward.precision for t in trajectories}) > 1
    assert sum(status.sessions for status in await servers.status()) == 0


async def test_a_rollout_whose_server_is_killed_ends_like_an_undisturbed_one(
    servers: LocalSandbox, chat: ChatFormat, counting: Environment, other_environments: list[Environment]
) -> None:
    """The server with the group's sessions is killed between two turns, own and mixed-in sessions open on it."""
    episode = ToolMixer([counting, *other_environments], MixingSettings()).episode(counting, seed=0, index=0, step=0)
    add = ToolCall(tool="add", arguments_json='{"amount": 10}')
    echo = ToolCall(tool="echo", arguments_json='{"text": "still here"}')
    wrong = ToolCall(tool="add", arguments_json='{"amount": "ten"}')
    turns = [
        chat.assistant_turn("", [add, echo]),
        chat.assistant_turn("", [wrong, add]),
        chat.assistant_turn("", [echo, add]),
        chat.assistant_turn("The answer is 30."),
    ]

    class Murderer:
        """Plays the turns; before the third, kills every server that serves this rollout."""

        def __init__(self, kill: bool):
            self._kill = kill
            self.killed = 0
            self._prompt = 0

        async def generate(self, context: Sequence[int], **options: Any) -> Generation:
            self._prompt = self._prompt or len(context)
            turn = sum(token in chat.stop_ids for token in context[self._prompt :]) // 2
            if turn == 2 and self._kill:
                self._kill = False
                for server, status in zip(servers.servers, await servers.status(), strict=True):
                    if status.sessions:
                        assert server.running.pid
                        os.kill(server.running.pid, signal.SIGKILL)
                        self.killed += 1
            tokens = turns[turn]
            return Generation(tokens, [-0.25] * len(tokens), ended=True)

    async def roll(policy: Murderer) -> Trajectory:
        request = GroupRequest(episode, Place(stage="rl", step=1, group=0), size=1)
        results = await roll_out_groups(
            [request], sandbox=servers, generator=policy, chat=chat, settings=RolloutSettings()
        )
        ((trajectory,),) = (group.trajectories for group in results.groups)
        return trajectory

    undisturbed = await roll(Murderer(kill=False))
    assert undisturbed.reward.solved == ("s1", "s2", "s3")
    assert undisturbed.reward.calls == 6
    murderer = Murderer(kill=True)
    disturbed = await roll(murderer)
    assert murderer.killed >= 1
    assert servers.replays >= 1
    assert disturbed == undisturbed


async def test_no_server_left_is_an_error_and_never_a_reward(chat: ChatFormat, counting: Environment) -> None:
    turn = chat.assistant_turn("", [ToolCall(tool="add", arguments_json='{"amount": 10}')])
    async with AsyncExitStack() as farm:
        launched = await farm.enter_async_context(launch_local(level=Isolation.PROCESS))
        sandbox = SandboxClient([server.address for server in launched.servers], retry=Retry(budget=0.5))

        class LastWords:
            async def generate(self, context: Sequence[int], **options: Any) -> Generation:
                await farm.aclose()
                return Generation(turn, [0.0] * len(turn), ended=True)

        episode = ToolMixer([counting], MixingSettings()).episode(counting, seed=0, index=0, step=0)
        with pytest.raises(SandboxError):
            await roll_out_groups(
                [GroupRequest(episode, Place(stage="rl", step=1, group=0), size=1)],
                sandbox=sandbox,
                generator=LastWords(),
                chat=chat,
                settings=RolloutSettings(),
            )
        await sandbox.close()
