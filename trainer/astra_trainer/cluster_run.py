"""A TrainingRun in a cluster: `python -m astra_trainer.cluster_run`, the command of its Job.

The same run as `astra train`, with environments read from the API, the sandboxes of its pool, and its progress written
into its own status. The environments are kept with the checkpoints: a run that is started again has those it began
with.
"""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from astra_api.environment import Environment, settled_phase
from astra_api.errors import BadInput, RunFailed
from astra_api.interrupts import EXIT_CODE, Interrupted, interruptible
from astra_api.kube import ENVIRONMENT, TRAINING_RUN, Kube, KubeError, Object, own_namespace, referenced_source
from astra_api.manifests import check, load_manifests
from astra_api.status_writer import StatusWriter
from astra_api.training_run import TrainingRun
from astra_api.watching import display
from astra_sandbox.interface import SandboxError
from astra_trainer.kept_environments import read_environments, write_environments
from astra_trainer.local_run import check_given, train_in_pool
from astra_trainer.object_store.uploading import UploadFailed
from astra_trainer.progress import Progress, Shown, Silence
from astra_trainer.report import write_report

KEPT = Path("environments") / "verified.json"


def main() -> int:
    """Exit codes as everywhere: 0 done, 1 ran and failed, 2 bad input, 130 interrupted."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        return _main(Path(os.environ["ASTRA_RUN_FILE"]), Path(os.environ["ASTRA_OUT"]))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (SandboxError, KubeError, OSError) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except (Interrupted, KeyboardInterrupt):
        print("interrupted; the run goes on from its last step when it is started again", file=sys.stderr)
        return EXIT_CODE


def _main(file: Path, out: Path) -> int:
    run = load_manifests([file])[0].resource
    if not isinstance(run, TrainingRun):
        raise BadInput(f"{file}: a TrainingRun is needed, not a {run.kind}")
    namespace = run.metadata.namespace or own_namespace() or "default"
    kube = Kube.connect()
    _wait_until_alone(out)
    check_given(run, out)
    environments = keep_environments(run, kube, namespace, out)
    with StatusWriter(kube, TRAINING_RUN, namespace, run.metadata.name, os.environ.get("ASTRA_RUN_UID")) as status:
        try:
            with display(sys.stdout) as shown:
                interruptible(train_in_pool(run, environments, out, StatusProgress(status, out, Shown(shown))))
        except UploadFailed:
            write_report(out)
            raise
    write_report(out)
    return 0


def _wait_until_alone(out: Path) -> None:
    """A trainer of this run on a node that was lost may take a while to end."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def keep_environments(run: TrainingRun, kube: Kube, namespace: str, out: Path) -> list[Environment]:
    """The environments that the run began with; the verified ones that it selects, if it begins now.

    Raises BadInput when what was kept cannot be read, KubeError.
    """
    file = out / KEPT
    if not file.exists():
        chosen = [kept for body in kube.list(ENVIRONMENT, namespace) if (kept := _chosen(run, body, kube)) is not None]
        write_environments(file, chosen)
    return read_environments(file)


def _chosen(run: TrainingRun, body: Object, kube: Kube) -> dict[str, Any] | None:
    """{"manifest", "source"} of a verified environment that the run trains on or holds out, else None."""
    selectors = run.spec.environments.selectors
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    if not any(selector.matches(labels) for selector in selectors) or settled_phase(body) != "Verified":
        return None
    manifest = {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "metadata": {"name": metadata["name"], "labels": labels},
        "spec": body["spec"],
        "status": {"endpoint": body["status"].get("endpoint")},  # of pods of its own
    }
    environment = check(Environment, manifest)
    if not isinstance(environment, Environment) or environment.digest != body["status"].get("digest"):
        return None
    reference = environment.spec.source_ref
    if reference is None:
        return {"manifest": manifest, "source": None}
    source = referenced_source(kube, metadata["namespace"], reference)
    if source is None or environment.with_source(source).toolset.digest != body["status"].get("toolset"):
        return None  # not what was verified
    return {"manifest": manifest, "source": source}


class StatusProgress:
    """A Progress that writes the run's status, and passes on what it hears."""

    def __init__(self, status: StatusWriter, out: Path, shown: Progress | None = None) -> None:
        self._status, self._out, self._shown = status, out, shown or Silence()
        self._total = self._first = 0
        self._began = time.monotonic()

    def stage(self, name: str, done: int, total: int) -> None:
        self._total, self._first, self._began = total, done, time.monotonic()
        self._shown.stage(name, done, total)
        self._status.say(phase="Training", stage=name, step=done, totalSteps=total, eta=None)

    def line(self, line: Mapping[str, Any]) -> None:
        self._shown.line(line)
        if line["kind"] == "evaluation":
            evaluated = {"stage": line["stage"], "lastCheckpoint": self._last_checkpoint()}
            if line.get("holdout_success") is not None:
                evaluated["success"] = round(float(line["holdout_success"]), 6)
            self._status.say(**evaluated)
            return
        step = int(line["step"])
        said: dict[str, Any] = {"phase": "Training", "stage": line["stage"], "step": step}
        said |= {"lastCheckpoint": self._last_checkpoint(), "eta": self._eta(step)}
        if line.get("reward_mean") is not None:
            said["reward"] = round(float(line["reward_mean"]), 6)
        if step >= self._total:
            said["phase"] = "Evaluating"
        self._status.say(**said)

    def note(self, text: str) -> None:
        self._shown.note(text)
        if text.startswith("base: evaluating"):
            self._status.say(phase="Evaluating", stage="base")

    def doing(self, what: str, total: int | None = None) -> AbstractContextManager[Callable[[], None]]:
        return self._shown.doing(what, total)

    def _eta(self, step: int) -> str | None:
        """When the stage ends, at the pace of this process so far."""
        done = step - self._first
        if done <= 0 or step >= self._total:
            return None
        left = (time.monotonic() - self._began) / done * (self._total - step)
        return (datetime.now(UTC) + timedelta(seconds=left)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _last_checkpoint(self) -> str | None:
        folders = sorted(_visible(self._out / "checkpoints"), key=lambda folder: folder.stat().st_mtime)
        return f"checkpoints/{folders[-1].name}" if folders else None


def _visible(folder: Path) -> Iterator[Path]:
    return (child for child in folder.glob("*") if not child.name.startswith("."))


if __name__ == "__main__":
    sys.exit(main())
