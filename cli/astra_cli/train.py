"""`astra train`: runs a TrainingRun on this machine."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.manifests import load_manifests
from astra_api.training_run import TrainingRun
from astra_api.watching import display
from astra_cli.options import Quiet, Settings, with_settings
from astra_cli.output_folder import output_folder, writable
from astra_cli.shortages import require_limits

EPILOG = """Examples:

  astra train -f examples/train-tiny.yaml -f runs/small --out runs/tiny

  astra train -f run.yaml -f envs/ --dry-run

  astra train -f run.yaml -f envs/ --out runs/short --set spec.rl.steps=10 --set spec.seed=1
"""


def train(
    context: typer.Context,
    file: Annotated[
        list[Path],
        typer.Option("-f", "--file", help="One TrainingRun, and Environments: files or folders.", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The run's directory; the same one again resumes.", show_default=False)
    ] = None,
    settings: Settings = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what would be done; write nothing.")
    ] = False,
    quiet: Quiet = False,
) -> int:
    """Train as a TrainingRun says: SFT, then RL, each evaluated on held-out environments.

    The same command again goes on where it stopped. OUT then holds metrics.jsonl, trajectories, checkpoints and
    report.html. With spec.checkpoint.objectStore, checkpoints are copied to s3://, gs:// or file:// beside training;
    credentials are those of the environment (AWS_..., GOOGLE_APPLICATION_CREDENTIALS). Exit code 0: done. 1: the
    sandboxes failed, or not all checkpoints could be copied. 2: the run, its environments or its object store cannot be
    used. 130: interrupted by Ctrl-C, TERM or HUP.
    """
    if out is None and not dry_run:
        raise typer.BadParameter("Missing option '--out'.", ctx=context)
    training_run, environments = load_run(file)
    training_run = with_settings(training_run, settings)
    try:
        from astra_trainer.local_run import train_here
        from astra_trainer.object_store.uploading import UploadFailed
        from astra_trainer.progress import Shown
        from astra_trainer.report import write_report
    except ImportError as error:
        raise BadInput(f"astra train needs {error.name}; install astra-farm[sandbox,trainer]") from None
    if out is not None:
        writable(out)
    if dry_run or out is None:
        return _rehearse(training_run, environments, out, quiet)
    require_limits()
    output_folder(out)
    try:
        with display(sys.stdout, quiet=quiet) as shown:
            checkpoint = train_here(training_run, environments, out, Shown(shown))
    except UploadFailed:
        print(f"report: {write_report(out)}")
        raise
    if not quiet:
        print(f"checkpoint: {checkpoint}")
    print(f"report: {write_report(out)}")
    return 0


def _rehearse(run: TrainingRun, environments: list[Environment], out: Path | None, quiet: bool) -> int:
    """Prints what would be done. Exit code 1 where the plan does not fit."""
    from astra_trainer.rehearsal import rehearse

    with display(sys.stderr, quiet=quiet, keep=False) as shown, shown.doing("checking"):
        found = rehearse(run, environments, out)
    for what, said in found.facts if not quiet else ():
        print(f"{what + ':':<14} {said}")
    for problem in found.problems:
        print(f"error: does not fit: {problem}", file=sys.stderr)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not found.problems:
        print(f"{run.metadata.name} can be run; nothing was written")
    return 1 if found.problems else 0


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
