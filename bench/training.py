"""What training buys, and which parts of the method buy it: one SFT checkpoint a seed, and one arm a part.

    python bench/training.py --out runs/bench                   # everything: about 30 minutes a seed on two cores
    python bench/training.py --out runs/bench --arms further    # the demo against further SFT alone

    sft, demo           `astra demo` of that seed, before and after its RL
    further             more SFT instead of RL, for the same wall time
    f1                  the demo's RL with fewer steps (--steps), which the arms below differ from in one thing each:
    recall, precision     another reward
    random, alone         as many irrelevant tools, drawn from all bands as one; none
    unfilled              no batch filling: one round of rollouts a step, whatever their spread

Each arm is a TrainingRun of its own and goes on where it was interrupted. All checkpoints are then evaluated alike, on
the demo's held-out environments: with irrelevant tools as in the demo, and with tools of a pack that no arm has seen
(`wrong tool`: the share of calls to one of those; `F1 among unseen`). Writes DIR/seed-N/results.json, DIR/results.png,
and prints tables over all seeds that DIR holds.
"""

import argparse
import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from astra_api.environment import Environment
from astra_api.manifests import load_manifests
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import Bands, GoldDataset, IrrelevantTools, Model, Sft, TrainingRun
from astra_api.watching import display
from astra_cli.demo import seeded_runs
from astra_sandbox.interface import Sandbox
from astra_sandbox.launching import launch_local
from astra_synth.run import open_run, synthesize
from astra_trainer.batched_generation import BatchedGenerator
from astra_trainer.chat import ChatFormat
from astra_trainer.engines.embedded import DEVICE
from astra_trainer.evaluation import evaluate
from astra_trainer.mixing import ToolMixer
from astra_trainer.models import load_policy, load_tokenizer
from astra_trainer.pipeline import train
from astra_trainer.progress import Shown
from astra_trainer.split import EnvironmentSplit, split_environments
from astra_trainer.workplace import mixing_settings, rollout_settings

REWARDS = ("f1", "recall", "precision")
ARMS = ("further", *REWARDS, "random", "alone", "unfilled")
ALL_BANDS = Bands(medium=0.0, high=1.0)  # everything is of the middle band
UNSEEN = "united-states"  # a pack that the demo does not use
HELD_OUT = ("f1", "recall", "precision", "calls", "wrong_tool", "unseen_f1")


async def bench(seed: int, arms: Sequence[str], rl_steps: int, out: Path, shown: Shown) -> dict[str, dict[str, float]]:
    """Figures by arm, those of the demo in `out`/demo first."""
    made = out / "demo"
    _, demo = seeded_runs(seed)
    environments = load(made / "environments")
    split = split_environments(environments, demo.spec.environments.selector, demo.spec.environments.holdout, seed)
    start = last_checkpoint(made, "sft")
    checkpoints = {"sft": start, "demo": last_checkpoint(made, "rl")}
    async with launch_local(capacity=demo.spec.sandboxes.sessions_per_pod) as sandbox:
        unseen = await unseen_environments(seed, out, sandbox)
        for name in arms:
            shown.note(f"seed {seed}: {name}")
            run = changed(arm(name, demo, made, rl_steps), model=Model(path=str(start.absolute())))
            await train(run, environments, out / name, sandbox=sandbox, progress=shown)
            checkpoints[name] = last_checkpoint(out / name, "sft" if name == "further" else "rl")
        return {
            name: await examined(checkpoint, demo, split, unseen, sandbox) | training_figures(out / name)
            for name, checkpoint in checkpoints.items()
        }


def arm(name: str, demo: TrainingRun, made: Path, rl_steps: int) -> TrainingRun:
    """The run of an arm; it starts from the demo's SFT checkpoint."""
    rl, sft = demo.spec.rl, demo.spec.sft
    assert rl is not None
    assert sft is not None
    if name == "further":
        once = rl.model_copy(update={"steps": 1})  # not looked at: the limits of its evaluation are those of `rl`
        return changed(demo, sft=further(sft, made), rl=once)
    shown = rl.irrelevant_tools
    update: dict[str, dict[str, Any]] = {
        "random": {"irrelevant_tools": IrrelevantTools(per_band=3 * shown.per_band, bands=ALL_BANDS)},
        "alone": {"irrelevant_tools": IrrelevantTools(per_band=0)},
        "unfilled": {"batch_filling": rl.batch_filling.model_copy(update={"max_rounds": 1})},
        **{reward: {"reward": reward} for reward in REWARDS},
    }
    return changed(demo, sft=None, rl=rl.model_copy(update={"steps": rl_steps, **update[name]}))


def further(sft: Sft, made: Path) -> Sft:
    """SFT for at least as long as the demo's RL took: whole epochs of the same demonstrations."""
    assert isinstance(sft.dataset, GoldDataset)
    spent = {stage: sum(line["seconds"] for line in steps(made, stage)) for stage in ("sft", "rl")}
    return sft.model_copy(update={"epochs": math.ceil(spent["rl"] * sft.epochs / spent["sft"])})


async def unseen_environments(seed: int, out: Path, sandbox: Sandbox) -> list[Environment]:
    source = {"type": "tables", "pack": UNSEEN, "toolset": {"tools": {"min": 3, "max": 4}}}
    spec = {"seed": seed, "count": 40, "environments": {"source": source, "hops": {"min": 1, "max": 3}}}
    run = SynthesisRun.model_validate({"metadata": {"name": UNSEEN}, "spec": spec})
    await synthesize(run, open_run(run, out), sandbox, out / UNSEEN, lambda *_: None)
    return load(out / UNSEEN / "environments")


