"""`astra plan`: what a TrainingRun needs and costs, before anything of it runs."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from astra_api.errors import BadInput
from astra_api.manifests import load_manifests
from astra_api.resource import quantity
from astra_api.training_run import FilesDataset, TrainingRun

_PIPE_WIDTH = 160  # columns of a table that goes to a file or a pipe
_CORES = 2.0  # of a trainer without GPUs, where the manifest does not say

EPILOG = """Examples:

  astra plan -f examples/train-qwen3-14b.yaml

  astra plan -f run.yaml --gpu h200 --gpu-price 3.50 --demonstrations 20000

  astra plan -f run.yaml --model-config my-model/config.json --json > plan.json
"""


def _option(text: str, **bounds: float) -> Any:
    return typer.Option(help=text, show_default=False, **bounds)  # type: ignore[arg-type]


def plan(
    file: Annotated[
        list[Path],
        typer.Option("-f", "--file", help="Files or folders that hold one TrainingRun.", show_default=False),
    ],
    gpu: Annotated[
        str | None,
        _option("a100-40gb, a100-80gb, h100-80gb (the default), h200, b200, l4 or l40s."),
    ] = None,
    gpu_price: Annotated[float | None, _option("Of a GPU hour; without it there is no cost.", min=0)] = None,
    model_config: Annotated[Path | None, _option("A config.json that describes the model.")] = None,
    calls_per_rollout: Annotated[float | None, _option("Tool calls of a rollout.", min=0)] = None,
    tokens_per_rollout: Annotated[float | None, _option("Tokens that a rollout generates.", min=1)] = None,
    prompt_tokens: Annotated[float | None, _option("Tokens of a prompt, its tools included.", min=1)] = None,
    tool_seconds: Annotated[float | None, _option("From a call to its result.", min=0)] = None,
    longest_rollout: Annotated[float | None, _option("Longest rollout of a step, times the mean.", min=1)] = None,
    discarded_share: Annotated[
        float | None, _option("Share of groups that batch filling discards.", min=0, max=0.99)
    ] = None,
    demonstrations: Annotated[int | None, _option("Demonstrations of SFT.", min=1)] = None,
    mfu: Annotated[float | None, _option("Share of the GPU's FLOP/s that training reaches.", min=0.001, max=1)] = None,
    bandwidth_share: Annotated[
        float | None, _option("Share of its memory bandwidth that decoding reaches.", min=0.001, max=1)
    ] = None,
    cpus: Annotated[float | None, _option("Cores of a trainer without GPUs.", min=0.1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> int:
    """Say what a run needs and costs: GPUs, memory, sandboxes, step time, disk, with every assumption.

    Nothing is run, and no weights are read. Exit code 0: it fits. 1: something does not fit; each such field is named
    with a fix. 2: the manifest, the model or an option cannot be used.
    """
    run = _the_run(file)
    from astra_trainer.planning import assume, make_plan, shape_of

    device = _device(run, gpu, cpus)
    shape = shape_of(run.spec.model, model_config)
    assumptions = assume(
        run.spec,
        is_gpu=device.is_gpu,
        layers=shape.layers,
        calls_per_rollout=calls_per_rollout,
        tokens_per_rollout=tokens_per_rollout,
        prompt_tokens=prompt_tokens,
        tool_seconds=tool_seconds,
        longest_rollout=longest_rollout,
        discarded_share=discarded_share,
        demonstrations=demonstrations or _lines(run),
        mfu=mfu,
        bandwidth_share=bandwidth_share,
    )
    found = make_plan(run, shape, device, assumptions, gpu_price)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        from rich.console import Console

        from astra_cli.plan_tables import tables

        Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(tables(found), highlight=False)
    return 0 if found.fits else 1


def _the_run(paths: Sequence[Path]) -> TrainingRun:
    found = [manifest.resource for manifest in load_manifests(paths)]
    runs = [resource for resource in found if isinstance(resource, TrainingRun)]
    if len(runs) != 1:
        places = ", ".join(map(str, paths))
        raise BadInput(f"{places}: {len(runs)} documents of kind TrainingRun; give files that hold exactly one")
    return runs[0]


def _device(run: TrainingRun, name: str | None, cpus: float | None) -> Any:
    """The GPU that the options name, or the cores of a trainer that has none."""
    from astra_trainer.planning import DEFAULT, cpu, gpu

    trainer = run.spec.trainer
    if trainer.gpus_per_node or (name is not None and run.spec.engine == "embedded"):
        if cpus is not None:
            raise BadInput("--cpus: goes with a trainer without GPUs; remove it")
        return gpu(name or DEFAULT)
    if name is not None:
        raise BadInput(f"--gpu {name}: spec.trainer.gpusPerNode is 0; raise it, or remove --gpu")
    asked = {**(trainer.resources.get("requests") or {}), **(trainer.resources.get("limits") or {})}
    cores = cpus or (quantity(asked["cpu"]) if "cpu" in asked else _CORES)
    return cpu(cores, int(quantity(asked["memory"])) if "memory" in asked else None)


def _lines(run: TrainingRun) -> int | None:
    """Demonstrations in the files of the manifest, where they are on this machine."""
    dataset = run.spec.sft.dataset if run.spec.sft is not None else None
    if not isinstance(dataset, FilesDataset):
        return None
    path = Path(dataset.path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    return sum(bool(line.strip()) for file in files for line in file.read_bytes().splitlines()) or None
