"""A TrainingRun with everything on this machine: its sandbox servers too."""

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.interrupts import interruptible
from astra_api.training_run import FilesDataset, TrainingRun
from astra_sandbox.interface import Isolation
from astra_sandbox.launching import launch_local
from astra_sandbox.pool import ADDRESSES, OWN_CERTIFICATES, Pools, own_servers, pool_of_environment
from astra_trainer.file_dataset import check_files
from astra_trainer.pipeline import train
from astra_trainer.progress import Progress, Silence

_DEMONSTRATIONS = Path("trajectories") / "sft-000000-demonstrations.jsonl"  # of a run's directory, once they are read
_MADE = Path("checkpoints") / "base-0"  # what was made of a GGUF file


def train_here(
    run: TrainingRun, environments: Sequence[Environment], out: Path, progress: Progress | None = None
) -> Path:
    """Runs or resumes a TrainingRun in `out`, with sandboxes started for it; returns its last checkpoint's folder.

    As many servers as `spec.sandboxes.replicas`, of `sessionsPerPod` sessions each, no weaker than `minimumIsolation`;
    or, where ASTRA_SANDBOXES names them, servers that are there already (see `pool_of_environment`).
    A signal that asks it to end is heeded at once, with Interrupted; the next call does the step under way again.
    Raises BadInput and SandboxError as `train` does.
    """
    return interruptible(_train(run, environments, out, progress or Silence()))


def check_given(run: TrainingRun, out: Path) -> None:
    """Looks at the model and the data set that a run was given, before anything is started for it. Raises BadInput.

    Only what a run has not taken over into `out` yet: demonstrations are read once.
    """
    from astra_trainer.models import check_model

    sft = run.spec.sft
    if sft is not None and isinstance(sft.dataset, FilesDataset) and not (out / _DEMONSTRATIONS).exists():
        check_files(Path(sft.dataset.path))
    if run.spec.model.gguf is None or not (out / _MADE).exists():
        check_model(run.spec.model, run.spec.engine)


async def _train(run: TrainingRun, environments: Sequence[Environment], out: Path, progress: Progress) -> Path:
    with progress.doing("checking the model and the data"):
        check_given(run, out)
    if os.environ.get(ADDRESSES):
        return await train_in_pool(run, environments, out, progress)
    spec = run.spec.sandboxes
    minimum = Isolation[spec.minimum_isolation.upper()]
    async with AsyncExitStack() as stack:
        with progress.doing("starting sandboxes"):
            launching = launch_local(spec.replicas, minimum, capacity=spec.sessions_per_pod)
            sandbox = await stack.enter_async_context(launching)
        progress.note(sandbox.containment)
        return await train(run, environments, out, sandbox=sandbox, progress=progress)


async def train_in_pool(run: TrainingRun, environments: Sequence[Environment], out: Path, progress: Progress) -> Path:
    """Runs or resumes a TrainingRun with the servers that `pool_of_environment` names, and with the pods that
    environments have to themselves. Raises BadInput."""
    shared, own = pool_of_environment(), own_servers(environments)
    progress.note(f"sandboxes: {', '.join(shared.addresses)}")
    for servers in own.values():
        progress.note(f"sandboxes of one environment: {', '.join(servers.addresses)}")
    try:
        sandbox = Pools(shared, own)
    except OSError as error:
        raise BadInput(f"{OWN_CERTIFICATES}: {error.filename}: {error.strerror}") from None
    try:
        return await train(run, environments, out, sandbox=sandbox, progress=progress)
    finally:
        await sandbox.close()
