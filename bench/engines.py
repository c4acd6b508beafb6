"""The same RL run on both engines, from the same checkpoint: do their curves agree?

    .venv-verl/bin/astra train -f examples/verl-cpu.yaml --out runs/verl-cpu
    .venv-verl/bin/python bench/engines.py --checkpoint runs/verl-cpu/checkpoints/sft-40 [--steps 12]

Same environments, draws, mixed-in tools, groups, losses and learning rate; the samplers differ, so the curves agree in
trend, not point by point. Prints a table and writes `engines.png`.
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
SHOWN = ("reward_mean", "tool_calls", "response_tokens", "loss", "grad_norm", "logprob_mismatch_mean")


def manifests(engine: str, checkpoint: Path, steps: int) -> list[dict[str, Any]]:
    """The example's documents, without SFT, from a checkpoint."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(EXAMPLE.read_text(encoding="utf-8")))
    run = documents[0]
    spec = run["spec"]
    del spec["sft"]
    spec |= {"engine": engine, "model": {"path": str(checkpoint.absolute())}}
    spec["rl"] |= {"steps": steps, "groupSize": 8, "batchSize": 32, "irrelevantTools": {"perBand": 1}}
    if engine == "embedded":
        del spec["verl"]
    return documents


def trained(engine: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The lines of the run's steps; it is run, or resumed, first."""
    out = given.out / engine
    file = given.out / f"{engine}.yaml"
    given.out.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump_all(manifests(engine, given.checkpoint, given.steps)), encoding="utf-8")
    subprocess.run([Path(sys.executable).with_name("astra"), "train", "-f", file, "--out", out], check=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train" and line["stage"] == "rl"]


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
    parser.add_argument("--checkpoint", type=Path, required=True, help="a model folder that both start from")
    parser.add_argument("--steps", type=int, default=12, help="of RL")
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
