import random
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astra_api.environment import Environment
from astra_api.records import ToolCall, ToolError, ToolErrorKind, ToolResult, Trajectory
from astra_sandbox.fake import FakeSandbox
from astra_sandbox.interface import SandboxError
from astra_trainer.chat import ChatFormat
from astra_trainer.generation import Generation, Generator
from astra_trainer.mixing import MixingSettings, ToolMixer
from astra_trainer.rollout import Episode, Place, PromptTooLong, RolloutSettings, episode_prompt, run_rollout

PLACE = Place(stage="rl", step=3, group=1, index=2)


def call(tool: str, arguments: str) -> ToolCall:
    return ToolCall(tool=tool, arguments_json=arguments)


PARIS, ROME = call("city_population", '{"city": "Paris"}'), call("city_population", '{"city": "Rome"}')
APART = call("difference", '{"a": 2148000, "b": 2873000}')


@pytest.fixture
def episode(make_environment: Callable[..., Environment], other_environments: list[Environment]) -> Episode:
    environment = make_environment()
    return ToolMixer([environment, *other_environments], MixingSettings()).episode(environment, seed=0, index=0, step=0)


@pytest.fixture
def rolled(chat: ChatFormat, fake_sandbox: FakeSandbox, episode: Episode) -> Callable[..., Any]:
    """Runs one rollout of `episode` in the in-memory sandbox."""

    async def run(generator: Generator, limits: RolloutSettings | None = None) -> Trajectory:
        (session,) = await fake_sandbox.open_sessions(episode.environment.toolset, 1)
        try:
            return await run_rollout(
                episode,
                place=PLACE,
                session=session,
                sandbox=fake_sandbox,
                generator=generator,
                chat=chat,
                settings=limits or RolloutSettings(),
            )
        finally:
            await session.close()

    return run


async def test_a_perfect_rollout(rolled: Any, chat: ChatFormat, scripted: Any, fake_sandbox: FakeSandbox) -> None:
    turns = [
        chat.assistant_turn("", [PARIS, ROME]),
        chat.assistant_turn("Now apart:", [APART]),
        chat.assistant_turn("The answer is 725000."),
    ]
    policy = scripted(chat, turns)
    trajectory = await rolled(policy)
    assert trajectory.ended == "answered"
    assert trajectory.turns == 3
    assert trajectory.reward.value == trajectory.reward.f1 == 1.0
    assert trajectory.reward.solved == ("s1", "s2", "s3")
    assert [message.role for message in trajectory.messages] == [
        "user", "assistant", "tool", "tool", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert [message.content for message in trajectory.messages if message.role == "tool"] == [
        "2148000", "2873000", "725000",
    ]  # fmt: skip
    assert [record.tool for record in trajectory.calls] == ["city_population", "city_population", "difference"]
    assert len({record.call_id for record in trajectory.calls}) == 3
    assert not fake_sandbox.sessions
    assert (trajectory.stage, trajectory.step, trajectory.group, trajectory.index) == ("rl", 3, 1, 2)


async def test_tokens_are_what_was_given_and_generated_in_order(
    rolled: Any, chat: ChatFormat, scripted: Any, episode: Episode
) -> None:
    turns = [chat.assistant_turn("", [PARIS, ROME]), chat.assistant_turn("Done.")]
    policy = scripted(chat, turns)
    trajectory = await rolled(policy)
    prompt = chat.prompt(episode.messages, episode.tools)
    responses = chat.tool_responses(["2148000", "2873000"])
    assert list(trajectory.tokens) == prompt + turns[0] + responses + turns[1]
    assert list(trajectory.mask) == [0] * len(prompt) + [1] * len(turns[0]) + [0] * len(responses) + [1] * len(turns[1])
    assert list(trajectory.logprobs) == [-0.5 * bit for bit in trajectory.mask]
    assert [list(context) for context in policy.contexts] == [prompt, prompt + turns[0] + responses]


class Monkey:
    """A random policy over raw token ids: mostly noise, sometimes a call in a tokenisation no encoder would choose."""

    def __init__(self, chat: ChatFormat, seed: int):
        self._chat = chat
        self._rng = random.Random(seed)
        self._stops = sorted(chat.stop_ids)
        self.generated: list[list[int]] = []
        self.contexts: list[list[int]] = []

    async def generate(self, context: Sequence[int], *, max_tokens: int, temperature: float, seed: int) -> Generation:
        noise = [self._rng.randrange(len(self._chat.tokenizer)) for _ in range(self._rng.randint(0, 6))]
        noise = [token for token in noise if token not in self._stops]
        tokens = noise + self._call() * self._rng.randint(0, 2) + [self._rng.choice(self._stops)]
        tokens = tokens[:max_tokens]
        self.contexts.append(list(context))
        self.generated.append(tokens)
        logprobs = [-self._rng.random() for _ in tokens]
        return Generation(tokens, logprobs, ended=bool(tokens) and tokens[-1] in self._stops)

    def _call(self) -> list[int]:
        """A readable call, cut into pieces at random and encoded piece by piece."""
        arguments = self._rng.choice(['{"city": "Paris"}', '{"city": 3}', "[", '{"text": "é<|im_end|>"}'])
        name = self._rng.choice(["city_population", "echo", "nothing"])
        text = f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'
        cuts = sorted({0, len(text), *(self._rng.randrange(len(text)) for _ in range(8))})
        pieces = [text[first:last] for first, last in pairwise(cuts)]
        ids = [token for piece in pieces for token in self._chat.tokenizer.encode(piece, add_special_tokens=False)]
        return [token for token in ids if token not in self._stops]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), budget=st.integers(1, 900), turns=st.integers(1, 6))
