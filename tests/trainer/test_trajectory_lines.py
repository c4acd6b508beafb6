"""Trajectories that a run writes: data to learn from again, and files that others read."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.records import CallRecord, Message, ToolError, ToolErrorKind, ToolOutcome, ToolResult, Trajectory
from astra_sandbox.fake import FakeSandbox
from astra_trainer.chat import ChatFormat
from astra_trainer.demonstrations import DemonstrationSettings, demonstrate_all
from astra_trainer.file_dataset import load_demonstrations
from astra_trainer.mixing import MixingSettings, ToolMixer
from astra_trainer.trajectory_lines import dump_lines, read_lines

OUTCOMES = st.builds(ToolResult, json_text=st.text()) | st.builds(
    ToolError, kind=st.sampled_from(ToolErrorKind), message=st.text(), ended_process=st.booleans()
)


@pytest.fixture
async def made(
    chat: ChatFormat,
    fake_sandbox: FakeSandbox,
    make_environment: Callable[..., Environment],
    other_environments: list[Environment],
) -> list[Trajectory]:
    """Demonstrations with and without mistakes that are not learned, and with failures."""
    environment = make_environment()
    mixer = ToolMixer([environment, *other_environments], MixingSettings())
    episodes = [mixer.episode(environment, seed=0, index=index, step=0) for index in range(8)]
    return await demonstrate_all(
        episodes, sandbox=fake_sandbox, chat=chat, settings=DemonstrationSettings(recoveries=0.7), seed=0
    )


def test_trajectories_are_demonstrations_again(chat: ChatFormat, made: list[Trajectory], tmp_path: Path) -> None:
    """Token by token, mask by mask: what was offered, said, and kept out of the loss."""
    assert any(message.weight == 0 for trajectory in made for message in trajectory.messages)
    (tmp_path / "sft.jsonl").write_bytes(dump_lines(made))
    again = load_demonstrations(tmp_path / "sft.jsonl", chat)
    assert [(t.tokens, t.mask, t.tools, t.tool_schemas) for t in again] == [
        (t.tokens, t.mask, t.tools, t.tool_schemas) for t in made
    ]
    assert {t.digest for t in again} == {made[0].digest}


def _rollout(made: Sequence[Trajectory], *said: Message) -> Trajectory:
    return made[0].model_copy(update={"messages": (made[0].messages[0], *said), "stage": "rl", "ended": "max_tokens"})


def test_what_nothing_can_be_learned_from_is_left_out_and_told(
    chat: ChatFormat, made: list[Trajectory], tmp_path: Path
) -> None:
    call = made[0].messages[1].tool_calls[0]
    cut = Message(role="assistant", content="I thi", weight=0)
    answered = (Message(role="assistant", tool_calls=(call,), weight=1), Message(role="tool", content="1"))
    broken = Message(role="assistant", tool_calls=(call.model_copy(update={"arguments_json": "{"}),), weight=1)
    rollouts = [_rollout(made, cut), _rollout(made, *answered, cut), _rollout(made, broken), made[0]]
    (tmp_path / "rl.jsonl").write_bytes(dump_lines(rollouts))
    notes: list[str] = []
    kept, whole = load_demonstrations(tmp_path, chat, notes.append)
    assert kept.messages == rollouts[1].messages[:-1]
    assert whole.tokens == made[0].tokens
    (note,) = notes
    assert note.startswith(f"2 of 4 trajectories are left out; the first: {tmp_path}/rl.jsonl: line 1: messages must")


def test_a_trajectory_that_does_not_say_what_was_offered_is_refused(
    chat: ChatFormat, made: list[Trajectory], tmp_path: Path
) -> None:
    older = json.loads(dump_lines(made[:1]))
    for change, message in [
        ({"tool_schemas": []}, "line 1: tool_schemas: a schema for each of tools is needed"),
        ({"turns": "two"}, "line 1: not a trajectory: turns: "),
    ]:
        (tmp_path / "old.jsonl").write_text(json.dumps(older | change))
        with pytest.raises(BadInput, match=message):
            load_demonstrations(tmp_path, chat)


@given(outcome=OUTCOMES)
def test_an_outcome_is_written_in_one_shape_and_read_back(outcome: ToolOutcome) -> None:
    record = CallRecord(call_id="c", tool="t", arguments_json="{}", outcome=outcome)
    written = json.loads(record.model_dump_json())["outcome"]
    assert {key: type(value) for key, value in written.items()} == {
        "type": str,
        "json_text": str,
        "kind": str,
        "message": str,
        "ended_process": bool,
    }
    assert CallRecord.model_validate_json(record.model_dump_json()) == record


def test_an_outcome_of_both_kinds_is_none() -> None:
    record = {"call_id": "c", "tool": "t", "arguments_json": "{}"}
    both = {"type": "result", "json_text": "1", "kind": "RAISED", "message": "", "ended_process": False}
    with pytest.raises(ValueError, match="kind"):
        CallRecord.model_validate(record | {"outcome": both})


def _loaded(folder: Path, *files: Path) -> Any:
    return datasets.load_dataset("json", data_files=[str(f) for f in files], cache_dir=str(folder / "cache"))["train"]


def test_datasets_reads_what_is_written_and_it_comes_back_whole(made: list[Trajectory], tmp_path: Path) -> None:
    """Alone and together; a filter of `datasets` writes what is a trajectory still."""
    result = CallRecord(call_id="c", tool="t", arguments_json="{}", outcome=ToolResult(json_text="1"))
    failed = CallRecord(
        call_id="c", tool="t", arguments_json="{}", outcome=ToolError(kind=ToolErrorKind.RAISED, message="no")
    )
    files = []
    for name, calls in (("ok", [result]), ("bad", [failed]), ("both", [failed, result])):
        trajectories = [t.model_copy(update={"calls": (call,)}) for t in made for call in calls]
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_bytes(dump_lines(trajectories))
    features = [_loaded(tmp_path, file).features for file in files]
    assert features[0] == features[1] == features[2]
    together = _loaded(tmp_path, *files)
    assert len(together) == 4 * len(made)
    together.to_json(str(tmp_path / "again.jsonl"))
    fields = {
        "messages",
        "tools",
        "tool_schemas",
        "tokens",
        "mask",
        "calls",
        "digest",
    }  # rewards lose their last digits
    assert [t.model_dump(include=fields) for t in read_lines(tmp_path / "again.jsonl")] == [
        t.model_dump(include=fields) for file in files for t in read_lines(file)
    ]
