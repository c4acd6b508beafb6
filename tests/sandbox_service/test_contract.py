"""The contract of Sandbox and Session: one suite, run on every implementation."""

import asyncio
import json

import pytest

from astra_api.records import SessionLimits, ToolError, ToolErrorKind, ToolOutcome, ToolResult, Toolset
from astra_sandbox.interface import Sandbox, Session, ToolsetRejected

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def open_one(sandbox: Sandbox, toolset: Toolset, **options: object) -> Session:
    return (await sandbox.open_sessions(toolset, 1, **options))[0]  # type: ignore[arg-type]


def value(outcome: ToolOutcome) -> object:
    assert isinstance(outcome, ToolResult), outcome
    return json.loads(outcome.json_text)


def error(outcome: ToolOutcome) -> tuple[ToolErrorKind, bool, str]:
    assert isinstance(outcome, ToolError), outcome
    return outcome.kind, outcome.ended_process, outcome.message


async def test_a_call_returns_the_result_as_json(sandbox: Sandbox, stateless: Toolset) -> None:
    session = await open_one(sandbox, stateless)
    assert await session.call("add", '{"a": 2, "b": 3}') == ToolResult(json_text="5")
    assert await session.call("echo", '{"value": {"b": [1, 2.5, null, true], "a": "ü€"}}') == ToolResult(
        json_text='{"b":[1,2.5,null,true],"a":"ü€"}'
    )
    await session.close()


async def test_the_log_holds_every_call_in_order(sandbox: Sandbox, stateless: Toolset) -> None:
    session = await open_one(sandbox, stateless)
    outcomes = [
        await session.call("add", '{"a": 1, "b": 1}', call_id="one"),
        await session.call("nothing", "{}"),
        await session.call("echo", '{"value": 1}', call_id="three"),
    ]
    assert [record.outcome for record in session.log] == outcomes
    assert [record.tool for record in session.log] == ["add", "nothing", "echo"]
    assert session.log[0].call_id == "one"
    assert len({record.call_id for record in session.log}) == 3
    await session.close()


async def test_an_unknown_tool_is_an_observation(sandbox: Sandbox, stateless: Toolset) -> None:
    session = await open_one(sandbox, stateless)
    for name in ("nothing", "__import__", "random", "_MEMORY", "sys\n", "", "n" * 5000):
        kind, ended, message = error(await session.call(name, "{}"))
        assert (kind, ended) == (ToolErrorKind.UNKNOWN_TOOL, False)
        assert "add" not in message
    await session.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"a": 1}', "b"),
        ('{"a": 1, "b": "x"}', "integer"),
        ('{"a": 1, "b": 2, "c": 3}', "c"),
        ("[1, 2]", "object"),
        ("", "JSON"),
        ('{"a": 1, "b": NaN}', "NaN"),
        ('{"a": 1, "a": 1, "b": 1}', "duplicate"),
        ('{"a": 9007199254740993, "b": 1}', "2^53"),
        ('{"a": ' + "[" * 100_000, "nested"),
        ('{"a": 1, "b": ' + "9" * 10_000 + "}", "2^53"),
        ('{"a": 1, "b": "\\ud800"}', "surrogate"),
        ('{"a": 1, "b": "\ud800"}', "surrogate"),
        ('{"a": "' + "x" * (1 << 20) + '"}', "bytes"),
    ],
)
async def test_bad_arguments_are_an_observation(
    sandbox: Sandbox, stateless: Toolset, arguments: str, said: str
) -> None:
    session = await open_one(sandbox, stateless)
    kind, ended, message = error(await session.call("add", arguments))
    assert (kind, ended) == (ToolErrorKind.INVALID_ARGUMENTS, False)
    assert said in message
    assert len(message) < 1000
    assert error(await session.call("add", arguments, call_id="again"))[2] == message
    assert value(await session.call("add", '{"a": 1, "b": 1}')) == 2
    await session.close()


async def test_what_a_tool_raises_is_an_observation(sandbox: Sandbox, stateless: Toolset) -> None:
    session = await open_one(sandbox, stateless)
    assert error(await session.call("fail", '{"text": "no such city"}')) == (
        ToolErrorKind.RAISED,
        False,
        "ValueError: no such city",
    )
    kind, ended, message = error(await session.call("fail", json.dumps({"text": "x" * 100_000})))
    assert (kind, ended) == (ToolErrorKind.RAISED, False)
    assert len(message) <= 1000
    assert error(await session.call("fail", '{"text": "<object at 0x7f00deadbeef>"}'))[2].endswith("<object at 0x...>")
    kind, ended, message = error(await session.call("dive", '{"depth": 0}'))
    assert (kind, ended) == (ToolErrorKind.RAISED, False)
    assert message.startswith("RecursionError")
    await session.close()


@pytest.mark.parametrize("kind", ["nan", "bytes", "set", "key", "big", "surrogate", "deep", "object"])
async def test_what_json_cannot_hold_is_raised(sandbox: Sandbox, stateless: Toolset, kind: str) -> None:
    session = await open_one(sandbox, stateless)
    raised = error(await session.call("unjsonable", json.dumps({"kind": kind})))
    assert raised[:2] == (ToolErrorKind.RAISED, False)
    assert "JSON cannot hold" in raised[2]
    await session.close()


async def test_a_result_over_the_limit_is_too_large(sandbox: Sandbox, stateless: Toolset) -> None:
    session = await open_one(sandbox, stateless, limits=SessionLimits(output_bytes=1000))
    assert value(await session.call("text", '{"length": 998}')) == "x" * 998
    kind, ended, message = error(await session.call("text", '{"length": 999}'))
    assert (kind, ended) == (ToolErrorKind.OUTPUT_TOO_LARGE, False)
    assert "1000" in message
    await session.close()