async def test_generated_tokens_are_never_encoded_again(
    rolled: Any, chat: ChatFormat, episode: Episode, seed: int, budget: int, turns: int
) -> None:
    """Whatever ids a policy samples, canonical or not, they stand in the trajectory as sampled: where the mask is 1
    stand exactly the turns that were generated to their end, every context is a prefix of the trajectory, and nothing
    else was added."""
    monkey = Monkey(chat, seed)
    trajectory = await rolled(monkey, RolloutSettings(max_turns=turns, max_response_tokens=budget))
    tokens = list(trajectory.tokens)
    whole = [turn for turn in monkey.generated if turn[-1] in chat.stop_ids]
    assert [token for token, bit in zip(tokens, trajectory.mask, strict=True) if bit] == list(chain(*whole))
    for context, generated in zip(monkey.contexts, monkey.generated, strict=True):
        assert tokens[: len(context)] == context
        assert tokens[len(context) : len(context) + len(generated)] == generated
    prompt = chat.prompt(episode.messages, episode.tools)
    assert len(tokens) - len(prompt) <= budget
    assert len(trajectory.logprobs) == len(tokens) == len(trajectory.mask)
    assert trajectory.turns == len(monkey.generated) <= turns
    assert trajectory.reward.calls == len(trajectory.calls)
    again = await rolled(Monkey(chat, seed), RolloutSettings(max_turns=turns, max_response_tokens=budget))
    assert again == trajectory


async def test_a_policy_that_never_encodes_canonically_is_really_tried(rolled: Any, chat: ChatFormat) -> None:
    """The property above is not vacuous: some of its turns do not survive decoding and encoding."""
    drifting = 0
    for seed in range(30):
        monkey = Monkey(chat, seed)
        await rolled(monkey, RolloutSettings(max_turns=3))
        for turn in monkey.generated:
            drifting += chat.tokenizer.encode(chat.text(turn), add_special_tokens=False) != turn
    assert drifting > 10


async def test_what_goes_wrong_in_a_call_is_an_observation_and_counts(
    rolled: Any, chat: ChatFormat, scripted: Any
) -> None:
    text = (
        '<tool_call>{"name": "city_population", "arguments": {"city": "Atlantis"}}</tool_call>'
        '<tool_call>{"name": "city_population", "arguments": {"town": "Paris"}}</tool_call>'
        '<tool_call>{"name": "city_population", "arguments": {"city": "Pa</tool_call>'
        '<tool_call>{"name": "open_file", "arguments": {}}</tool_call>'
        "<tool_call>nonsense</tool_call>"
    )
    turn = [*chat.tokenizer.encode(text, add_special_tokens=False), min(chat.stop_ids)]
    trajectory = await rolled(scripted(chat, [turn, chat.assistant_turn("I give up.")]))
    kinds = [record.outcome.kind for record in trajectory.calls if isinstance(record.outcome, ToolError)]
    invalid = ToolErrorKind.INVALID_ARGUMENTS
    assert kinds == [ToolErrorKind.RAISED, invalid, invalid, ToolErrorKind.UNKNOWN_TOOL, invalid]
    assert trajectory.reward.calls == 5
    assert trajectory.reward.value == 0.0
    assert [m.content for m in trajectory.messages if m.role == "tool"] == [
        record.outcome.observation() for record in trajectory.calls
    ]


