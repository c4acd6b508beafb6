"""The teacher's client against the scripted endpoint: typed errors, re-asks, budget, cache, transcript."""

import json
from pathlib import Path
from typing import Any

import pytest

from astra_api.errors import BadInput
from astra_api.synthesis_run import HopRange
from astra_api.synthesis_run import Teacher as TeacherSpec
from astra_synth.instances.checks import Wanted
from astra_synth.instances.plan import ASK, Plan
from astra_synth.teacher import BudgetExhausted, TeacherError, TeacherUnavailable, Unusable, open_teacher
from astra_synth.teacher.errors import (
    ConnectionLost,
    CutShort,
    Malformed,
    RateLimited,
    Refused,
    ServerFailed,
    TimedOut,
)

from ..scripted_teacher import ScriptedTeacher

WANTED = Wanted("en", HopRange(min=1, max=4), stateful=False)


async def ask(
    server: ScriptedTeacher, folder: Path, item: int, reasks: int = 1, check: Any = None, **spec: Any
) -> Plan:
    given = {"base_url": server.url, "model": "m", "retries": 1, "timeout_seconds": 30.0} | spec
    async with open_teacher(TeacherSpec.model_validate(given), None, folder, reasks=reasks, environ={}) as teacher:
        return await teacher.enquiry(seed=3).ask(
            ASK, check=check, domain="harbours", text=f"Port-{item:04d}", wanted=WANTED, turn=0
        )


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*.json"))


FAILURES: dict[str, tuple[type[TeacherError], str, int]] = {  # fault -> error, message, requests
    "http-429": (RateLimited, "429.*tried 2 times", 2),
    "http-500": (ServerFailed, "500.*tried 2 times", 2),
    "truncated": (ConnectionLost, "tried 2 times", 2),
    "timeout": (TimedOut, r"no answer within 0\.5 s, tried 2 times", 2),
    "refusal": (Refused, "I cannot help", 1),
    "content-filter": (Refused, "content filter", 1),
    "length": (CutShort, "ended early", 2),
    "no-completion": (TeacherUnavailable, r"no chat completion.*tried 2 times; is spec\.teacher\.baseUrl right\?", 2),
    "malformed": (Malformed, "no JSON object could be read", 2),
    "wrong-form": (Malformed, "question: Field required", 2),
}


@pytest.mark.parametrize("fault", FAILURES)
async def test_a_failure_has_a_type_and_is_never_an_answer(fault: str, tmp_path: Path) -> None:
    kind, message, requests = FAILURES[fault]
    with ScriptedTeacher({7: fault}) as server:
        with pytest.raises(kind, match=message):
            await ask(server, tmp_path, 7, timeout_seconds=0.5 if fault == "timeout" else 30.0)
        assert server.requests == requests


@pytest.mark.parametrize(("fault", "requests"), [("http-429-once", 2), ("http-500-once", 2), ("malformed-once", 2)])
async def test_what_passes_is_tried_again(fault: str, requests: int, tmp_path: Path) -> None:
    with ScriptedTeacher({7: fault}) as server:
        plan = await ask(server, tmp_path, 7)
        assert plan.steps[0].id == "s1"
        assert server.requests == requests


async def test_a_bad_answer_goes_back_with_what_is_wrong_with_it(tmp_path: Path) -> None:
    with ScriptedTeacher({7: "malformed-once"}) as server:
        await ask(server, tmp_path, 7)
        first, second = (json.loads(call.content)["messages"] for call in server.paid)
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert second[:2] == first
    assert "cannot be used: ask: no JSON object could be read" in second[3]["content"]


async def test_a_check_decides_what_can_be_used(tmp_path: Path) -> None:
    with ScriptedTeacher() as server:
        with pytest.raises(Unusable, match="too short") as caught:
            await ask(server, tmp_path, 7, check=lambda plan: ("TooShort", "it is too short"))
        assert caught.value.reason == "TooShort"
        assert len(server.paid) == 2


async def test_an_answer_is_paid_for_once_whatever_the_address(tmp_path: Path) -> None:
    with ScriptedTeacher() as first:
        plan = await ask(first, tmp_path, 7)
    with ScriptedTeacher() as second:
        assert await ask(second, tmp_path, 7) == plan
        assert second.requests == 0
        await ask(second, tmp_path, 7, model="another")
        await ask(second, tmp_path, 7, temperature=0.1)
        await ask(second, tmp_path, 8)
        assert second.requests == 3


async def test_even_an_answer_that_cannot_be_used_is_paid_for_once(tmp_path: Path) -> None:
    with ScriptedTeacher({7: "malformed"}) as server:
        for _ in range(2):
            with pytest.raises(Malformed):
                await ask(server, tmp_path, 7)
        assert server.requests == 2


async def test_a_transcript_of_every_call_without_the_key(tmp_path: Path) -> None:
    with ScriptedTeacher(expected_key="hidden") as server:
        spec = TeacherSpec(base_url=server.url, model="m")
        environ = {"ASTRA_TEACHER_API_KEY": "hidden"}
        async with open_teacher(spec, None, tmp_path, environ=environ) as teacher:
            enquiry = teacher.enquiry(1)
            enquiry.stage = "plan"
            await enquiry.ask(ASK, domain="harbours", text="Port-0007", wanted=WANTED, turn=0)
    (file,) = kept(tmp_path)
    call = json.loads(file.read_text())
    assert call["prompt"] == "ask"
    assert "Port-0007" in call["request"]["messages"][1]["content"]
    assert call["answer"]["finish"] == "stop"
    assert call["seconds"] >= 0
    assert "hidden" not in file.read_text()
    assert enquiry.spent["plan"].calls == 1
    assert enquiry.spent["plan"].tokens > 100


async def test_a_wrong_key_ends_the_run(tmp_path: Path) -> None:
    with ScriptedTeacher(expected_key="hidden") as server, pytest.raises(TeacherUnavailable, match="401 - a wrong key"):
        await ask(server, tmp_path, 7)


async def test_a_damaged_transcript_is_named(tmp_path: Path) -> None:
    with ScriptedTeacher() as server:
        await ask(server, tmp_path, 7)
        (file,) = kept(tmp_path)
        file.write_text(file.read_text()[:50])
        with pytest.raises(BadInput, match=r"cannot be read back: .*remove the file to ask again"):
            await ask(server, tmp_path, 7)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"tokens": 5000}, r"budget\.tokens: 5000 of 5000 are left, and the next call may use"),
        ({"seconds": 1e-9}, r"budget\.seconds"),
    ],
)
async def test_a_call_that_could_exceed_the_budget_is_not_made(
    budget: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with ScriptedTeacher() as server:
        with pytest.raises(BudgetExhausted, match=message):
            await ask(server, tmp_path, 7, budget=budget)
        assert server.requests == 0


async def test_the_budget_counts_what_earlier_starts_spent(tmp_path: Path) -> None:
    with ScriptedTeacher() as server:
        await ask(server, tmp_path, 7)
        await ask(server, tmp_path, 7, budget={"calls": 1})  # kept: costs nothing
        with pytest.raises(BudgetExhausted, match="all 1 are spent"):
            await ask(server, tmp_path, 8, budget={"calls": 1})
        assert len(server.paid) == 1
