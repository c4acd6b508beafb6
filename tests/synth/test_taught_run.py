"""A SynthesisRun with a teacher, end to end against a scripted one: yield, reasons, resume, money."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from astra_api.errors import BadInput
from astra_api.synthesis_run import RunVolume, SynthesisRunStatus
from astra_api.yaml_writing import manifest_text
from astra_sandbox.client import SandboxClient
from astra_sandbox.interface import Sandbox
from astra_synth.item import ItemRecord
from astra_synth.run import open_run, synthesize
from astra_synth.stages import STAGE_NAMES
from astra_synth.teacher import BudgetExhausted, TeacherUnavailable

from .scripted_teacher import FAULTS, TRANSIENT, ScriptedTeacher
from .taught import asking, contents, environments, rejects, taught_run, write_questions, write_seeds
from .teacher.answering import Say, answering

pytestmark = pytest.mark.asyncio(loop_scope="session")
PARALLEL = 4  # every fourth item asks in parallel: its plan has a step that depends on two others


IN_CHAINS = {"random-tool", "clock-tool", "hash-tool"}  # their first answer is a text


def placed(faults: list[str]) -> dict[int, str]:
    """Each fault on an item of its own, of the kind that can have it."""
    return {PARALLEL * (place + 1) + (fault in IN_CHAINS): fault for place, fault in enumerate(faults)}


def records(out: Path) -> list[ItemRecord]:
    files = sorted((out / "done").glob("*.json"))
    return [ItemRecord.model_validate(json.loads(file.read_text())["record"]) for file in files]


async def make(run: Any, folder: Path, out: Path, sandbox: Sandbox, cache: Path | None = None) -> SynthesisRunStatus:
    return await synthesize(run, open_run(run, folder, cache), sandbox, out, lambda *_: None)


@pytest.fixture(scope="module")
def teacher() -> Iterator[ScriptedTeacher]:
    """Without faults."""
    with ScriptedTeacher() as scripted:
        yield scripted


@pytest.mark.timeout(900)
async def test_200_environments_and_the_right_rejects(tmp_path: Path, sandbox: Sandbox) -> None:
    """Every fault of the script, on items among good ones: each ends in its own rejection, and in no other, but for
    those of the endpoint."""
    faults = placed([fault for fault in FAULTS if fault != "idle-change"])
    let_down = {number for number, fault in faults.items() if fault in TRANSIENT}
    wrong = {number: FAULTS[fault] for number, fault in faults.items() if FAULTS[fault] and number not in let_down}
    numbers = range(PARALLEL, PARALLEL + 200 + len(wrong) + len(let_down))
    write_seeds(tmp_path, numbers)
    with ScriptedTeacher(faults) as teacher:
        status = await make(taught_run(teacher.url, 200), tmp_path, tmp_path / "out", sandbox)
    expected = Counter(f"{stage}: {reason}" for stage, reason in wrong.values())
    assert Counter(f"{reject.stage}: {reject.reason}" for reject in rejects(tmp_path / "out")) == expected
    assert (status.phase, status.produced, status.rejected) == ("Succeeded", 200, len(wrong))
    assert Counter(status.rejected_by) == Counter(reason for _, reason in wrong.values())
    made = environments(tmp_path / "out")
    assert len({environment.name for environment in made}) == len({e.digest for e in made}) == 200
    for environment in made:
        assert environment.status is not None
        assert environment.status.phase == "Verified"
        assert set(environment.status.checks.values()) == {"passed"}
        assert environment.status.digest == environment.digest
    assert {environment.spec.language for environment in made} == {"en", "de", "zh"}
    scenarios = {environment.spec.scenario for environment in made}
    assert scenarios == {"single-hop", "parallel-single-hop", "multi-hop", "parallel-multi-hop"}
    kept = {faults[number]: record for record in records(tmp_path / "out") for number in faults if _is(record, number)}
    assert kept["cyclic-once"].repairs == 1
    assert any("NotBackwardCompatible" in note for note in kept["unwidened"].notes)
    assert any("not merged: GoldMismatch" in note for note in kept["bad-merge"].notes)
    assert len(let_down) == len(TRANSIENT)
    assert not any(_is(record, number) for record in records(tmp_path / "out") for number in let_down)


def _is(record: ItemRecord, number: int) -> bool:
    return f"-{number:04d}" in record.question


async def test_merged_steps_share_a_tool_and_failed_merges_do_not(tmp_path: Path, sandbox: Sandbox) -> None:
    write_seeds(tmp_path, [4, 8])
    with ScriptedTeacher({8: "bad-merge"}) as teacher:
        await make(taught_run(teacher.url, 2), tmp_path, tmp_path / "out", sandbox)
    made = environments(tmp_path / "out")
    tools = {"-0004" in made_.spec.question: [tool.name for tool in made_.spec.tools] for made_ in made}
    assert len(tools[True]) == 1
    assert len(set(tools[False])) == 2


async def test_stateful_environments(tmp_path: Path, sandbox: Sandbox, teacher: ScriptedTeacher) -> None:
    write_seeds(tmp_path, range(6))
    run = taught_run(teacher.url, 6, {"statefulShare": 1.0})
    await make(run, tmp_path, tmp_path / "out", sandbox)
    made = environments(tmp_path / "out")
    assert {environment.spec.state for environment in made} == {"stateful"}
    assert all(len(environment.spec.tools) == 2 for environment in made)


async def test_a_change_without_effect_is_rejected(tmp_path: Path, sandbox: Sandbox) -> None:
    write_seeds(tmp_path, [1, 2])
    with ScriptedTeacher({1: "idle-change"}) as teacher:
        run = taught_run(teacher.url, 1, {"statefulShare": 1.0})
        await make(run, tmp_path, tmp_path / "out", sandbox)
    found = rejects(tmp_path / "out")
    assert not found or [(reject.stage, reject.reason) for reject in found] == [FAULTS["idle-change"]]
    with ScriptedTeacher({1: "idle-change", 2: "idle-change"}) as teacher:
        run = taught_run(teacher.url, 1, {"statefulShare": 1.0, "path": "seeds.jsonl"})
        status = await make(run, tmp_path, tmp_path / "again", sandbox)
    assert status.phase == "Failed"
    assert set(status.rejected_by) == {"StateUnused"}


async def test_given_questions_keep_their_wording_and_language(
    tmp_path: Path, sandbox: Sandbox, teacher: ScriptedTeacher
) -> None:
    questions = [
        "Our company wants to know about Haven-0003: how many of them does this harbour have?",
        "Unsere Firma möchte etwas über Haven-0007 wissen: Wie viele davon hat dieser Hafen?",
    ]
    (tmp_path / "questions.txt").write_text("\n".join(questions))
    run = taught_run(teacher.url, 2)
    source = {"type": "questions", "path": "questions.txt"}
    spec = run.spec.model_dump(mode="json", by_alias=True) | {"environments": {"source": source}}
    run = type(run).model_validate({"metadata": {"name": "given"}, "spec": spec})
    await make(run, tmp_path, tmp_path / "out", sandbox)
    made = {environment.spec.question: environment.spec.language for environment in environments(tmp_path / "out")}
    assert made == dict(zip(questions, ("en", "de"), strict=True))


async def test_questions_are_used_once(tmp_path: Path, sandbox: Sandbox, teacher: ScriptedTeacher) -> None:
    write_questions(tmp_path, [3])
    status = await make(asking(teacher.url, 5), tmp_path, tmp_path / "out", sandbox)
    assert (status.phase, status.produced) == ("Failed", 1)


async def test_a_finished_run_pays_for_nothing_and_a_cache_serves_another(
    tmp_path: Path, sandbox: Sandbox, teacher: ScriptedTeacher
) -> None:
    write_seeds(tmp_path, range(10))
    run = taught_run(teacher.url, 8)
    await make(run, tmp_path, tmp_path / "out", sandbox)
    before, paid = contents(tmp_path / "out"), len(teacher.paid)
    await make(run, tmp_path, tmp_path / "out", sandbox)
    await make(run, tmp_path, tmp_path / "other", sandbox, cache=tmp_path / "out" / "teacher")
    assert len(teacher.paid) == paid
    assert contents(tmp_path / "out") == contents(tmp_path / "other") == before


async def test_no_item_is_paid_for_that_is_not_needed(tmp_path: Path, sandbox: Sandbox) -> None:
    write_seeds(tmp_path, range(40))
    with ScriptedTeacher() as teacher:
        await make(taught_run(teacher.url, 5, concurrency=16), tmp_path, tmp_path / "out", sandbox)
        assert len({call.item for call in teacher.paid}) == 5


async def test_a_judge_of_its_own(tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTRA_TEACHER_API_KEY", "author-key")
    monkeypatch.setenv("ASTRA_JUDGE_API_KEY", "judge-key")
    write_seeds(tmp_path, [4])
    with ScriptedTeacher(expected_key="author-key") as author, ScriptedTeacher(expected_key="judge-key") as other:
        run = taught_run(author.url, 1)
        judge = run.spec.teacher.model_copy(update={"base_url": other.url, "model": "judge"})  # type: ignore[union-attr]
        run = run.model_copy(update={"spec": run.spec.model_copy(update={"judge": judge})})
        await make(run, tmp_path, tmp_path / "out", sandbox)
    assert {call.task for call in other.paid} == {"review", "score"}
    assert not {"review", "score"} & {call.task for call in author.paid}
    kept = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert b"author-key" not in kept
    assert b"judge-key" not in kept


async def test_an_endpoint_that_knows_no_schemas(tmp_path: Path, sandbox: Sandbox) -> None:
    write_seeds(tmp_path, [4, 5])
    with ScriptedTeacher(understands_schemas=False) as teacher:
        status = await make(taught_run(teacher.url, 2), tmp_path, tmp_path / "out", sandbox)
        assert status.produced == 2
        assert not any("response_format" in call.content for call in teacher.paid)


async def test_a_budget_ends_the_run_and_more_of_it_goes_on(tmp_path: Path, sandbox: Sandbox) -> None:
    write_seeds(tmp_path, range(4))
    with ScriptedTeacher() as teacher:
        await make(taught_run(teacher.url, 3), tmp_path, tmp_path / "whole", sandbox)
        whole = len(teacher.paid)
        with pytest.raises(BudgetExhausted, match=r"budget\.calls: all 12 are spent"):
            await make(taught_run(teacher.url, 3, budget={"calls": 12}), tmp_path, tmp_path / "out", sandbox)
        assert len(teacher.paid) == whole + 12
        with pytest.raises(BudgetExhausted, match="calls"):
            await make(taught_run(teacher.url, 3, budget={"calls": 12}), tmp_path, tmp_path / "out", sandbox)
        assert len(teacher.paid) == whole + 12
        await make(taught_run(teacher.url, 3, budget={"calls": whole}), tmp_path, tmp_path / "out", sandbox)
        assert len(teacher.paid) == 2 * whole
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


async def test_an_outage_stops_the_run_and_rejects_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    write_seeds(tmp_path, range(30))
    down = {number: "http-500" for number in range(30)}
    with ScriptedTeacher(down) as teacher, pytest.raises(TeacherUnavailable, match="8 items in a row"):
        await make(taught_run(teacher.url, 20), tmp_path, tmp_path / "out", sandbox)
    assert not list((tmp_path / "out" / "done").iterdir())
    with ScriptedTeacher() as teacher:
        assert (await make(taught_run(teacher.url, 20), tmp_path, tmp_path / "out", sandbox)).produced == 20
    assert not rejects(tmp_path / "out")


async def test_an_item_that_is_let_down_is_made_later(tmp_path: Path, sandbox: Sandbox) -> None:
    """Others are made in the meantime; no question is lost, whether the endpoint recovers in this start or the next."""
    write_questions(tmp_path, range(4))
    with ScriptedTeacher({2: "http-500"}) as teacher:
        with pytest.raises(
            TeacherUnavailable, match=r"^1 item failed by the endpoint's fault, the last with TeacherSer"
        ):
            await make(asking(teacher.url, 4), tmp_path, tmp_path / "out", sandbox)
        tries = sum(tries for request, tries in teacher.seen.items() if "-0002" in request)
        assert tries == 3 * 2  # with a retry each: in its turn, soon after, and when all others were made
    assert (len(records(tmp_path / "out")), rejects(tmp_path / "out")) == (3, [])
    assert not (tmp_path / "out" / "status.json").exists()
    with ScriptedTeacher() as teacher:
        status = await make(asking(teacher.url, 4), tmp_path, tmp_path / "out", sandbox)
        assert {call.item for call in teacher.paid} == {2}
    assert (status.phase, status.produced, status.rejected) == ("Succeeded", 4, 0)


@pytest.mark.parametrize("fault", sorted(TRANSIENT))
async def test_an_outage_of_a_short_run_loses_nothing(fault: str, tmp_path: Path, sandbox: Sandbox) -> None:
    """Fewer questions than an outage has failures: none is rejected, and none is marked done."""
    write_questions(tmp_path, range(2))
    with ScriptedTeacher(dict.fromkeys(range(2), fault)) as teacher, pytest.raises(TeacherUnavailable):
        await make(asking(teacher.url, 2, timeoutSeconds=0.5, retries=0), tmp_path, tmp_path / "out", sandbox)
    assert not list((tmp_path / "out" / "done").iterdir())
    assert rejects(tmp_path / "out") == []
    with ScriptedTeacher() as teacher:
        status = await make(asking(teacher.url, 2), tmp_path, tmp_path / "out", sandbox)
    assert (status.phase, status.produced, status.rejected) == ("Succeeded", 2, 0)


WRONG_ADDRESSES: dict[str, tuple[Say, int]] = {  # and how many requests tell, one at a time
    "LM Studio": (Say({"error": "Unexpected endpoint or method. (POST /chat/completions)"}), 1),
    "a web UI": (Say("<!doctype html><title>Open WebUI</title>", kind="text/html"), 2),
    "nothing": (Say(""), 2),
    "another API": (Say({"object": "list", "data": []}), 2),
    "no such path": (Say("404 page not found", 404, "text/plain"), 1),
    "a page to sign in": (Say("", 302, headers={"Location": "https://login/"}), 1),
}


@pytest.mark.parametrize("name", WRONG_ADDRESSES)
async def test_a_wrong_address_is_told_at_once_and_can_be_mended(name: str, tmp_path: Path, sandbox: Sandbox) -> None:
    said, requests = WRONG_ADDRESSES[name]
    write_questions(tmp_path, range(3))
    with answering(said) as asked:
        with pytest.raises(TeacherUnavailable, match=r"is spec\.teacher\.baseUrl right\?"):
            await make(asking(asked.url, 2, concurrency=1), tmp_path, tmp_path / "out", sandbox)
        assert len(asked.bodies) == requests
    assert not list((tmp_path / "out" / "done").iterdir())
    with ScriptedTeacher() as teacher:
        status = await make(asking(teacher.url, 2), tmp_path, tmp_path / "out", sandbox)
    assert (status.phase, status.produced, status.rejected) == ("Succeeded", 2, 0)


async def test_what_every_request_is_refused_for_rejects_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    """A model's name that is unknown, say, told with 400: no item is to blame while none was ever answered."""
    write_questions(tmp_path, range(3))
    message = r"^3 items failed .* TeacherBadRequest: .*invalid model"
    with (
        answering(Say({"error": {"message": "invalid model"}}, 400)) as asked,
        pytest.raises(TeacherUnavailable, match=message),
    ):
        await make(asking(asked.url, 3), tmp_path, tmp_path / "out", sandbox)
    assert not list((tmp_path / "out" / "done").iterdir())