async def examined(
    checkpoint: Path, demo: TrainingRun, split: EnvironmentSplit, unseen: Sequence[Environment], sandbox: Sandbox
) -> dict[str, float]:
    """Means over the held-out environments, whatever the arm trained with."""
    chat = ChatFormat(load_tokenizer(checkpoint))
    generator = BatchedGenerator(load_policy(checkpoint, DEVICE), chat.stop_ids)
    settings = mixing_settings(demo)
    found = [
        await evaluate(
            split.holdout,
            stage="rl",
            step=0,
            samples=demo.spec.evaluation.samples,
            seed=demo.spec.seed,
            mixer=ToolMixer([*split.train, *split.holdout], settings, pool=pool),
            sandbox=sandbox,
            generator=generator,
            chat=chat,
            settings=rollout_settings(demo, demo.spec.evaluation.temperature),
        )
        for pool in (split.train, unseen)
    ]
    foreign = {tool.name for environment in unseen for tool in environment.toolset.tools}
    calls = [(call.tool, trajectory) for trajectory in found[1].trajectories for call in trajectory.calls]
    own = {environment.digest: {t.name for t in environment.toolset.tools} for environment in split.holdout}
    wrong = [tool in foreign and tool not in own[trajectory.digest] for tool, trajectory in calls]
    return {
        "f1": found[0].f1,
        "recall": found[0].recall,
        "precision": found[0].precision,
        "calls": found[0].calls,
        "wrong_tool": fmean(wrong) if wrong else 0.0,
        "unseen_f1": found[1].f1,
    }


def training_figures(directory: Path) -> dict[str, float]:
    """Means over the RL steps of a run: groups without a spread of rewards, groups trained on, reward at the end."""
    trained = list(steps(directory, "rl")) if directory.exists() else []
    if len(trained) < 2:
        return {}
    return {
        "zero_variance": fmean(line["discarded_share"] for line in trained if line["offered"]),
        "groups": fmean(line["groups"] for line in trained),
        "rollouts": sum(line["offered"] for line in trained) / len(trained),
        "final_reward": fmean(line["reward_mean"] for line in trained[-len(trained) // 5 :]),
        "seconds": fmean(line["seconds"] for line in trained),
    }


def changed(run: TrainingRun, **fields: Any) -> TrainingRun:
    return run.model_copy(update={"spec": run.spec.model_copy(update=fields)})


def load(folder: Path) -> list[Environment]:
    return [m.resource for m in load_manifests([folder]) if isinstance(m.resource, Environment)]


def last_checkpoint(directory: Path, stage: str) -> Path:
    evaluated = [line for line in lines(directory) if line["kind"] == "evaluation" and line["stage"] == stage]
    return directory / "checkpoints" / f"{stage}-{evaluated[-1]['step']}"


def steps(directory: Path, stage: str) -> Iterator[dict[str, Any]]:
    return (line for line in lines(directory) if line["kind"] == "train" and line["stage"] == stage)


def lines(directory: Path) -> Iterator[dict[str, Any]]:
    for text in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(text)


Results = dict[str, dict[str, dict[str, float]]]  # by seed, arm and figure


def tables(results: Results) -> str:
    """Means over the seeds; of the F1 also each seed's."""
    columns = ("arm", "F1", "recall", "precision", "calls per prompt", "wrong tool", "F1 among unseen", "F1 by seed")
    rows = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for name, by_seed in by_arm(results).items():
        means = " | ".join(f"{fmean(found[figure] for found in by_seed):.3f}" for figure in HELD_OUT)
        each = ", ".join(f"{found['f1']:.3f}" for found in by_seed)
        rows.append(f"| {name} | {means} | {each} |")
    rows += ["", "| arm | groups without spread | groups a step | rolled out a step | reward of the last fifth |"]
    rows.append("|" + "---|" * 5)
    for name, by_seed in by_arm(results).items():
        if "groups" in by_seed[0]:
            figures = ("zero_variance", "groups", "rollouts", "final_reward")
            means = " | ".join(f"{fmean(found[figure] for found in by_seed):.3f}" for figure in figures)
            rows.append(f"| {name} | {means} |")
    return "\n".join(rows)


def by_arm(results: Results) -> dict[str, list[dict[str, float]]]:
    names = [name for name in ("sft", "demo", *ARMS) if any(name in found for found in results.values())]
    return {name: [found[name] for found in results.values() if name in found] for name in names}


def draw(results: Results, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = {"f1": "held-out F1", "calls": "calls per prompt", "wrong_tool": "calls to unseen irrelevant tools"}
    figure, axes = plt.subplots(1, len(titles), figsize=(14, 3.6), layout="constrained")
    arms = by_arm(results)
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        values = [[found[key] for found in by_seed] for by_seed in arms.values()]
        axis.bar(list(arms), [fmean(value) for value in values], color="#0072b2", alpha=0.6)
        for position, value in enumerate(values):
            axis.plot([position] * len(value), value, "o", color="#000000", markersize=4)
        axis.tick_params(axis="x", rotation=30)
        axis.set_title(title)
    figure.suptitle("bars: mean, dots: seeds", fontsize="small")
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none: only tables of what is there")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="beside the demo")
    parser.add_argument("--steps", type=int, default=40, help="of RL, in the arms that are compared with f1")
    options = parser.parse_args()
    astra = Path(sys.executable).with_name("astra")
    for seed in options.seeds:
        out = options.out / f"seed-{seed}"
        subprocess.run([astra, "demo", "--out", out / "demo", "--seed", str(seed)], check=True)
        with display(sys.stdout) as seen:
            found = asyncio.run(bench(seed, options.arms, options.steps, out, Shown(seen)))
        (out / "results.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    results = {file.parent.name: json.loads(file.read_text()) for file in sorted(options.out.glob("*/results.json"))}
    draw(results, options.out / "results.png")
    print(tables(results))


if __name__ == "__main__":
    main()
