import json
from collections.abc import Callable
from typing import Any

import pytest

from astra_api.environment import Environment
from astra_api.records import ToolError, ToolErrorKind, Toolset, Trajectory
from astra_sandbox.fake import FakeSandbox
from astra_trainer.chat import ChatFormat
from astra_trainer.demonstrations import (
    INJECTED,
    DemonstrationSettings,
    GoldMismatch,
    demonstrate_all,
    invalid_calls,
    misread_calls,
)
from astra_trainer.mixing import MixingSettings, ToolMixer
from astra_trainer.rollout import Episode

NEVER, ALWAYS = DemonstrationSettings(recoveries=0.0), DemonstrationSettings(recoveries=1.0)


@pytest.fixture
def episode(make_environment: Callable[..., Environment], other_environments: list[Environment]) -> Episode:
    environment = make_environment()
    return ToolMixer([environment, *other_environments], MixingSettings()).episode(environment, seed=0, index=0, step=0)


@pytest.fixture
def demonstrated(chat: ChatFormat, fake_sandbox: FakeSandbox) -> Callable[..., Any]:
    async def run(episode: Episode, settings: DemonstrationSettings = NEVER, seed: int = 0) -> Trajectory:
        made = await demonstrate_all([episode], sandbox=fake_sandbox, chat=chat, settings=settings, seed=seed)
        return made[0]

    return run


def trained_text(chat: ChatFormat, trajectory: Trajectory) -> str:
    return chat.text([token for token, bit in zip(trajectory.tokens, trajectory.mask, strict=True) if bit])


async def test_parallel_steps_share_a_turn_and_dependent_ones_follow(
    demonstrated: Any, episode: Episode, chat: ChatFormat, fake_sandbox: FakeSandbox
) -> None:
    trajectory = await demonstrated(episode)
    assert [(m.role, len(m.tool_calls), m.content) for m in trajectory.messages[1:]] == [
        ("assistant", 2, ""),
        ("tool", 0, "2148000"),
        ("tool", 0, "2873000"),
        ("assistant", 1, ""),
        ("tool", 0, "725000"),
        ("assistant", 0, "The answer is 725000."),
    ]
    assert trajectory.reward.value == 1.0
    assert (trajectory.ended, trajectory.stage, trajectory.logprobs) == ("answered", "sft", ())
    assert set(trajectory.tools) == {"city_population", "difference", "echo", "mass"}
    assert not fake_sandbox.sessions
    said = [m for m in trajectory.messages if m.role == "assistant"]
    expected = "".join(chat.text(chat.assistant_turn(m.content, m.tool_calls)) for m in said)
    assert trained_text(chat, trajectory) == expected


async def test_recoveries_end_with_every_step_solved(demonstrated: Any, episode: Episode, chat: ChatFormat) -> None:
    """One call that solves nothing, and the right one; each kind of error comes up; no mistake is trained on."""
    kinds = set()
    struck = set()
    misread = 0
    for seed in range(60):
        trajectory = await demonstrated(episode, ALWAYS, seed)
        assert trajectory.reward.recall == 1.0
        assert trajectory.reward.calls == 4
        gold = {
            (step.call.tool, json.dumps(step.call.arguments)) for step in episode.environment.spec.steps if step.call
        }
        said = trained_text(chat, trajectory)
        assert said.endswith("The answer is 725000.<|im_end|>")
        injected = [record for record in trajectory.calls if record.call_id.startswith(INJECTED)]
        wrong = [record for record in trajectory.calls if (record.tool, record.arguments_json) not in gold]
        assert len(injected) + len(wrong) == 1
        (failed,) = injected or wrong
        assert said.count(f'"arguments": {failed.arguments_json}') == (2 if injected else 0)
        if not isinstance(failed.outcome, ToolError):  # another tool that knows the name
            assert failed.tool not in {tool.name for tool in episode.environment.spec.tools}
            continue
        misread += bool(wrong) and failed.outcome.kind is ToolErrorKind.RAISED
        kinds.add(failed.outcome.kind)
        struck.add(failed.tool)
    assert kinds == {ToolErrorKind.TIMED_OUT, ToolErrorKind.RAISED, ToolErrorKind.INVALID_ARGUMENTS}
    assert struck == {"city_population", "difference"}
    assert misread