async def test_every_third_answer_is_an_error_in_a_200(tmp_path: Path, sandbox: Sandbox) -> None:
    write_seeds(tmp_path, range(3))
    with ScriptedTeacher(hiccup=3) as teacher:
        status = await make(taught_run(teacher.url, 1, concurrency=1), tmp_path, tmp_path / "out", sandbox)
    assert (status.phase, status.produced, status.rejected) == ("Succeeded", 1, 0)


async def test_an_item_that_is_let_down_once_is_gone_on_with(tmp_path: Path, sandbox: Sandbox) -> None:
    """What it has paid for is not lost, and no other is begun in its place."""
    write_seeds(tmp_path, range(8))
    with ScriptedTeacher(hiccup=15) as teacher:
        await make(taught_run(teacher.url, 2, retries=0), tmp_path, tmp_path / "out", sandbox)
        assert len({call.item for call in teacher.paid}) == 2
        assert max(Counter(call.content for call in teacher.paid).values()) == 1


async def test_what_an_earlier_version_rejected_by_the_endpoint_s_fault_is_made(
    tmp_path: Path, sandbox: Sandbox, teacher: ScriptedTeacher
) -> None:
    write_questions(tmp_path, range(2))
    await make(asking(teacher.url, 2), tmp_path, tmp_path / "out", sandbox)
    before = contents(tmp_path / "out")
    marker = tmp_path / "out" / "done" / "0001.json"
    marker.write_text(json.dumps(_let_down(json.loads(marker.read_text()))))
    (tmp_path / "out" / "environments" / "0001.yaml").unlink()
    status = await make(asking(teacher.url, 2), tmp_path, tmp_path / "out", sandbox)
    assert (status.produced, status.rejected) == (2, 0)
    assert contents(tmp_path / "out") == before


