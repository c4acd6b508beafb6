"""A group's sessions open while its rollouts already generate; a group whose sessions do not open is never scored."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from astra_api.environment import Environment
from astra_api.records import ToolCall, Toolset
from astra_sandbox.fake import FakeSandbox
from astra_sandbox.interface import SandboxUnavailable, Session
from astra_trainer.chat import ChatFormat
from astra_trainer.generation import Generation
from astra_trainer.groups import GroupRequest, GroupResults, roll_out_groups
from astra_trainer.rollout import Episode, Place, RolloutSettings

CALL = ToolCall(tool="city_population", arguments_json='{"city": "Paris"}')


class SlowToOpen:
    """Opens sessions once it is let, or fails then."""

    def __init__(self, sandbox: FakeSandbox, failure: Exception | None = None) -> None:
        self._sandbox, self._failure = sandbox, failure
        self.let = asyncio.Event()
        self.opening = 0

    async def open_sessions(self, toolset: Toolset, count: int, **options: Any) -> list[Session]:
        self.opening += 1
        try:
            await self.let.wait()
        finally:
            self.opening -= 1
        if self._failure:
            raise self._failure
        return await self._sandbox.open_sessions(toolset, count, **options)


class Letting:
    """A policy after whose `turns`-th turn sessions may open."""

    def __init__(self, policy: Any, sandbox: SlowToOpen, turns: int) -> None:
        self._policy, self._sandbox, self._left = policy, sandbox, turns

    async def generate(self, context: Sequence[int], **options: Any) -> Generation:
        generation: Generation = await self._policy.generate(context, **options)
        self._left -= 1
        if self._left == 0:
            self._sandbox.let.set()
        return generation


@pytest.fixture
def four(make_environment: Callable[..., Environment]) -> GroupRequest:
    """Four rollouts of one episode."""
    environment = make_environment()
    return GroupRequest(Episode(environment, environment.toolset.tools), Place(stage="rl", step=1, group=0), size=4)


@pytest.fixture
def roll_out(four: GroupRequest, chat: ChatFormat) -> Callable[..., Any]:
    async def run(sandbox: SlowToOpen, policy: Any) -> GroupResults:
        async with asyncio.timeout(20):
            return await roll_out_groups(
                [four], sandbox=sandbox, generator=policy, chat=chat, settings=RolloutSettings(max_turns=3)
            )

    return run


async def test_sessions_open_while_the_first_turns_are_generated(
    roll_out: Any, scripted: Any, chat: ChatFormat, fake_sandbox: FakeSandbox
) -> None:
    sandbox = SlowToOpen(fake_sandbox)
    turns = [chat.assistant_turn("", [CALL]), chat.assistant_turn("It is large.")]
    results = await roll_out(sandbox, Letting(scripted(chat, turns), sandbox, turns=4))
    ((group,), excluded) = results.groups, results.excluded
    assert not excluded
    assert [trajectory.calls[0].outcome.observation() for trajectory in group.trajectories] == ["2148000"] * 4
    assert not fake_sandbox.sessions


async def test_a_group_whose_sessions_do_not_open_is_not_scored_though_it_calls_nothing(
    roll_out: Any, scripted: Any, chat: ChatFormat, fake_sandbox: FakeSandbox
) -> None:
    sandbox = SlowToOpen(fake_sandbox, SandboxUnavailable("no server answers"))
    with pytest.raises(SandboxUnavailable, match="no server answers"):
        await roll_out(sandbox, Letting(scripted(chat, [chat.assistant_turn("Done.")]), sandbox, turns=4))


async def test_nothing_is_opened_for_a_group_that_failed(roll_out: Any, fake_sandbox: FakeSandbox) -> None:
    class Broken:
        async def generate(self, context: Sequence[int], **options: Any) -> Generation:
            await asyncio.sleep(0.05)
            raise ZeroDivisionError("a bug")

    sandbox = SlowToOpen(fake_sandbox)
    with pytest.raises(ZeroDivisionError):
        await roll_out(sandbox, Broken())
    assert not sandbox.opening
    assert not fake_sandbox.sessions
