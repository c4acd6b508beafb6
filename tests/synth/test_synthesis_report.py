"""The report of a synthesis run: what it says, that it says it again, and that nothing in it is trusted."""

import json
from pathlib import Path

import pytest

from astra_api.errors import BadInput
from astra_sandbox.interface import Sandbox
from astra_synth.report import write_report
from astra_synth.run import open_run, synthesize

from .conftest import WritePack
from .scripted_teacher import ScriptedTeacher
from .taught import taught_run, write_seeds
from .test_run import shop_run

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_taught_run(tmp_path: Path, sandbox: Sandbox) -> None:
    write_seeds(tmp_path, range(20))
    out = tmp_path / "out"
    with ScriptedTeacher({4: "vague", 8: "poor", 12: "bad-merge", 16: "hard-coded-tool"}) as teacher:
        run = taught_run(teacher.url, 17, price={"input": 1.0, "output": 2.0})
        await synthesize(run, open_run(run, tmp_path), sandbox, out, lambda *_: None)
    page = write_report(out)
    text, plots = page.read_text(), {file.name: file.read_bytes() for file in (out / "plots").iterdir()}
    assert {"yield.png", "reasons.png", "hops.png", "scenarios.png", "quality.png", "tokens.png"} <= plots.keys()
    for word in ("deduplicate", "VagueAnswer", "LowQuality", "ConstantTool", "6,596", "91.3%"):
        assert word in text
    assert "<td>all</td><td>20</td><td>17</td><td>3</td>" in text
    assert "kept as it was" in text
    write_report(out)
    assert page.read_text() == text
    assert {file.name: file.read_bytes() for file in (out / "plots").iterdir()} == plots


async def test_a_run_over_tables(write_pack: WritePack, tmp_path: Path, sandbox: Sandbox) -> None:
    folder, out, run = write_pack().parent, tmp_path / "out", shop_run()
    await synthesize(run, open_run(run, folder), sandbox, out, lambda *_: None)
    text = write_report(out).read_text()
    assert "tables: pack.yaml" in text
    assert not (out / "plots" / "yield.png").exists()
    assert (out / "plots" / "hops.png").exists()


async def test_what_others_wrote_is_shown_and_not_run(tmp_path: Path, sandbox: Sandbox) -> None:
    write_seeds(tmp_path, [1])
    out = tmp_path / "out"
    with ScriptedTeacher() as teacher:
        run = taught_run(teacher.url, 1)
        await synthesize(run, open_run(run, tmp_path), sandbox, out, lambda *_: None)
    marker = out / "done" / "0000.json"
    done = json.loads(marker.read_text())
    done["rejects"] = [{"name": "x", "stage": "plan", "reason": "Odd", "message": "<script>alert(1)</script>\u202e"}]
    marker.write_text(json.dumps(done))
    text = write_report(out).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "\u202e" not in text


async def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not the output of a synthesis run"):
        write_report(tmp_path)
