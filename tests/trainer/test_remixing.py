from collections.abc import Callable
from typing import Any

import pytest

from astra_api.environment import Environment
from astra_api.records import Trajectory
from astra_sandbox.fake import FakeSandbox
from astra_trainer.chat import ChatFormat
from astra_trainer.demonstrations import DemonstrationSettings, demonstrate_all
from astra_trainer.mixing import MixingSettings, ToolMixer
from astra_trainer.remixing import Remixer

WORDY = DemonstrationSettings(recoveries=1.0, detours=1.0)


@pytest.fixture
def environment(make_environment: Callable[..., Environment]) -> Environment:
    return make_environment()


@pytest.fixture
def mixer(environment: Environment, other_environments: list[Environment]) -> ToolMixer:
    return ToolMixer([environment, *other_environments], MixingSettings(per_band=1))


@pytest.fixture
async def demonstrations(
    environment: Environment, mixer: ToolMixer, chat: ChatFormat, fake_sandbox: FakeSandbox
) -> list[Trajectory]:
    episodes = [mixer.episode(environment, seed=3, index=number, step=0) for number in range(8)]
    return await demonstrate_all(episodes, sandbox=fake_sandbox, chat=chat, settings=WORDY, seed=3)


@pytest.fixture
def remixer(environment: Environment, mixer: ToolMixer, chat: ChatFormat) -> Callable[..., Remixer]:
    def make(max_length: int = 10**6, environments: Any = None) -> Remixer:
        known = [environment] if environments is None else environments
        return Remixer(known, mixer, chat, seed=3, max_length=max_length)

    return make


def prompt_length(chat: ChatFormat, environment: Environment, mixer: ToolMixer, number: int) -> int:
    episode = mixer.episode(environment, seed=3, index=number, step=0)
    return len(chat.prompt(episode.messages, episode.tools))


async def test_only_the_prompt_changes(
    demonstrations: list[Trajectory], remixer: Any, chat: ChatFormat, environment: Environment, mixer: ToolMixer
) -> None:
    own = {tool.name for tool in environment.toolset.tools}
    prompts = set()
    for number, demonstration in enumerate(demonstrations):
        before = prompt_length(chat, environment, mixer, number)
        for epoch in (1, 2, 3):
            again = remixer().remixed(demonstration, epoch)
            said = len(demonstration.tokens) - before
            assert again.tokens[-said:] == demonstration.tokens[before:]
            assert again.mask[-said:] == demonstration.mask[before:]
            assert not any(again.mask[:-said])
            text = chat.text(again.tokens[:-said])
            assert all(name in text for name in again.tools)
            assert own | ({call.tool for call in demonstration.calls} & set(demonstration.tools)) <= set(again.tools)
            assert len(set(again.tools)) == len(again.tools)
            assert again == remixer().remixed(demonstration, epoch), "a function of demonstration, epoch and seed"
            assert (again.messages, again.calls, again.reward) == (
                demonstration.messages,
                demonstration.calls,
                demonstration.reward,
            )
            prompts.add(again.tools)
    assert len(prompts) > len(demonstrations), "epochs differ"


async def test_the_first_epoch_is_what_was_executed(demonstrations: list[Trajectory], remixer: Any) -> None:
    assert [remixer().remixed(each, 0) for each in demonstrations] == demonstrations


async def test_what_would_be_too_long_stays_as_it_is(demonstrations: list[Trajectory], remixer: Any) -> None:
    assert remixer(max_length=10).remixed(demonstrations[0], 1) == demonstrations[0]


async def test_demonstrations_from_elsewhere_stay_as_they_are(demonstrations: list[Trajectory], remixer: Any) -> None:
    assert remixer(environments=[]).remixed(demonstrations[0], 1) == demonstrations[0]