async def test_noise_does_no_harm(sandbox: Sandbox, stateless: Toolset, capfd: pytest.CaptureFixture[str]) -> None:
    session = await open_one(sandbox, stateless)
    assert value(await session.call("noisy", '{"value": 7}')) == 7
    await session.close()


async def test_a_repeated_call_id_returns_the_first_outcome(sandbox: Sandbox, stateful: Toolset) -> None:
    session = await open_one(sandbox, stateful)
    first = await session.call("remember", '{"item": 1}', call_id="a")
    assert await session.call("remember", '{"item": 1}', call_id="a") == first
    assert value(await session.call("remember", '{"item": 2}', call_id="b")) == [1, 2]
    with pytest.raises(ValueError, match="call_id"):
        await session.call("remember", '{"item": 3}', call_id="a")
    assert len(session.log) == 2
    await session.close()


async def test_calls_of_a_session_run_in_the_order_sent(sandbox: Sandbox, stateful: Toolset) -> None:
    session = await open_one(sandbox, stateful)
    items = list(range(20))
    outcomes = await asyncio.gather(*(session.call("remember", json.dumps({"item": item})) for item in items))
    assert value(outcomes[-1]) == items
    await session.close()


async def test_sessions_of_a_group_share_nothing(sandbox: Sandbox, stateful: Toolset) -> None:
    sessions = await sandbox.open_sessions(stateful, 8)
    assert len({session.id for session in sessions}) == 8
    outcomes = await asyncio.gather(
        *(session.call("remember", json.dumps({"item": index})) for index, session in enumerate(sessions))
    )
    assert [value(outcome) for outcome in outcomes] == [[index] for index in range(8)]
    for session in sessions:
        await session.close()


async def test_a_crowd_gets_the_outcomes_that_one_gets_alone(sandbox: Sandbox, stateful: Toolset) -> None:
    """Under gVisor many calls at once are answered through memory."""

    async def use(session: Session) -> list[ToolOutcome]:
        calls = [
            ("remember", '{"item": 1}'),
            ("text", '{"length": 20000}'),
            ("fail", '{"text": "no"}'),
            ("unjsonable", '{"kind": "deep"}'),
            ("leave", '{"status": 3}'),
            ("roll", "{}"),
            ("remember", '{"item": 2}'),
        ]
        return [await session.call(name, arguments) for name, arguments in calls]

    alone, *crowd = await sandbox.open_sessions(stateful, 25, seed=3)
    expected = await use(alone)
    assert value(expected[-1]) == [1, 2]
    assert await asyncio.gather(*(use(session) for session in crowd)) == [expected] * 24
    for session in (alone, *crowd):
        await session.close()


async def test_the_seed_decides_what_is_random(sandbox: Sandbox, stateful: Toolset, stateless: Toolset) -> None:
    async def rolls(toolset: Toolset, seed: int) -> list[object]:
        session = await open_one(sandbox, toolset, seed=seed)
        result = [value(await session.call("roll", "{}")) for _ in range(3)]
        await session.close()
        return result

    assert await rolls(stateful, 1) == await rolls(stateful, 1) != await rolls(stateful, 2)
    assert len(set(await rolls(stateful, 1))) == 3
    assert len(set(await rolls(stateless, 1))) == 1  # a stateless call does not depend on those before it


@pytest.mark.parametrize("status", [0, 3])
async def test_ending_the_process_costs_only_the_call(sandbox: Sandbox, stateful: Toolset, status: int) -> None:
    session = await open_one(sandbox, stateful, seed=5)
    rolled = [value(await session.call("roll", "{}"))]
    await session.call("remember", '{"item": "kept"}')
    kind, ended, message = error(await session.call("leave", json.dumps({"status": status})))
    assert (kind, ended) == (ToolErrorKind.RAISED, True)
    assert message == f"SystemExit: {status}"
    assert value(await session.call("remember", '{"item": "new"}')) == ["kept", "new"]
    rolled.append(value(await session.call("roll", "{}")))
    undisturbed = await open_one(sandbox, stateful, seed=5)
    assert [value(await undisturbed.call("roll", "{}")) for _ in range(2)] == rolled
    await session.close()
    await undisturbed.close()


async def test_a_stateless_session_survives_the_end_of_its_process(sandbox: Sandbox, stateless: Toolset) -> None:
    session = await open_one(sandbox, stateless)
    assert error(await session.call("leave", '{"status": 1}'))[1]
    assert value(await session.call("add", '{"a": 1, "b": 1}')) == 2
    await session.close()


async def test_a_toolset_without_its_function_is_rejected(sandbox: Sandbox, stateless: Toolset) -> None:
    missing = stateless.tools[0].model_copy(update={"name": "missing"})
    with pytest.raises(ToolsetRejected, match="missing"):
        await sandbox.open_sessions(stateless.model_copy(update={"tools": (missing,)}), 1)


async def test_a_bad_schema_is_rejected(sandbox: Sandbox, stateless: Toolset) -> None:
    for schema in ({"type": "objec"}, {"$ref": "http://127.0.0.1:9/schema"}):
        bad = stateless.tools[0].model_copy(update={"parameters": schema})
        with pytest.raises(ToolsetRejected, match="add"):
            await sandbox.open_sessions(stateless.model_copy(update={"tools": (bad,)}), 1)


async def test_the_status_counts(sandbox: Sandbox, stateless: Toolset) -> None:
    before = (await sandbox.status())[0].sessions
    sessions = await sandbox.open_sessions(stateless, 3)
    status = (await sandbox.status())[0]
    assert status.sessions == before + 3
    assert status.capacity == 64
    assert status.toolsets >= 1
    for session in sessions:
        await session.close()
    assert (await sandbox.status())[0].sessions == before
