"""What training buys: SFT, then RL by each reward, beside further SFT for the same wall time. Three seeds.

    python bench/training.py --out runs/bench --seeds 0 1 2        # everything: about 25 minutes a seed on two cores
    python bench/training.py --out runs/bench --arms f1 further    # RL by F1 against further SFT alone

Of each seed the arm `f1` is the demo itself; the others start from its SFT checkpoint. Each is a TrainingRun of its
own, so any of them can be interrupted and goes on. Writes results.json, results.png and a table.
"""

import argparse
import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from astra_api.environment import Environment
from astra_api.manifests import load_manifests
from astra_api.training_run import GoldDataset, Model, TrainingRun
from astra_cli.demo import seeded_runs
from astra_sandbox.launching import launch_local
from astra_synth.run import open_run, synthesize
from astra_trainer.pipeline import train
from astra_trainer.progress import Bars

ARMS = ("f1", "recall", "precision", "further")
STAGES = ("sft", "rl")
FIGURES = ("holdout_f1", "holdout_recall", "holdout_precision", "holdout_calls")


async def bench(seed: int, arms: Sequence[str], out: Path, bars: Bars) -> dict[str, dict[str, float]]:
    """Held-out figures by arm: `base`, `sft`, and each arm that starts from the SFT checkpoint."""
    syntheses, demo = seeded_runs(seed)
    assert demo.spec.rl is not None
    async with launch_local(capacity=demo.spec.sandboxes.sessions_per_pod) as sandbox:
        bars.note(f"seed {seed}: {sandbox.containment}")
        for run in syntheses:
            await synthesize(
                run, open_run(run, out), sandbox, out / "environments" / run.metadata.name, lambda *_: None
            )
        loaded = [manifest.resource for manifest in load_manifests([out / "environments"])]
        environments = [resource for resource in loaded if isinstance(resource, Environment)]

        async def arm(name: str, run: TrainingRun) -> Path:
            return await train(run, environments, out / name, sandbox=sandbox, progress=bars)

        await arm("f1", demo)
        evaluated = {line["stage"]: line for line in evaluations(out / "f1")}
        found = {"base": evaluated["base"], "sft": evaluated["sft"], "f1": evaluated["rl"]}
        from_sft = changed(demo, model=Model(path=str(out / "f1" / "checkpoints" / f"sft-{found['sft']['step']}")))
        for reward in (name for name in arms if name not in ("f1", "further")):
            await arm(reward, changed(from_sft, sft=None, rl=demo.spec.rl.model_copy(update={"reward": reward})))
            found[reward] = list(evaluations(out / reward))[-1]
        if "further" in arms:
            # prompts and limits of an evaluation are those of `rl`, so it stays, with one step that is not looked at
            once = demo.spec.rl.model_copy(update={"steps": 1})
            await arm("further", changed(from_sft, sft=further(demo, out), rl=once))
            found["further"] = next(line for line in evaluations(out / "further") if line["stage"] == "sft")
    return {name: {figure: line[figure] for figure in FIGURES} for name, line in found.items()}


def further(demo: TrainingRun, out: Path) -> Any:
    """SFT for at least as long as the RL arm took: whole epochs of the same demonstrations."""
    assert demo.spec.sft is not None
    assert isinstance(demo.spec.sft.dataset, GoldDataset)
    spent = {stage: sum(line["seconds"] for line in steps(out / "f1") if line["stage"] == stage) for stage in STAGES}
    an_epoch = spent["sft"] / demo.spec.sft.epochs
    return demo.spec.sft.model_copy(update={"epochs": math.ceil(spent["rl"] / an_epoch)})


def changed(run: TrainingRun, **fields: Any) -> TrainingRun:
    return run.model_copy(update={"spec": run.spec.model_copy(update=fields)})


def evaluations(directory: Path) -> Iterator[dict[str, Any]]:
    return (line for line in lines(directory) if line["kind"] == "evaluation")


def steps(directory: Path) -> Iterator[dict[str, Any]]:
    return (line for line in lines(directory) if line["kind"] == "train")


def lines(directory: Path) -> Iterator[dict[str, Any]]:
    for text in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(text)


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Means over the seeds, and the F1 of each."""
    names = list(next(iter(results.values())))
    rows = ["| arm | F1 | recall | precision | calls per prompt | F1 by seed |", "|---|---|---|---|---|---|"]
    for name in names:
        of_arm = [found[name] for found in results.values() if name in found]
        by_seed = ", ".join(f"{line['holdout_f1']:.3f}" for line in of_arm)
        means = " | ".join(f"{fmean(line[figure] for line in of_arm):.3f}" for figure in FIGURES)
        rows.append(f"| {name} | {means} | {by_seed} |")
    return "\n".join(rows)


def draw(results: dict[str, dict[str, dict[str, float]]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(next(iter(results.values())))
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for axis, key, title in ((axes[0], "holdout_f1", "held-out F1"), (axes[1], "holdout_calls", "calls per prompt")):
        values = [[found[name][key] for found in results.values() if name in found] for name in names]
        axis.bar(names, [fmean(value) for value in values], color="#0072b2", alpha=0.6)
        for position, value in enumerate(values):
            axis.plot([position] * len(value), value, "o", color="#000000", markersize=4)
        axis.set_title(f"{title} (bars: mean, dots: seeds)")
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options = parser.parse_args()
    results = {}
    with Bars() as bars:
        for seed in options.seeds:
            results[str(seed)] = asyncio.run(bench(seed, options.arms, options.out / f"seed-{seed}", bars))
            (options.out / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
            draw(results, options.out / "results.png")
    print(table(results))


if __name__ == "__main__":
    main()
