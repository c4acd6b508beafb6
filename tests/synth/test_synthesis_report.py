"""The report of a synthesis run: what it says, that it says it again, and that nothing in it is trusted."""

import json
from pathlib import Path

import pytest

from astra_api.errors import BadInput
from astra_api.plotting import chart, styled
from astra_sandbox.interface import Sandbox
from astra_synth.report import write_report
from astra_synth.report.plots import PLOTS
from astra_synth.report.reading import read_synthesis
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


def rejected(number: int, stage: str) -> dict[str, object]:
    """A finished item that was thrown away in a stage."""
    return {"produced": 0, "rejects": [], "record": {**ITEM, "name": f"x-{number:05d}", "stage": stage}}


ITEM = {
    "domain": "travel",
    "language": "en",
    "stateful": False,
    "reason": "Vague",
    "question": "?",
    "spent": {},
    "notes": [],
}


async def test_a_stage_that_nothing_entered_shows_a_dash(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "environments").mkdir()
    source = {"type": "questions", "path": "q.txt"}
    run = {"name": "x", "spec": {"count": 5, "seed": 0, "environments": {"source": source}}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    for number in range(3):
        (tmp_path / "done" / f"{number:04d}.json").write_text(json.dumps(rejected(number, "plan")))
    text = write_report(tmp_path).read_text()
    assert "<td>plan</td><td>3</td><td>0</td><td>3</td><td>0.0%</td>" in text
    assert "<td>build</td><td>0</td><td>0</td><td>0</td><td>–</td>" in text
    assert "100" not in text.partition("<h2>Stages</h2>")[2].partition("</table>")[0]
    synthesis = read_synthesis(tmp_path)
    assert [stage.yielded for stage in synthesis.accounts.stages()] == ["0%"] + ["–"] * 6
    with styled({}):
        figure = chart(next(plot for plot in PLOTS if plot.name == "yield"), synthesis)
        assert figure is not None
        assert {text.get_text() for text in figure.axes[0].texts} == {"0%", "–"}
        figure.canvas.draw()
        taken = figure.axes[0].get_tightbbox()
        assert taken is not None
        assert [legend for legend in figure.legends if not legend.get_window_extent().overlaps(taken)] == figure.legends
        assert len(figure.legends) == 1
        assert figure.axes[0].get_legend() is None


async def test_a_batch_that_is_made_again_meanwhile_is_passed_over(
    write_pack: WritePack, tmp_path: Path, sandbox: Sandbox
) -> None:
    """Its environments are there, its marker is not any more."""
    folder, out, run = write_pack().parent, tmp_path / "out", shop_run()
    await synthesize(run, open_run(run, folder), sandbox, out, lambda *_: None)
    made = len(read_synthesis(out).environments)
    marker = min(out.glob("done/*.json"))
    lost = json.loads(marker.read_text())["produced"]
    marker.unlink()
    assert len(read_synthesis(out).environments) == made - lost
    write_report(out)
