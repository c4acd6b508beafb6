"""A SynthesisRun end to end: everything written was verified; interrupted and started again, it ends the same."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.manifests import load_manifests
from astra_api.records import Reject
from astra_api.synthesis_run import SynthesisRun
from astra_sandbox.interface import Isolation, Sandbox, SandboxError, Session
from astra_sandbox.launching import launch_local
from astra_synth.run import open_run, synthesize
from astra_synth.table_run import TableRun

from .conftest import MAKERS, PACK, WritePack

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE_RUNS = [*sorted(EXAMPLES.glob("synthesis/*.yaml")), EXAMPLES / "library/run.yaml"]
pytestmark = pytest.mark.asyncio(loop_scope="session")


def shop_run(**changes: Any) -> SynthesisRun:
    toolset = {"rows": 40, "environments": 3, "tools": {"min": 3, "max": 5}}
    spec: dict[str, Any] = {
        "count": 8,
        "seed": 3,
        "environments": {
            "source": {"type": "tables", "path": "pack.yaml", "toolset": toolset},
            "hops": {"min": 1, "max": 4},
            "labels": {"team": "a"},
        },
    } | changes
    return SynthesisRun.model_validate(
        {"apiVersion": "astra.farm/v1alpha1", "kind": "SynthesisRun", "metadata": {"name": "shop"}, "spec": spec}
    )


def contents(out: Path) -> dict[str, str]:
    return {str(file.relative_to(out)): file.read_text() for file in sorted(out.rglob("*")) if file.is_file()}


def environments(out: Path) -> list[Environment]:
    found = [manifest.resource for manifest in load_manifests([out / "environments"])]
    assert all(isinstance(resource, Environment) for resource in found)
    return found  # type: ignore[return-value]


class Interrupted(Exception):
    """Stands for whatever ends a run."""


class Counting:
    """A sandbox that counts the sessions opened through it, and can fail."""

    def __init__(self, sandbox: Sandbox, fail_after: int | None = None) -> None:
        self._sandbox, self._fail_after, self.opened = sandbox, fail_after, 0

    async def open_sessions(self, *arguments: Any, **options: Any) -> list[Session]:
        self.opened += 1
        if self._fail_after is not None and self.opened > self._fail_after:
            raise SandboxError("the server is gone")
        return await self._sandbox.open_sessions(*arguments, **options)

    async def status(self) -> Any:
        return await self._sandbox.status()

    async def close(self) -> None:
        await self._sandbox.close()


async def make(run: SynthesisRun, folder: Path, out: Path, sandbox: Sandbox, stop_at: int | None = None) -> Any:
    def progress(produced: int, rejected: int) -> None:
        if stop_at is not None and produced >= stop_at:
            raise Interrupted

    return await synthesize(run, open_run(run, folder), sandbox, out, progress)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def server() -> AsyncIterator[Sandbox]:
    async with launch_local(level=Isolation.PROCESS) as made:
        yield made


async def test_a_run_writes_verified_environments(write_pack: WritePack, tmp_path: Path, server: Sandbox) -> None:
    folder, out = write_pack().parent, tmp_path / "out"
    status = await make(shop_run(), folder, out, server)
    found = environments(out)
    assert (status.phase, status.produced) == ("Succeeded", 8)
    assert len({environment.name for environment in found}) == len(found) == 8
    for environment in found:
        assert environment.status is not None
        assert environment.status.phase == "Verified"
        assert set(environment.status.checks.values()) == {"passed"}
        assert environment.status.digest == environment.digest
        assert environment.metadata.labels["team"] == "a"
    rejects = [Reject.model_validate_json(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert len(rejects) == status.rejected == sum(status.rejected_by.values())
    assert json.loads((out / "status.json").read_text())["produced"] == 8


async def test_an_interrupted_run_goes_on_and_ends_the_same(
    write_pack: WritePack, tmp_path: Path, server: Sandbox
) -> None:
    folder = write_pack().parent
    await make(shop_run(), folder, tmp_path / "whole", server)
    out = tmp_path / "parts"
    with pytest.raises(Interrupted):
        await make(shop_run(), folder, out, server, stop_at=3)
    early = {file.name: file.stat().st_mtime_ns for file in (out / "environments").glob("*.yaml")}
    assert early
    (out / "environments" / "0001.yaml.part").write_text("half a f")  # what a kill leaves behind
    await make(shop_run(), folder, out, server)
    (out / "environments" / "0001.yaml.part").unlink(missing_ok=True)
    assert contents(out) == contents(tmp_path / "whole")
    assert {name: (out / "environments" / name).stat().st_mtime_ns for name in early} == early


async def test_a_finished_run_does_nothing_twice(write_pack: WritePack, tmp_path: Path, server: Sandbox) -> None:
    folder, out = write_pack().parent, tmp_path / "out"
    first = await make(shop_run(), folder, out, server)
    before = contents(out)
    counting = Counting(server)
    assert await make(shop_run(), folder, out, counting) == first
    assert counting.opened == 0
    assert contents(out) == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"seed": 4}, "spec.seed"), ({"count": 9}, "spec.count")],
)
async def test_another_run_may_not_use_the_directory(
    changes: dict[str, Any], field: str, write_pack: WritePack, tmp_path: Path, server: Sandbox
) -> None:
    folder, out = write_pack().parent, tmp_path / "out"
    await make(shop_run(count=2), folder, out, server)
    before = contents(out)
    with pytest.raises(BadInput, match=rf"holds another run, which differs in {field}; choose another directory"):
        await make(shop_run(**({"count": 2} | changes)), folder, out, server)
    assert contents(out) == before


async def test_changed_tables_are_another_run(write_pack: WritePack, tmp_path: Path, server: Sandbox) -> None:
    folder, out = write_pack().parent, tmp_path / "out"
    await make(shop_run(count=2), folder, out, server)
    write_pack(makers=MAKERS.replace("1931", "1932"))
    with pytest.raises(BadInput, match=r"holds another run, which differs in tables"):
        await make(shop_run(count=2), folder, out, server)


async def test_a_failing_sandbox_is_no_reject(write_pack: WritePack, tmp_path: Path, server: Sandbox) -> None:
    folder, out = write_pack().parent, tmp_path / "out"
    with pytest.raises(SandboxError, match="could not be verified"):
        await make(shop_run(), folder, out, Counting(server, fail_after=4))
    assert not [line for line in (out / "rejects.jsonl").read_text().splitlines() if '"verify"' in line]
    assert (await make(shop_run(), folder, out, server)).phase == "Succeeded"


async def test_tables_that_give_too_little_fail_the_run(write_pack: WritePack, tmp_path: Path, server: Sandbox) -> None:
    run = shop_run(
        count=3,
        environments={
            "source": {"type": "tables", "path": "pack.yaml", "toolset": {"rows": 40, "tools": {"min": 30, "max": 30}}}
        },
    )
    status = await make(run, write_pack().parent, tmp_path / "out", server)
    assert (status.phase, status.produced) == ("Failed", 0)
    assert set(status.rejected_by) == {"few-tools", "exhausted"}


async def test_exhausted_tables_end_the_run_early_and_alike(
    write_pack: WritePack, tmp_path: Path, server: Sandbox
) -> None:
    """Three makers with one fact each: a handful of questions, whatever the count."""
    rows = "name,country,founded\nArbo,Norway,1931\nBelkor,Kenya,1974\nCindal,Peru,1988\nDravik,Chile,1952\n"
    pack = PACK.partition("  product:")[0]
    folder = write_pack(pack=pack, makers=rows).parent
    source = {
        "type": "tables", "path": "pack.yaml",
        "toolset": {"rows": 8, "environments": 3, "tools": {"min": 1, "max": 2}, "kinds": ["lookup"]},
    }  # fmt: skip
    run = shop_run(count=100_000, environments={"source": source, "hops": {"min": 1, "max": 1}})
    status = await make(run, folder, tmp_path / "out", server)
    assert status.phase == "Failed"
    assert 4 <= status.produced < 400
    last = Reject.model_validate_json((tmp_path / "out" / "rejects.jsonl").read_text().splitlines()[-1])
    assert (last.stage, last.reason) == ("toolset", "exhausted")
    before = contents(tmp_path / "out")
    assert await make(run, folder, tmp_path / "out", server) == status
    assert contents(tmp_path / "out") == before


async def test_what_a_verifier_rejects_is_replaced(
    write_pack: WritePack, tmp_path: Path, server: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first draft of every third environment is spoilt; the verifier sees it and another takes its place."""
    folder = write_pack().parent
    run = shop_run()
    source = open_run(run, folder)
    assert isinstance(source, TableRun)
    generator = source.generator
    original = generator.make

    def spoilt(index: int, skip: int = 0) -> Any:
        made = original(index, skip)
        if index % 3 or skip or made.environment is None:
            return made
        spec = made.environment.spec.model_copy(update={"answer": "no such answer"})
        return type(made)(index, made.environment.model_copy(update={"spec": spec}), made.rejects)

    monkeypatch.setattr(generator, "make", spoilt)
    status = await synthesize(run, source, server, tmp_path / "out", lambda *_: None)
    assert status.produced == 8
    assert status.rejected_by["AnswerNotTerminal"] == 3
    assert all(environment.spec.answer != "no such answer" for environment in environments(tmp_path / "out"))


