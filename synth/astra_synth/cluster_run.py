"""A SynthesisRun in a cluster: `python -m astra_synth.cluster_run`, the command of its Job.

The same run as `astra synth`, with the sandboxes of its pool; each environment is created through the API as soon as
its batch is written, and the counts go into the run's own status. A Job that is started again finds what it made on
the run's volume, and goes on; those that exist already are its own. Without a volume it makes them again, under the
same names: those of tables are the same, and of a teacher's the first to be created stay.
"""

import asyncio
import os
import sys
import time
from collections import Counter
from pathlib import Path

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.kube import ENVIRONMENT, SYNTHESIS_RUN, Kube, KubeError, own_namespace
from astra_api.manifests import load_manifests
from astra_api.status_writer import StatusWriter
from astra_api.synthesis_run import SynthesisRun, SynthesisRunStatus
from astra_sandbox.interface import SandboxError
from astra_sandbox.pool import pool_of_environment
from astra_synth.run import open_run, synthesize
from astra_synth.teacher import TeacherError

RUN_LABEL = "astra.farm/synthesis-run"
_TRIES = 8


def main() -> int:
    """Exit codes as everywhere: 0 done, 1 ran and failed, 2 bad input, 130 interrupted."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        out = Path(os.environ["ASTRA_OUT"])
        out.mkdir(parents=True, exist_ok=True)
        return asyncio.run(_main(Path(os.environ["ASTRA_RUN_FILE"]), out))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (SandboxError, TeacherError, KubeError, OSError) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


async def _main(file: Path, out: Path) -> int:
    run = load_manifests([file])[0].resource
    if not isinstance(run, SynthesisRun):
        raise BadInput(f"{file}: a SynthesisRun is needed, not a {run.kind}")
    namespace = run.metadata.namespace or own_namespace() or "default"
    kube = Kube.connect()
    sandbox = pool_of_environment()
    creator = Creator(kube, namespace, run.metadata.name, out / "environments")
    with StatusWriter(kube, SYNTHESIS_RUN, namespace, run.metadata.name, os.environ.get("ASTRA_RUN_UID")) as status:

        def show(produced: int, rejected: int) -> None:
            creator.create_new()
            status.say(phase="Running", produced=produced, rejected=rejected)

        try:
            files = Path(os.environ.get("ASTRA_FILES", file.parent))
            ended = await synthesize(run, open_run(run, files), sandbox, out, show)
        finally:
            await sandbox.close()
        creator.create_new()
        status.say(produced=ended.produced, rejected=ended.rejected, rejectedBy=ended.rejected_by)
    if ended.phase != "Succeeded":
        print(f"error: {_shortfall(run, ended)}", file=sys.stderr)
        return 1
    return 0


class Creator:
    """Creates the environments of a folder that it has not created yet. It may create, and nothing else."""

    def __init__(self, kube: Kube, namespace: str, run: str, folder: Path) -> None:
        self._kube, self._namespace, self._run, self._folder = kube, namespace, run, folder
        self._done: set[Path] = set()

    def create_new(self) -> None:
        """Blocking. Raises KubeError when the API stays away or refuses."""
        for file in sorted(set(self._folder.glob("*.yaml")) - self._done):
            for manifest in load_manifests([file]):
                if isinstance(manifest.resource, Environment):
                    self._create(manifest.resource)
            self._done.add(file)

    def _create(self, environment: Environment) -> None:
        body = environment.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
        labels = {**environment.metadata.labels, RUN_LABEL: self._run[:63]}
        body["metadata"] = {"name": environment.name, "namespace": self._namespace, "labels": labels}
        for attempt in range(_TRIES):
            try:
                self._kube.create(ENVIRONMENT, self._namespace, body)
                return
            except KubeError as error:
                if error.conflict:
                    return  # made by an earlier start of this Job
                if not error.passing or attempt == _TRIES - 1:
                    raise
            _wait(attempt)


def _wait(attempt: int) -> None:
    time.sleep(min(10.0, 0.25 * 2**attempt))


def _shortfall(run: SynthesisRun, ended: SynthesisRunStatus) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(ended.rejected_by).most_common(3))
    return f"{ended.produced} of {run.spec.count} environments; rejects: {reasons or 'none'}"


if __name__ == "__main__":
    sys.exit(main())