def _let_down(done: dict[str, Any]) -> dict[str, Any]:
    """The marker of an item as earlier versions wrote it when the endpoint let it down."""
    failed = {"reason": "TeacherServerFailed", "message": "HTTP 500"}
    reject = {"name": done["record"]["name"], "stage": "plan", **failed}
    return {"produced": 0, "rejects": [reject], "record": done["record"] | failed | {"transient": True}}


@pytest.mark.parametrize(("key", "message"), [("right", "404 - no such path"), ("wrong", "401 - a wrong key")])
async def test_an_endpoint_that_cannot_be_used(key: str, message: str, tmp_path: Path, sandbox: Sandbox) -> None:
    write_seeds(tmp_path, [1])
    with ScriptedTeacher(expected_key="right" if key == "wrong" else None) as teacher:
        url = teacher.url if key == "wrong" else teacher.url.replace("/v1", "/v2")
        with pytest.raises(TeacherUnavailable, match=message):
            await make(taught_run(url, 1), tmp_path, tmp_path / "out", sandbox)


async def test_no_endpoint_at_all(tmp_path: Path, sandbox: Sandbox) -> None:
    write_seeds(tmp_path, [1])
    with ScriptedTeacher() as teacher:
        url = teacher.url
    with pytest.raises(TeacherUnavailable, match="is the endpoint up"):
        await make(taught_run(url, 1, retries=0), tmp_path, tmp_path / "out", sandbox)