@pytest.mark.parametrize("example", EXAMPLE_RUNS, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_examples_run(example: Path, tmp_path: Path, server: Sandbox) -> None:
    run = load_manifests([example])[0].resource
    assert isinstance(run, SynthesisRun)
    status = await make(run, example.parent, tmp_path / "out", server)
    assert (status.phase, status.produced) == ("Succeeded", run.spec.count)
    assert len(environments(tmp_path / "out")) == run.spec.count


async def test_cancelling_leaves_what_was_complete(write_pack: WritePack, tmp_path: Path, server: Sandbox) -> None:
    folder, out = write_pack().parent, tmp_path / "out"
    seen = asyncio.Event()
    run = shop_run(count=60)

    task = asyncio.create_task(
        synthesize(run, open_run(run, folder), server, out, lambda produced, _: seen.set() if produced >= 3 else None)
    )
    await seen.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    kept = environments(out)
    assert 3 <= len(kept) < 60
    assert (out / "rejects.jsonl").exists()


async def test_an_interrupt_at_the_last_environment_ends_the_run(
    write_pack: WritePack, tmp_path: Path, server: Sandbox
) -> None:
    """What is under way beyond the last batch is being given up just then; the interrupt counts all the same."""
    folder, run, out = write_pack().parent, shop_run(), tmp_path / "out"

    def interrupt(produced: int, rejected: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        if produced >= run.spec.count:
            task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(synthesize(run, open_run(run, folder), server, out, interrupt))
    assert not (out / "status.json").exists()
