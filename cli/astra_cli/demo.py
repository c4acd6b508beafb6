"""`astra demo`: the quick start. It does what `astra synth` and `astra train` do, with the manifests of `demo.yaml`."""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.manifests import load_manifests
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun

if TYPE_CHECKING:
    from astra_trainer.progress import Bars

MANIFESTS = Path(str(files("astra_cli") / "demo.yaml"))


def demo(
    out: Annotated[Path, typer.Option(help="Directory for all that is made; the same one again resumes.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seeds everything random.")] = 0,
) -> int:
    """Make environments from public data, train a small model in them on this machine, and write a report with plots.

    About ten minutes on two cores. The same command again goes on where it stopped.
    """
    try:
        from astra_trainer.local_run import interruptible
        from astra_trainer.progress import Bars
        from astra_trainer.report import write_report
    except ImportError as error:
        raise BadInput(f"astra demo needs {error.name}; install astra-farm[all]") from None
    syntheses, training = seeded_runs(seed)
    with Bars() as bars:
        checkpoint = interruptible(_demo(syntheses, training, out, bars))
    print(f"checkpoint: {checkpoint}")
    print(f"report: {write_report(out)}")
    return 0


def seeded_runs(seed: int) -> tuple[list[SynthesisRun], TrainingRun]:
    """The demo's manifests, under a seed."""
    syntheses, trainings = [], []
    for manifest in load_manifests([MANIFESTS]):
        resource = manifest.resource
        if isinstance(resource, SynthesisRun):
            syntheses.append(resource.model_copy(update={"spec": resource.spec.model_copy(update={"seed": seed})}))
        elif isinstance(resource, TrainingRun):
            trainings.append(resource.model_copy(update={"spec": resource.spec.model_copy(update={"seed": seed})}))
    return syntheses, trainings[0]


async def _demo(syntheses: list[SynthesisRun], training: TrainingRun, out: Path, bars: "Bars") -> Path:
    from astra_sandbox.launching import launch_local
    from astra_synth.run import open_run, synthesize
    from astra_trainer.pipeline import train

    made = out / "environments"
    pool = training.spec.sandboxes
    async with launch_local(pool.replicas, capacity=pool.sessions_per_pod) as sandbox:
        bars.note(sandbox.containment)
        for run in syntheses:
            bars.stage(run.metadata.name, 0, run.spec.count)

            def show(produced: int, rejected: int, name: str = run.metadata.name) -> None:
                bars.advance(name, produced, f"verified environments; {rejected} rejects")

            status = await synthesize(run, open_run(run, out), sandbox, made / run.metadata.name, show)
            bars.advance(run.metadata.name, status.produced, f"verified environments; {status.rejected} rejects")
        environments = [
            manifest.resource for manifest in load_manifests([made]) if isinstance(manifest.resource, Environment)
        ]
        return await train(training, environments, out, sandbox=sandbox, progress=bars)
