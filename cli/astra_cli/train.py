"""`astra train`: runs a TrainingRun on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.manifests import load_manifests
from astra_api.training_run import TrainingRun
from astra_cli.output_folder import output_folder


def train(
    file: Annotated[
        list[Path],
        typer.Option("-f", "--file", help="One TrainingRun, and Environments: files or folders.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The run's directory; the same one again resumes.", show_default=False)],
) -> int:
    """Train as a TrainingRun says: SFT, then RL, each evaluated on held-out environments.

    The same command again goes on where it stopped. OUT then holds metrics.jsonl, trajectories, checkpoints and
    report.html. With spec.checkpoint.objectStore, checkpoints are copied to s3://, gs:// or file:// beside training;
    credentials are those of the environment (AWS_..., GOOGLE_APPLICATION_CREDENTIALS). Exit code 0: done. 1: the
    sandboxes failed, or not all checkpoints could be copied. 2: the run, its environments or its object store cannot be
    used.
    """
    training_run, environments = load_run(file)
    try:
        from astra_trainer.local_run import train_here
        from astra_trainer.object_store.uploading import UploadFailed
        from astra_trainer.progress import Bars
        from astra_trainer.report import write_report
    except ImportError as error:
        raise BadInput(f"astra train needs {error.name}; install astra-farm[sandbox,trainer]") from None
    output_folder(out)
    try:
        with Bars() as bars:
            checkpoint = train_here(training_run, environments, out, bars)
    except UploadFailed:
        print(f"report: {write_report(out)}")
        raise
    print(f"checkpoint: {checkpoint}")
    print(f"report: {write_report(out)}")
    return 0


def load_run(paths: Sequence[Path]) -> tuple[TrainingRun, list[Environment]]:
    """The one TrainingRun and all Environments at the paths. Raises BadInput."""
    runs: list[TrainingRun] = []
    environments: list[Environment] = []
    files: dict[tuple[str | None, str], Path] = {}
    for manifest in load_manifests(paths):
        resource = manifest.resource
        if isinstance(resource, TrainingRun):
            runs.append(resource)
        elif isinstance(resource, Environment):
            key = (resource.metadata.namespace, resource.name)
            if key in files:
                where = f"{manifest.file}: document {manifest.document}: metadata.name"
                raise BadInput(f"{where}: {resource.name} stands in {files[key]} already; names must differ")
            files[key] = manifest.file
            environments.append(resource)
    places = ", ".join(map(str, paths))
    if len(runs) != 1:
        raise BadInput(f"{places}: {len(runs)} documents of kind TrainingRun; give files that hold exactly one")
    if not environments:
        raise BadInput(f"{places}: no document of kind Environment; add their file or folder with another -f")
    return runs[0], environments
