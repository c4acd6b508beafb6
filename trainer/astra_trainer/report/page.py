"""The page: what the run was, its figures, its plots, and a few trajectories to read."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2

from astra_api.display import share
from astra_api.files import replace
from astra_api.plotting import draw
from astra_trainer.report.plots import PLOTS, STYLE
from astra_trainer.report.reading import choose, question, turns
from astra_trainer.report.run_record import Line, RunRecord, Trained, read_run, series
from astra_trainer.report.wording import STAGE_NAMES, duration, figure, shortened, visible
from astra_trainer.run_directory import CONTAINMENT, Stage

_PLOTS = "plots"
_HOW = ("unsolved", "solved")  # the ways in which all rollouts of a discarded group may be the same
_ENDED = {"answered": "answered", "max_turns": "stopped at the last turn allowed", "max_tokens": "cut: out of tokens"}


@dataclass(frozen=True)
class StageRow:
    """A stage of the run in the table of stages."""

    name: str
    steps: str
    trained: str
    seconds: str
    figures: tuple[str, ...]  # held-out success, answers, all steps solved, F1, recall, precision, calls
    checkpoint: str
    finished: bool


def write_report(directory: Path) -> Path:
    """Writes `report.html` and its plots into the directory of a run; returns the page's path.

    Takes a run at any point: what it does not have yet is left out. The same directory gives the same bytes. Raises
    BadInput when it is not the directory of a run or a file in it is damaged.
    """
    record = read_run(directory)
    content = _content(record)
    template = _environment().from_string(
        (files("astra_trainer") / "templates" / "report.html.jinja").read_text(encoding="utf-8")
    )
    page = directory / "report.html"
    sections = draw(PLOTS, record, directory / _PLOTS, STYLE)
    replace(page, template.render(**content, sections=sections).encode())
    return page


def _content(record: RunRecord) -> dict[str, Any]:
    trained: dict[Stage, Trained] = {"sft": record.trained("sft"), "rl": record.trained("rl")}
    rows = list(_stages(record, trained))
    name, figures = _headline(record)
    stages = list(record.evaluations)
    last, before = (stages[-1] if stages else None), (stages[-2] if len(stages) > 1 else None)
    gain = figures[last] - figures[before] if last and before else math.nan
    after = record.held_out(last) if last else []
    return {
        "name": visible(record.run.metadata.name),
        "facts": _facts(record, trained, len({trajectory.environment for trajectory in after})),
        "warnings": list(_warnings(record)),
        "unfinished": [row for row in rows if not row.finished],
        "headline": [
            (f"{STAGE_NAMES[stage]}, held-out {name}", stage, figure(value), _interval(record.evaluations[stage], name))
            for stage, value in figures.items()
        ],
        "paired": _paired(record.evaluations[last]) if last and before else None,
        "gain": f"{gain:+.3f}" if math.isfinite(gain) else None,
        "gain_from": STAGE_NAMES[before] if before else None,
        "gain_to": STAGE_NAMES[last] if last else None,
        "stages": rows,
        "choices": choose(after, record.held_out(before) if before else []),
        "after": STAGE_NAMES[last] if last else None,
        "before": STAGE_NAMES[before] if before else None,
        "ended": _ENDED,
    }


def _headline(record: RunRecord) -> tuple[str, dict[Stage, float]]:
    """The figure that says whether the agent does its job, of each stage; F1 where earlier versions told no success."""
    for name in ("success", "f1"):
        found = {stage: series([line], f"holdout_{name}")[0] for stage, line in record.evaluations.items()}
        if any(map(math.isfinite, found.values())):
            return {"success": "success", "f1": "F1"}[name], found
    return "success", {stage: math.nan for stage in record.evaluations}


def _interval(line: Line, name: str) -> str:
    low, high = line.get(f"holdout_{name}_interval") or (math.nan, math.nan)
    return f"95%: {figure(low, 2)} to {figure(high, 2)}" if math.isfinite(low) else ""


def _paired(line: Line) -> str | None:
    """How the last stage did on the prompts that the one before was asked too."""
    if line.get("success_p") is None:
        return None
    return f"{line['success_gained']} gained, {line['success_lost']} lost, p = {line['success_p']:.2g}"


def _warnings(record: RunRecord) -> Iterator[str]:
    """What a reader must know before the figures: a reward that misleads, groups rolled out for nothing, and why."""
    lines = list(record.evaluations.values())
    for before, after in pairwise(lines):
        (f1, rose), (success, fell) = (series([before, after], f"holdout_{name}") for name in ("f1", "success"))
        if rose > f1 and fell < success:
            yield (
                f"After {STAGE_NAMES[after['stage']]} held-out F1 rose from {figure(f1)} to {figure(rose)} while "
                f"success fell from {figure(success)} to {figure(fell)} "
                f"({_paired(after) or 'not compared by prompts'}): the agent earns more and does its job less often."
            )
    lines = [line for line in record.steps("rl") if line.get("offered")]
    offered = math.fsum(series(lines, "offered"))
    discarded = round(math.fsum(line["offered"] * (line.get("discarded_share") or 0.0) for line in lines))
    if discarded:
        yield (
            f"{share(discarded, offered)} of the groups of RL ({discarded:,} of {offered:,.0f}) were discarded: all "
            f"rollouts of such a group earned the same, so it teaches nothing.{_why(lines)}"
        )
    idle = sum(line.get("groups") == 0 for line in lines)
    if idle:
        yield f"In {idle} of {len(record.steps('rl'))} steps of RL no group was left, and nothing was learned."
    excluded = round(math.fsum(line.get("excluded") or 0 for line in record.lines))
    if excluded:
        yield f"{excluded:,} groups were left out: their sandboxes failed them, or their prompts were too long."


def _why(lines: Sequence[Line]) -> str:
    unsolved, solved = (round(math.fsum(line.get(f"discarded_{how}") or 0 for line in lines)) for how in _HOW)
    parts = [f"in {unsolved:,} no rollout solved anything (too hard as yet: more SFT, or easier environments)"]
    parts = parts if unsolved else []
    parts += [f"in {solved:,} all solved everything (too easy: harder environments)"] if solved else []
    said = ", ".join(parts)
    return f" {said[0].upper()}{said[1:]}." if said else ""


def _facts(record: RunRecord, trained: dict[Stage, Trained], held_out: int) -> list[tuple[str, str]]:
    spec = record.run.spec
    names = frozenset().union(*(what.environments for what in trained.values()))
    domains = {domain for line in record.evaluations.values() for domain in line.get("domain_f1") or {}}
    facts = [
        ("Model", _model(record)),
        ("Seed", str(spec.seed)),
        ("Engine", spec.engine),
        ("Environments", f"{len(names):,} trained on · {held_out:,} held out, {len(domains)} domains"),
        *([("What is held out", record.overlap)] if record.overlap else []),
        ("Time", f"{duration(record.seconds)} in steps and evaluations"),
    ]
    if record.uploads is not None:
        facts.append(("Object storage", visible(record.uploads)))
    containment = record.run.metadata.annotations.get(CONTAINMENT)
    return [*facts, ("Sandboxes", visible(containment.removeprefix("sandbox containment: ")))] if containment else facts


def _model(record: RunRecord) -> str:
    model = record.run.spec.model
    if model.preset:
        return f"{model.preset}, from scratch"
    if model.gguf:
        return visible(f"{model.gguf.package or model.gguf.path} (GGUF)")
    return visible(model.name or model.path or "")


def _stages(record: RunRecord, trained: dict[Stage, Trained]) -> Iterator[StageRow]:
    spec = record.run.spec
    wanted: dict[Stage, bool] = {"base": True, "sft": spec.sft is not None, "rl": spec.rl is not None}
    for stage in (stage for stage, asked in wanted.items() if asked):
        steps, evaluation = record.steps(stage), record.evaluations.get(stage)
        lines = [*steps, *([evaluation] if evaluation else [])]
        total = f" of {spec.rl.steps}" if stage == "rl" and spec.rl else ""
        done = int(steps[-1]["step"]) if steps else 0
        yield StageRow(
            name=STAGE_NAMES[stage],
            steps="" if stage == "base" else f"{done}{total}",
            trained=_trained(stage, trained.get(stage)),
            seconds=duration(sum(second for second in series(lines, "seconds") if second == second)) if lines else "",
            figures=tuple(
                figure(series([evaluation or {}], f"holdout_{name}")[0])
                for name in ("success", "answer", "solved", "f1", "recall", "precision", "calls")
            ),
            checkpoint=_checkpoint(record.directory, stage, done),
            finished=evaluation is not None,
        )


def _trained(stage: Stage, what: Trained | None) -> str:
    if what is None or not what.trajectories:
        return ""
    return f"{what.trajectories:,} {'demonstrations' if stage == 'sft' else 'rollouts'}"


def _checkpoint(directory: Path, stage: Stage, step: int) -> str:
    name = f"checkpoints/{stage}-{step}"
    return name if (directory / name).is_dir() else ""


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"visible": visible, "shortened": shortened, "figure": figure}
    environment.globals |= {"question": question, "turns": turns}
    return environment