async def test_a_mixed_in_tool_runs_in_a_session_of_its_own_toolset(
    rolled: Any,
    chat: ChatFormat,
    scripted: Any,
    fake_sandbox: FakeSandbox,
    episode: Episode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert set(episode.foreign) == {"echo", "mass"}
    opened = []
    really = fake_sandbox.open_sessions

    async def spy(toolset: Any, count: int, **options: Any) -> Any:
        opened.append((toolset.digest, count))
        return await really(toolset, count, **options)

    monkeypatch.setattr(fake_sandbox, "open_sessions", spy)
    echo = call("echo", '{"text": "x"}')
    trajectory = await rolled(
        scripted(
            chat, [chat.assistant_turn("", [PARIS, echo]), chat.assistant_turn("", [echo]), chat.assistant_turn("x")]
        )
    )
    assert opened == [(episode.environment.toolset.digest, 1), (episode.foreign["echo"].digest, 1)]
    assert [(r.tool, r.outcome) for r in trajectory.calls] == [
        ("city_population", ToolResult(json_text="2148000")),
        ("echo", ToolResult(json_text='"x"')),
        ("echo", ToolResult(json_text='"x"')),
    ]
    assert (trajectory.reward.calls, trajectory.reward.solved) == (3, ("s1",))
    assert not fake_sandbox.sessions


async def test_the_calls_of_the_last_turn_count(rolled: Any, chat: ChatFormat, scripted: Any) -> None:
    trajectory = await rolled(scripted(chat, [chat.assistant_turn("", [PARIS])]), RolloutSettings(max_turns=1))
    assert (trajectory.ended, trajectory.turns, trajectory.reward.solved) == ("max_turns", 1, ("s1",))
    assert trajectory.messages[-1].role == "assistant"


async def test_the_calls_of_a_turn_that_was_cut_do_not_run(rolled: Any, chat: ChatFormat, scripted: Any) -> None:
    turn = chat.assistant_turn("", [PARIS])
    limits = RolloutSettings(max_response_tokens=len(turn) - 1)
    trajectory = await rolled(scripted(chat, [turn]), limits)
    assert (trajectory.ended, trajectory.calls, trajectory.turns) == ("max_tokens", (), 1)


async def test_responses_that_do_not_fit_end_the_rollout(rolled: Any, chat: ChatFormat, scripted: Any) -> None:
    turn = chat.assistant_turn("", [PARIS])
    trajectory = await rolled(scripted(chat, [turn]), RolloutSettings(max_response_tokens=len(turn) + 2))
    assert (trajectory.ended, trajectory.reward.solved) == ("max_tokens", ("s1",))
    assert list(trajectory.tokens)[-len(turn) :] == turn


async def test_a_prompt_over_the_limit_is_refused_by_name(chat: ChatFormat, episode: Episode) -> None:
    with pytest.raises(PromptTooLong, match=r"^cities: the prompt has \d+ tokens, over maxPromptTokens 10"):
        episode_prompt(episode, chat, RolloutSettings(max_prompt_tokens=10))


async def test_a_sandbox_that_fails_is_never_scored(
    rolled: Any, chat: ChatFormat, scripted: Any, fake_sandbox: FakeSandbox
) -> None:
    class Leaving:
        async def generate(self, context: Sequence[int], **options: Any) -> Generation:
            fake_sandbox.sessions.clear()
            tokens = chat.assistant_turn("", [PARIS])
            return Generation(tokens, [0.0] * len(tokens), ended=True)

    with pytest.raises(SandboxError):
        await rolled(Leaving())


def test_randomness_depends_on_the_place_and_on_nothing_else() -> None:
    seeds = {
        (stage, step, group, index, turn): Place(
            stage=stage, step=step, group=group, index=index, seed=7
        ).turn_seed(turn)
        for stage in ("sft", "rl") for step in (0, 1) for group in (0, 1) for index in (0, 1) for turn in (0, 1)
    }  # fmt: skip
    assert len(set(seeds.values())) == 32
    one, other = (Place(stage="rl", step=0, group=1, index=index) for index in (0, 1))
    assert one.session_seed == other.session_seed
    held = [Place(stage=stage, step=step, group=1, split="holdout") for stage, step in (("base", 0), ("rl", 9))]
    assert held[0].turn_seed(0) == held[1].turn_seed(0)
