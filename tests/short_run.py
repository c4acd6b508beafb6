"""A whole run in seconds: environments that one call without arguments answers, and a tiny model without practice.

The model's folder is built once (`build_model`), outside of the run; the environment variable MODEL names it, so that
processes that take turns at one run directory have the same run; STORE may name an object store. `python short_run.py
OUT` runs or resumes the run and exits as the command line does; tests kill it, and import it.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astra_api.environment import Environment
from astra_api.errors import BadInput, RunFailed
from astra_api.training_run import TrainingRun
from astra_sandbox.fake import FakeSandbox

MODEL = "SHORT_RUN_MODEL"
STORE = "SHORT_RUN_STORE"
ANSWERS = {"ping": 7, "pong": 8}
SFT_STEPS, RL_STEPS = 40, 4


def environments() -> list[Environment]:
    """Four questions to each of two toolsets, of one domain each."""
    return [_environment(tool, number) for tool in ANSWERS for number in range(4)]


def _environment(tool: str, number: int) -> Environment:
    step = {"id": "s1", "question": "?", "answer": ANSWERS[tool], "call": {"tool": tool, "arguments": {}}}
    parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    spec = {
        "question": f"Number {number}?",
        "answer": ANSWERS[tool],
        "domain": tool,
        "scenario": "single-hop",
        "steps": [step],
        "tools": [{"name": tool, "description": "", "parameters": parameters}],
        "source": f"def {tool}() -> int:\n    return {ANSWERS[tool]}\n",
    }
    return Environment.model_validate({"metadata": {"name": f"{tool}-{number}"}, "spec": spec})


def sandbox() -> FakeSandbox:
    return FakeSandbox({tool: (lambda answer=answer: answer) for tool, answer in ANSWERS.items()})


def build_model(folder: Path) -> None:
    """The preset `tiny` as it is before its copying practice, which costs more than all the rest of the run."""
    from astra_trainer.tiny import TinyModel

    TinyModel(practice=()).build(environments(), 0, folder)


def run(**changes: Any) -> TrainingRun:
    spec: Mapping[str, Any] = {
        "model": {"path": os.environ[MODEL]},
        "environments": {"holdout": {"fraction": 0.5}},
        "sft": {
            "dataset": {"type": "gold", "recoveries": 0.0},
            "epochs": SFT_STEPS,
            "batchSize": 4,
            "learningRate": 3e-3,
            "maxLength": 256,
        },
        "rl": {
            "steps": RL_STEPS,
            "groupSize": 4,
            "batchSize": 8,
            "learningRate": 1e-4,
            "maxTurns": 2,
            "maxResponseTokens": 48,
            "irrelevantTools": {"perBand": 0},
            "batchFilling": {"maxRounds": 3},
        },
        "checkpoint": {
            "snapshotEvery": 25,
            **({"objectStore": {"url": url}} if (url := os.environ.get(STORE)) else {}),
        },
        **changes,
    }
    return TrainingRun.model_validate({"metadata": {"name": "short"}, "spec": spec})


def main(out: Path) -> int:
    from astra_api.interrupts import EXIT_CODE, Interrupted, interruptible
    from astra_trainer.pipeline import train

    try:
        interruptible(train(run(), environments(), out, sandbox=sandbox()))
    except Interrupted:
        return EXIT_CODE
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    except RunFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