async def test_the_share_of_recoveries_is_kept_and_seeded(
    chat: ChatFormat, fake_sandbox: FakeSandbox, episode: Episode
) -> None:
    async def failures(seed: int) -> list[bool]:
        trajectories = await demonstrate_all(
            [episode] * 150, sandbox=fake_sandbox, chat=chat, settings=DemonstrationSettings(), seed=seed
        )
        assert [trajectory.group for trajectory in trajectories] == list(range(150))
        return [trajectory.reward.precision < 1 for trajectory in trajectories]

    first = await failures(0)
    assert 15 <= sum(first) <= 45  # 20% of 150
    assert await failures(0) == first
    assert await failures(1) != first


async def test_detours_are_learned_and_solve_nothing(demonstrated: Any, episode: Episode, chat: ChatFormat) -> None:
    """After each gold call, in its turn, the same once more."""
    settings = DemonstrationSettings(recoveries=0.0, detours=1.0)
    for seed in range(10):
        trajectory = await demonstrated(episode, settings, seed)
        assert [len(m.tool_calls) for m in trajectory.messages if m.role == "assistant"] == [4, 2, 0]
        assert (trajectory.reward.recall, trajectory.reward.precision) == (1.0, 0.5)
        said = [m for m in trajectory.messages if m.role == "assistant"]
        expected = "".join(chat.text(chat.assistant_turn(m.content, m.tool_calls)) for m in said)
        assert trained_text(chat, trajectory) == expected
        needed = [step.call for step in episode.environment.spec.steps if step.call]
        for made in (trajectory.calls[::2], trajectory.calls[1::2]):
            assert [(record.tool, json.loads(record.arguments_json)) for record in made] == [
                (call.tool, call.arguments) for call in needed
            ]


@pytest.mark.parametrize(("state", "opened"), [("stateless", 3), ("stateful", 130)])
async def test_demonstrations_of_a_toolset_without_state_share_sessions(
    chat: ChatFormat,
    fake_sandbox: FakeSandbox,
    make_environment: Callable[..., Environment],
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    opened: int,
) -> None:
    environment = make_environment(state=state)
    episode = Episode(environment, environment.toolset.tools)
    counts = []
    open_sessions = fake_sandbox.open_sessions

    async def counted(toolset: Toolset, count: int, **settings: Any) -> Any:
        counts.append(count)
        return await open_sessions(toolset, count, **settings)

    monkeypatch.setattr(fake_sandbox, "open_sessions", counted)
    settings = DemonstrationSettings(recoveries=0.0, detours=1.0)
    made = await demonstrate_all([episode] * 130, sandbox=fake_sandbox, chat=chat, settings=settings, seed=0)
    assert [trajectory.group for trajectory in made] == list(range(130))
    assert {trajectory.reward.recall for trajectory in made} == {1.0}
    assert {trajectory.reward.calls for trajectory in made} == {6 if state == "stateless" else 3}  # no detours in state
    assert counts == [1] * opened
    assert not fake_sandbox.sessions


async def test_the_share_of_detours_is_kept_and_seeded(
    chat: ChatFormat, fake_sandbox: FakeSandbox, episode: Episode
) -> None:
    settings = DemonstrationSettings(recoveries=0.5, detours=0.3)

    async def calls(seed: int) -> list[int]:
        made = await demonstrate_all([episode] * 100, sandbox=fake_sandbox, chat=chat, settings=settings, seed=seed)
        assert all(trajectory.reward.recall == 1.0 for trajectory in made)
        return [trajectory.reward.calls for trajectory in made]

    first = await calls(0)
    assert 300 + 50 * 0.4 <= sum(first) - 250 * 0.3 <= 300 + 50 * 1.6  # half recover, by one call; detours beside
    assert await calls(0) == first
    assert await calls(1) != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 1}, r"cities: step s1: the gold call returns 2148000, not the gold answer 1 \(match: exact\)"),
        ({"call": {"tool": "city_population", "arguments": {"city": "Atlantis"}}}, "step s1: .* fails with RAISED"),
        ({"call": {"tool": "city_population", "arguments": {}}}, "step s1: .* fails with INVALID_ARGUMENTS"),
        ({"call": {"tool": "gone", "arguments": {}}}, "step s1: .* fails with UNKNOWN_TOOL"),
    ],
)  # fmt: skip
async def test_a_gold_call_that_does_not_hold_stops_the_data_set(
    demonstrated: Any, make_environment: Callable[..., Environment], fake_sandbox: FakeSandbox,
    change: dict[str, Any], message: str,
) -> None:  # fmt: skip
    step = {
        "id": "s1", "question": "?", "answer": 2148000,
        "call": {"tool": "city_population", "arguments": {"city": "Paris"}},
    }  # fmt: skip
    environment = make_environment(steps=[step | change])
    with pytest.raises(GoldMismatch, match=message):
        await demonstrated(Episode(environment, environment.toolset.tools))
    assert not fake_sandbox.sessions


