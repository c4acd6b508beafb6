import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from astra_api.environment import Environment
from astra_api.records import Toolset
from astra_sandbox.fake import FakeSandbox
from astra_sandbox.interface import SandboxError, SandboxUnavailable
from astra_trainer.chat import ChatFormat
from astra_trainer.evaluation import evaluate
from astra_trainer.generation import Generation
from astra_trainer.groups import GroupRequest, GroupResults, roll_out_groups
from astra_trainer.mixing import MixingSettings, ToolMixer
from astra_trainer.rollout import Episode, Place, RolloutSettings


class Dice:
    """Answers with as many right calls as its seed says; takes its time, so that groups overlap."""

    def __init__(self, chat: ChatFormat, turns: Sequence[Sequence[int]]):
        self._turns = turns
        self._answer = chat.assistant_turn("Done.")
        self.running = 0
        self.most = 0
        self.asked: list[tuple[float, int]] = []

    async def generate(self, context: Sequence[int], *, max_tokens: int, temperature: float, seed: int) -> Generation:
        self.asked.append((temperature, seed))
        self.running += 1
        self.most = max(self.most, self.running)
        rng = random.Random(seed)
        for _ in range(rng.randint(1, 5)):
            await asyncio.sleep(0)
        self.running -= 1
        tokens = list(rng.choice([*self._turns, self._answer]))
        return Generation(tokens, [-0.1] * len(tokens), ended=True)


@pytest.fixture
def dice(chat: ChatFormat) -> Dice:
    calls = ['{"name": "city_population", "arguments": {"city": "Paris"}}', '{"name": "x", "arguments": {}}']
    stop = min(chat.stop_ids)
    texts = [f"<tool_call>{call}</tool_call>" for call in calls]
    return Dice(chat, [[*chat.tokenizer.encode(text, add_special_tokens=False), stop] for text in texts])


@pytest.fixture
def requests(make_environment: Callable[..., Environment]) -> list[GroupRequest]:
    environments = [make_environment(name=f"e{n}", domain=f"d{n % 2}", source=f"# {n}") for n in range(6)]
    mixer = ToolMixer(environments, MixingSettings())
    return [
        GroupRequest(
            episode=mixer.episode(environment, seed=0, index=number, step=1),
            place=Place(stage="rl", step=1, group=number),
            size=4,
        )
        for number, environment in enumerate(environments)
    ]


@pytest.fixture
def rolled_out(dice: Dice, chat: ChatFormat, fake_sandbox: FakeSandbox) -> Callable[..., Any]:
    async def run(requests: list[GroupRequest], concurrency: int = 32, sandbox: Any = None) -> GroupResults:
        limits = RolloutSettings(max_turns=4, max_prompt_tokens=2000)
        return await roll_out_groups(
            requests,
            sandbox=sandbox or fake_sandbox,
            generator=dice,
            chat=chat,
            settings=limits,
            concurrency=concurrency,
        )

    return run


async def test_groups_come_in_order_and_do_not_depend_on_what_runs_beside_them(
    rolled_out: Any, requests: list[GroupRequest], dice: Dice, fake_sandbox: FakeSandbox
) -> None:
    together = await rolled_out(requests)
    assert [g.trajectories[0].environment for g in together.groups] == [r.episode.name for r in requests]
    assert [[t.index for t in g.trajectories] for g in together.groups] == [[0, 1, 2, 3]] * 6
    assert dice.most > 4
    assert len({t.tokens for t in together.groups[0].trajectories}) > 1
    dice.most = 0
    alone = await rolled_out(requests, concurrency=1)
    assert dice.most <= 4
    assert alone == together
    assert (await rolled_out(requests[2:3])).groups == together.groups[2:3]
    assert not fake_sandbox.sessions


class Flaky:
    """A sandbox that cannot open sessions of some toolsets."""

    def __init__(self, sandbox: FakeSandbox, broken: set[str]):
        self._sandbox = sandbox
        self._broken = broken
        self.opened: list[int] = []

    async def open_sessions(self, toolset: Toolset, count: int, **options: Any) -> Any:
        if toolset.digest in self._broken:
            raise SandboxUnavailable("no server answers")
        self.opened.append(count)
        return await self._sandbox.open_sessions(toolset, count, **options)


async def test_a_group_that_the_sandbox_failed_is_excluded_and_counted(
    rolled_out: Any, requests: list[GroupRequest], fake_sandbox: FakeSandbox
) -> None:
    flaky = Flaky(fake_sandbox, {requests[1].episode.environment.toolset.digest})
    results = await rolled_out([*requests[:3]], sandbox=flaky)
    assert [g.trajectories[0].environment for g in results.groups] == ["e0", "e2"]
    ((reject),) = results.excluded
    assert (reject.name, reject.stage, reject.reason) == ("e1", "rollout", "SandboxUnavailable")
    assert "no server answers" in reject.message
    assert 4 in flaky.opened  # a group is opened as one
    assert not fake_sandbox.sessions