async def test_what_changes_the_output_is_another_run(
    tmp_path: Path, sandbox: Sandbox, teacher: ScriptedTeacher
) -> None:
    write_seeds(tmp_path, [1, 2])
    await make(taught_run(teacher.url, 1), tmp_path, tmp_path / "out", sandbox)
    with pytest.raises(BadInput, match=r"differs in spec\.environments\.qualityThreshold"):
        await make(taught_run(teacher.url, 1, qualityThreshold=0.5), tmp_path, tmp_path / "out", sandbox)
    here = taught_run(teacher.url, 1)
    volume = {"volume": RunVolume(claim_name="runs")}
    elsewhere = here.model_copy(update={"spec": here.spec.model_copy(update=volume)})
    await make(elsewhere, tmp_path, tmp_path / "out", sandbox)  # where it runs makes no difference
    write_seeds(tmp_path, [1, 3])
    with pytest.raises(BadInput, match="differs in seeds"):
        await make(taught_run(teacher.url, 1), tmp_path, tmp_path / "out", sandbox)


async def test_the_records_add_up(tmp_path: Path, sandbox: Sandbox) -> None:
    write_seeds(tmp_path, range(12))
    with ScriptedTeacher({3: "refusal", 4: "vague", 8: "poor"}) as teacher:
        run = taught_run(teacher.url, 9, price={"input": 2.0, "output": 8.0})
        await make(run, tmp_path, tmp_path / "out", sandbox)
        spent = [usage for record in records(tmp_path / "out") for usage in record.spent.values()]
        assert sum(usage.calls for usage in spent) == len(teacher.paid)
    assert all(set(record.spent) <= set(STAGE_NAMES) for record in records(tmp_path / "out"))
    cost = sum(2e-6 * usage.prompt_tokens + 8e-6 * usage.completion_tokens for usage in spent)
    assert sum(usage.cost for usage in spent) == pytest.approx(cost)