async def test_one_bad_environment_stops_them_all(
    chat: ChatFormat, fake_sandbox: FakeSandbox, episode: Episode, make_environment: Callable[..., Environment]
) -> None:
    call = {"tool": "city_population", "arguments": {"city": "Oslo"}}
    bad = make_environment(name="bad", steps=[{"id": "s9", "question": "?", "answer": 1, "call": call}])
    episodes = [episode, Episode(bad, bad.toolset.tools), episode]
    with pytest.raises(GoldMismatch, match="bad: step s9"):
        await demonstrate_all(episodes, sandbox=fake_sandbox, chat=chat, settings=NEVER, seed=0)


async def test_a_cycle_is_refused_by_name(demonstrated: Any, make_environment: Callable[..., Environment]) -> None:
    steps = [{"id": a, "question": "?", "answer": 1, "dependsOn": [b]} for a, b in (("s1", "s2"), ("s2", "s1"))]
    environment = make_environment(steps=steps)
    with pytest.raises(GoldMismatch, match=r"cities: spec\.steps: .*cycle"):
        await demonstrated(Episode(environment, environment.toolset.tools))


async def test_reasoning_steps_take_no_turn(demonstrated: Any, make_environment: Callable[..., Environment]) -> None:
    call = {"tool": "city_population", "arguments": {"city": "Oslo"}}
    steps = [
        {"id": "s1", "question": "?", "answer": 709000, "call": call},
        {"id": "s2", "question": "?", "answer": "few", "dependsOn": ["s1"]},
    ]
    environment = make_environment(steps=steps, answer="few")
    trajectory = await demonstrated(Episode(environment, environment.toolset.tools), ALWAYS)
    assert trajectory.reward.recall == 1.0
    assert trajectory.messages[-1].content == "The answer is few."


def test_mistakes_break_the_schema_of_their_tool(make_environment: Callable[..., Environment]) -> None:
    environment = make_environment()
    calls = invalid_calls(environment.spec.steps[2], environment)
    assert len(calls) == 6
    for call in calls:
        arguments = json.loads(call.arguments_json)
        fine = set(arguments) == {"a", "b"} and all(isinstance(value, int) for value in arguments.values())
        assert not fine
    free = [{"name": "city_population", "description": "", "parameters": {"type": "object"}}]
    assert invalid_calls(environment.spec.steps[0], make_environment(tools=free)) == []


def test_misread_calls_are_accepted_by_a_schema_and_are_not_the_gold_call(
    make_environment: Callable[..., Environment],
) -> None:
    tools = [
        {"name": name, "description": "", "parameters": parameters}
        for name, parameters in {
            "population": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            "area": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
            "total": {"type": "object", "properties": {"of": {"type": "array"}}, "required": ["of"]},
        }.items()
    ]
    source = "def population(city):\n    return 1\ndef area(place):\n    return 2\ndef total(of):\n    return 3\n"
    call = {"tool": "population", "arguments": {"city": "New York"}}
    steps = [{"id": "s1", "question": "?", "answer": 1, "call": call}]
    environment = make_environment(tools=tools, source=source, steps=steps, answer=1)
    calls = misread_calls(environment.spec.steps[0], Episode(environment, environment.toolset.tools))
    assert [(each.tool, json.loads(each.arguments_json)) for each in calls] == [
        ("area", {"place": "New York"}),
        ("population", {"city": "New"}),
        ("population", {"city": "York"}),
        ("population", {"city": "New Yo"}),
    ]
    stateful = make_environment(tools=tools, source=source, steps=steps, answer=1, state="stateful")
    assert misread_calls(stateful.spec.steps[0], Episode(stateful, stateful.toolset.tools)) == []
