"""The same RL run on both engines, from the same checkpoint: do their curves agree?

    .venv-verl/bin/astra demo --out runs/demo
    .venv-verl/bin/python bench/engines.py --demo runs/demo [--steps 20]

Both start from the demo's SFT checkpoint, with its environments, draws, mixed-in tools, groups, losses and learning
rate; the samplers differ, so the curves agree in trend, not point by point. Prints a table and writes `engines.png`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

EXAMPLE = Path(__file__).parents[1] / "examples" / "verl-cpu.yaml"
ENGINES = ("embedded", "verl")
SHOWN = ("reward_mean", "tool_calls", "precision", "recall", "grad_norm", "logprob_mismatch_mean")


def manifest(engine: str, demo: Path, steps: int) -> dict[str, Any]:
    """The demo's TrainingRun without SFT, from its SFT checkpoint; what is verl's own is the example's."""
    run: dict[str, Any] = yaml.safe_load((demo / "run.yaml").read_text(encoding="utf-8"))
    spec = run["spec"]
    (start,) = (line for line in lines(demo) if line["kind"] == "evaluation" and line["stage"] == "sft")
    del spec["sft"]
    spec |= {"engine": engine, "model": {"path": str((demo / "checkpoints" / f"sft-{start['step']}").absolute())}}
    spec["rl"]["steps"] = steps
    if engine == "verl":
        spec["verl"] = next(yaml.safe_load_all(EXAMPLE.read_text(encoding="utf-8")))["spec"]["verl"]
    return run


def trained(engine: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The lines of the run's steps; it is run, or resumed, first."""
    out = given.out / engine
    file = given.out / f"{engine}.yaml"
    given.out.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(manifest(engine, given.demo, given.steps)), encoding="utf-8")
    astra = Path(sys.executable).with_name("astra")
    subprocess.run([astra, "train", "-f", file, "-f", given.demo / "environments", "--out", out], check=True)
    return [line for line in lines(out) if line["kind"] == "train" and line["stage"] == "rl"]


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def plot(found: dict[str, list[dict[str, Any]]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, places = pyplot.subplots(2, 3, figsize=(12, 6), layout="constrained")
    for place, name in zip(places.flat, SHOWN, strict=True):
        for engine, lines in found.items():
            place.plot([line["step"] for line in lines], [line[name] for line in lines], label=engine)
        place.set_title(name)
        place.set_xlabel("RL step")
    places.flat[0].legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True, help="a finished `astra demo --out DIR`")
    parser.add_argument("--steps", type=int, default=20, help="of RL")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-engines"), help="folder of both run directories")
    given = parser.parse_args()
    found = {engine: trained(engine, given) for engine in ENGINES}
    print("step " + "".join(f"{engine + ' ' + name:>28}" for name in SHOWN[:3] for engine in ENGINES))
    for pair in zip(*found.values(), strict=True):
        print(f"{pair[0]['step']:>4} " + "".join(f"{line[name]:>28.3f}" for name in SHOWN[:3] for line in pair))
    half = given.steps // 2
    for engine, lines in found.items():
        rewards = [line["reward_mean"] for line in lines]
        print(
            f"{engine}: reward of the first half {fmean(rewards[:half]):.3f}, of the second {fmean(rewards[half:]):.3f}"
        )
    plot(found, given.out / "engines.png")
    print(f"plot: {given.out / 'engines.png'}")


if __name__ == "__main__":
    main()
