"""`astra demo`: the quick start. It does what `astra synth` and `astra train` do, with the manifests of `demo.yaml`."""

import sys
from contextlib import AsyncExitStack
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.interrupts import interruptible
from astra_api.manifests import load_manifests
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_api.watching import Display, display
from astra_cli.options import Quiet
from astra_cli.output_folder import alone_in, output_folder
from astra_cli.shortages import require_limits

EPILOG = "Examples:\n\n  astra demo --out runs/demo --seed 0\n\n  astra report runs/demo    (while it runs)"
MANIFESTS = Path(str(files("astra_cli") / "demo.yaml"))


def demo(
    out: Annotated[Path, typer.Option(help="Directory for all that is made; the same one again resumes.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seeds everything random.")] = 0,
    file: Annotated[
        Path,
        typer.Option("-f", "--file", help="SynthesisRuns and a TrainingRun to do instead.", show_default=False),
    ] = MANIFESTS,
    quiet: Quiet = False,
) -> int:
    """Make environments from public data, train a small model in them on this machine, and write a report with plots.

    About thirteen minutes on two cores under gVisor. The same command again goes on where it stopped.
    """
    try:
        for needed in ("astra_synth.run", "astra_trainer.pipeline"):
            import_module(needed)
        from astra_trainer.report import write_report
    except ImportError as error:
        raise BadInput(f"astra demo needs {error.name}; install astra-farm[all]") from None
    syntheses, training = seeded_runs(seed, file)
    require_limits()
    output_folder(out)
    with display(sys.stdout, quiet=quiet) as shown:
        checkpoint = interruptible(_demo(syntheses, training, file.parent, out, shown))
    if not quiet:
        print(f"checkpoint: {checkpoint}")
    print(f"report: {write_report(out)}")
    return 0


def seeded_runs(seed: int, file: Path = MANIFESTS) -> tuple[list[SynthesisRun], TrainingRun]:
    """What a demo does, under a seed: its SynthesisRuns in order, then its TrainingRun. Raises BadInput."""
    syntheses: list[SynthesisRun] = []
    trainings: list[TrainingRun] = []
    for manifest in load_manifests([file]):
        resource = manifest.resource
        if isinstance(resource, SynthesisRun):
            syntheses.append(resource.model_copy(update={"spec": resource.spec.model_copy(update={"seed": seed})}))
        elif isinstance(resource, TrainingRun):
            trainings.append(resource.model_copy(update={"spec": resource.spec.model_copy(update={"seed": seed})}))
    if not syntheses or len(trainings) != 1:
        found = f"{len(syntheses)} documents of kind SynthesisRun and {len(trainings)} of kind TrainingRun"
        raise BadInput(f"{file}: {found}; give at least one SynthesisRun and exactly one TrainingRun")
    names = [run.metadata.name for run in syntheses]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadInput(f"{file}: metadata.name: {', '.join(sorted(twice))}: names of SynthesisRuns must differ")
    return syntheses, trainings[0]


async def _demo(syntheses: list[SynthesisRun], training: TrainingRun, folder: Path, out: Path, shown: Display) -> Path:
    """Does it all in `out`; paths of tables are relative to `folder`. Returns the last checkpoint."""
    from astra_sandbox.interface import Isolation
    from astra_sandbox.launching import launch_local
    from astra_synth.run import open_run, synthesize
    from astra_trainer.pipeline import train
    from astra_trainer.progress import Shown

    pool = training.spec.sandboxes
    minimum = Isolation[pool.minimum_isolation.upper()]
    async with AsyncExitStack() as stack:
        with shown.doing("starting sandboxes"):
            launching = launch_local(pool.replicas, minimum, capacity=pool.sessions_per_pod)
            sandbox = await stack.enter_async_context(launching)
        shown.note(sandbox.containment)
        for run in syntheses:
            name, count = run.metadata.name, run.spec.count
            shown.begin(name, count)

            def show(produced: int, rejected: int, name: str = name) -> None:
                shown.advance(name, produced, f"verified environments; {rejected} rejects")

            made = out / "environments" / name
            with alone_in(made):
                status = await synthesize(run, open_run(run, folder), sandbox, made, show)
            show(status.produced, status.rejected)
            shown.end(name)
            if status.produced < count:
                problem = f"{name}: spec.count: {status.produced} of {count} could be made"
                raise BadInput(f"{problem}; lower it, or see {made}/rejects.jsonl")
        written = [out / "environments" / run.metadata.name / "environments" for run in syntheses]
        environments = [
            manifest.resource for manifest in load_manifests(written) if isinstance(manifest.resource, Environment)
        ]
        return await train(training, environments, out, sandbox=sandbox, progress=Shown(shown))
