"""What tools cost a step."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.records import Toolset, ToolSpec
from astra_sandbox.fake import FakeSandbox
from astra_trainer.engines.verl.timeline import TimedSandbox, TimedSession, Timeline, waiting_seconds

SPAN = st.tuples(st.floats(0, 50), st.floats(0.125, 50)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@st.composite
def rollouts(draw: st.DrawFn) -> Timeline:
    began, ended = draw(SPAN)
    cuts = sorted(draw(st.lists(st.floats(began, ended), max_size=6)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    return Timeline(began, ended, calling=pairs)


@given(st.lists(rollouts(), max_size=6))
def test_waiting_is_counted_once_and_only_while_all_rollouts_wait(lines: list[Timeline]) -> None:
    """Against a clock that looks at every moment at which anything changes."""
    moments = sorted(
        {moment for line in lines for span in [(line.began, line.ended), *line.calling] for moment in span}
    )
    expected = 0.0
    for start, end in itertools.pairwise(moments):
        middle = (start + end) / 2
        under_way = [line for line in lines if line.began < middle < line.ended]
        waits = [any(begun < middle < done for begun, done in line.calling) for line in under_way]
        expected += (end - start) * (bool(under_way) and all(waits))
    assert waiting_seconds(lines) == pytest.approx(expected, abs=1e-6)


def test_latency_behind_the_generation_of_others_costs_nothing() -> None:
    alone = Timeline(0.0, 10.0, calling=[(2.0, 8.0)])
    beside = Timeline(0.0, 10.0, [(2.0, 8.0)])
    assert waiting_seconds([alone]) == pytest.approx(6.0)
    assert waiting_seconds([alone, beside]) == pytest.approx(0.0)
    assert alone.tool_seconds == pytest.approx(6.0)


async def test_calls_and_openings_are_noted_and_nothing_between_them() -> None:
    toolset = Toolset(tools=(ToolSpec(name="ping", description="", parameters={"type": "object"}),), source="")
    sandbox, timeline = FakeSandbox({"ping": lambda: 7}), Timeline()
    own = TimedSession((await sandbox.open_sessions(toolset, 1))[0], timeline)
    assert timeline.calling == [], "the group's sessions are opened before the rollout begins"
    assert (await own.call("ping", "{}", call_id="a")).observation() == "7"
    (other,) = await TimedSandbox(sandbox, timeline).open_sessions(toolset, 1)
    await asyncio.sleep(0.05)
    await other.call("ping", "{}")
    assert [record.call_id for record in own.log] == ["a"]
    first, opening, second = timeline.calling
    assert first[1] <= opening[0]
    assert second[0] - opening[1] >= 0.04
    for session in (own, other):
        await session.close()