RUNNER = """\
import asyncio, sys
from pathlib import Path
from astra_api.manifests import load_manifests
from astra_api.yaml_writing import manifest_text
from astra_sandbox.client import SandboxClient
from astra_synth.run import open_run, synthesize

async def main(file, out, addresses):
    run = load_manifests([file])[0].resource
    await synthesize(run, open_run(run, file.parent), SandboxClient(addresses), out, lambda *_: None)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
"""


@pytest.mark.timeout(900)
async def test_killed_at_ten_points_it_ends_the_same_and_pays_for_nothing_twice(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    """SIGKILL, ten times, each after a random number of further paid calls."""
    assert isinstance(sandbox, SandboxClient)
    kills, concurrency = 10, 4
    faults = {4: "cyclic-once", 8: "hard-coded-once", 12: "bad-merge", 16: "vague", 20: "duplicate", 24: "poor"}
    write_seeds(tmp_path, range(1, 40))
    with ScriptedTeacher(faults) as teacher:
        run = taught_run(teacher.url, 30, {"statefulShare": 0.2}, concurrency=concurrency)
        await make(run, tmp_path, tmp_path / "whole", sandbox)
        whole = len(teacher.paid)
        out = tmp_path / "out"
        (tmp_path / "run.yaml").write_text(manifest_text([run]))
        teacher.paid.clear()
        points = sorted(random.Random(7).sample(range(1, whole - 1), kills))
        await asyncio.to_thread(_killed_and_finished, tmp_path / "run.yaml", out, sandbox.addresses, teacher, points)
        assert len(teacher.paid) - whole <= kills * concurrency  # those that were under way at a kill
    assert contents(out) == contents(tmp_path / "whole")


def _killed_and_finished(
    file: Path, out: Path, addresses: Sequence[str], teacher: ScriptedTeacher, points: list[int]
) -> None:
    """Runs to each number of paid calls, and is killed there; in the end, to its end. Checks what is paid for."""
    command = [sys.executable, "-c", RUNNER, str(file), str(out), *addresses]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    known: set[str | None] = set()
    for point in (*points, None):
        first = len(teacher.paid)
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        if point is not None:
            teacher.wait_paid(point, lambda process=process: process.poll() is not None)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        assert process.returncode == (-signal.SIGKILL if point else 0), err.decode()
        time.sleep(0.05)  # answers that are still being written go to no one
        again = [call.task for call in teacher.paid[first:] if call.key in known]
        assert not again, f"paid for again: {again}"
        known |= {file.stem for file in (out / "teacher").glob("??/*.json")}


async def test_what_is_under_way_at_an_interrupt_is_kept(tmp_path: Path, sandbox: Sandbox) -> None:
    """A polite end waits for the answers it has paid for: not one is paid for twice."""
    write_seeds(tmp_path, range(20))
    with ScriptedTeacher(latency=0.02) as teacher:
        run = taught_run(teacher.url, 12)
        for point in (5, 37, 60, 100):
            task = asyncio.create_task(make(run, tmp_path, tmp_path / "out", sandbox))
            await asyncio.to_thread(teacher.wait_paid, point)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await make(run, tmp_path, tmp_path / "out", sandbox)
        assert max(Counter(call.content for call in teacher.paid).values()) == 1
