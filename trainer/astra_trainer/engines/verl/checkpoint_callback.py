"""verl's hook after each training state: what the state lacks of the queue, and the snapshots that are due."""

from pathlib import Path
from typing import Any

from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from astra_trainer.engines.verl.job import floor
from astra_trainer.engines.verl.snapshots import FOLDER, Exports


class SnapshotCallback(CheckpointCallback):  # type: ignore[misc]
    """verl's hook after each state: completes it, snapshots those that are due, waits for none but at the last step.

    verl reports a step only after this, and only then is the step committed: so its state is whole.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._exports = Exports(floor().spool / FOLDER)

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, **_: Any) -> None:
        """Raises SnapshotFailed when an export failed: a run without its checkpoints is worth nothing."""
        trainer.replay_buffer.keep(Path(checkpoint_dir))
        spec, rl = floor().run.spec, floor().rl
        last = global_step >= rl.steps
        self._exports.check()
        if last or global_step % spec.checkpoint.snapshot_every == 0:
            self._exports.begin(Path(checkpoint_dir) / "actor", global_step)
        if last:
            self._exports.finish()