async def test_a_prompt_that_does_not_fit_excludes_its_group(
    rolled_out: Any, requests: list[GroupRequest], make_environment: Callable[..., Environment]
) -> None:
    long = make_environment(name="long", question="why? " * 2000)
    episode = Episode(environment=long, tools=long.toolset.tools)
    results = await rolled_out([requests[0], GroupRequest(episode, Place(stage="rl", step=1, group=9), 2)])
    assert len(results.groups) == 1
    assert [(reject.name, reject.reason) for reject in results.excluded] == [("long", "PromptTooLong")]


async def test_an_outage_stops_the_run_instead_of_hiding(
    rolled_out: Any, requests: list[GroupRequest], fake_sandbox: FakeSandbox
) -> None:
    flaky = Flaky(fake_sandbox, {request.episode.environment.toolset.digest for request in requests})
    with pytest.raises(SandboxError, match="no server answers"):
        await rolled_out(requests, sandbox=flaky)


async def test_one_rejected_toolset_is_no_outage(rolled_out: Any, make_environment: Callable[..., Environment]) -> None:
    """Even when it is all that was asked: the next round asks for others."""
    tool = {"name": "gone", "description": "Its source does not define it.", "parameters": {}}
    environment = make_environment(name="rejected", tools=[tool])
    request = GroupRequest(Episode(environment, environment.toolset.tools), Place(stage="rl", step=1, group=0), 2)
    results = await rolled_out([request])
    assert not results.groups
    assert [(reject.name, reject.reason) for reject in results.excluded] == [("rejected", "ToolsetRejected")]


async def test_a_bug_in_the_policy_is_not_an_infrastructure_failure(
    requests: list[GroupRequest], chat: ChatFormat, fake_sandbox: FakeSandbox
) -> None:
    class Broken:
        async def generate(self, context: Sequence[int], **options: Any) -> Generation:
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        await roll_out_groups(requests, sandbox=fake_sandbox, generator=Broken(), chat=chat, settings=RolloutSettings())
    assert not fake_sandbox.sessions


async def test_evaluation_gives_means_and_compares_checkpoints_on_equal_terms(
    make_environment: Callable[..., Environment], dice: Dice, chat: ChatFormat, fake_sandbox: FakeSandbox
) -> None:
    environments = [make_environment(name=f"e{n}", domain=f"d{n % 2}", source=f"# {n}") for n in range(4)]
    mixer = ToolMixer(environments, MixingSettings())

    async def run(stage: Any, step: int) -> Any:
        dice.asked.clear()
        return await evaluate(
            environments,
            stage=stage,
            step=step,
            samples=3,
            seed=5,
            mixer=mixer,
            sandbox=fake_sandbox,
            generator=dice,
            chat=chat,
            settings=RolloutSettings(max_turns=4, temperature=0.0),
        )

    first = await run("base", 0)
    seeds = sorted(dice.asked)
    assert {temperature for temperature, _ in seeds} == {0.0}
    rewards = [trajectory.reward for trajectory in first.trajectories]
    assert len(rewards) == 12
    assert first.f1 == pytest.approx(sum(reward.f1 for reward in rewards) / 12)
    assert first.recall == pytest.approx(sum(reward.recall for reward in rewards) / 12)
    assert first.precision == pytest.approx(sum(reward.precision for reward in rewards) / 12)
    assert first.calls == pytest.approx(sum(reward.calls for reward in rewards) / 12)
    assert first.shares["success"] == pytest.approx(sum(reward.success for reward in rewards) / 12)
    assert first.intervals["success"].low <= first.shares["success"] <= first.intervals["success"].high
    assert sum(first.domain_success.values()) / 2 == pytest.approx(first.shares["success"])
    assert set(first.hops_success) == {str(reward.needed) for reward in rewards}
    assert set(first.domain_f1) == {"d0", "d1"}
    assert sum(first.domain_f1.values()) / 2 == pytest.approx(first.f1)
    assert {trajectory.split for trajectory in first.trajectories} == {"holdout"}
    later = await run("rl", 40)
    assert sorted(dice.asked) == seeds
    assert [t.tokens for t in later.trajectories] == [t.tokens for t in first.trajectories]
    assert {(t.stage, t.step) for t in later.trajectories} == {("rl", 40)}
    with pytest.raises(ValueError, match="no held-out environment"):
        await evaluate(
            [], stage="rl", step=0, samples=1, seed=0, mixer=mixer, sandbox=fake_sandbox, generator=dice, chat=chat,
            settings=RolloutSettings(),
        )  # fmt: skip
