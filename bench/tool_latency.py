"""What slow tools cost a step of engine verl: the share of it in which every rollout waits for its tools.

    .venv-verl/bin/python bench/tool_latency.py [--milliseconds 20] [--steps 5] [--rollouts 64] [--isolation namespaces]

Runs examples/verl-cpu.yaml with tools that sleep before they answer, and with more rollouts at once than vLLM takes, so
that some generate while others wait. The snapshot that takes a core is made at the end.

Sandboxes run on the same cores here, and vLLM's worker never sleeps while a step goes on. What rollouts wait for under
gVisor is then mostly a core, in which to open sessions (`--isolation gvisor` shows it); pods have cores of their own.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

EXAMPLE = Path(__file__).parents[1] / "examples" / "verl-cpu.yaml"


def manifests(milliseconds: float, steps: int, rollouts: int) -> list[dict[str, Any]]:
    """The example's documents, with slower tools and more rollouts."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(EXAMPLE.read_text(encoding="utf-8")))
    for document in documents:
        spec = document["spec"]
        if document["kind"] == "TrainingRun":
            spec["checkpoint"]["snapshotEvery"] = steps
            spec["rl"] |= {"steps": steps, "groupSize": 8, "batchSize": rollouts}
            spec.setdefault("sandboxes", {})["sessionsPerPod"] = 4 * rollouts
        else:
            lines = spec["source"].splitlines(keepends=True)
            body = next(number for number, line in enumerate(lines) if line.startswith("def ")) + 1
            lines.insert(body, f"    time.sleep({milliseconds / 1000})\n")
            spec["source"] = "".join(["import time\n", *lines])
    return documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milliseconds", type=float, default=20.0, help="that a tool sleeps")
    parser.add_argument("--steps", type=int, default=5, help="of RL")
    parser.add_argument("--rollouts", type=int, default=64, help="of a step")
    parser.add_argument("--isolation", default="namespaces", choices=["process", "namespaces", "gvisor"])
    parser.add_argument("--out", type=Path, default=Path("runs/bench-tools"), help="run directory; resumed if begun")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump_all(manifests(given.milliseconds, given.steps, given.rollouts)), encoding="utf-8")
    astra = Path(sys.executable).with_name("astra")
    environment = os.environ | {"ASTRA_ISOLATION": given.isolation}
    subprocess.run([astra, "train", "-f", file, "--out", given.out], check=True, env=environment)
    lines = [json.loads(line) for line in (given.out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["stage"] == "rl" and line["kind"] == "train"]
    print(f"{'step':>4} {'seconds':>8} {'rollouts':>8} {'calls':>6} {'waiting for tools':>18}")
    for line in steps:
        rolled = line["offered"] * 8
        waited = line["tool_wait_share"]
        print(f"{line['step']:>4} {line['seconds']:>8.1f} {rolled:>8} {line['tool_calls']:>6.2f} {waited:>18.2%}")
    print(f"mean of steps: {fmean(line['tool_wait_share'] for line in steps):.2%}")


if __name__ == "__main__":
    main()
