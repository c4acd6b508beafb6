"""What the stages of a run share, and how each commits its steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from astra_api.training_run import TrainingRun
from astra_sandbox.interface import Sandbox
from astra_trainer.chat import ChatFormat
from astra_trainer.compute import compute
from astra_trainer.mixing import MixingSettings, ToolMixer
from astra_trainer.progress import Progress
from astra_trainer.rollout import RolloutSettings
from astra_trainer.run_directory import Position, RunDirectory
from astra_trainer.split import EnvironmentSplit

if TYPE_CHECKING:
    from astra_trainer.engines.embedded.engine import EmbeddedEngine, Schedule

Value = float | int | str | None | dict[str, float] | list[float]


@dataclass(frozen=True)
class Workplace:
    """One run in one process."""

    run: TrainingRun
    directory: RunDirectory
    split: EnvironmentSplit
    mixer: ToolMixer
    chat: ChatFormat
    sandbox: Sandbox
    progress: Progress
    capacity: int  # sessions that the sandboxes hold

    def settings(self, temperature: float) -> RolloutSettings:
        """The limits of a rollout, sampled at `temperature`."""
        return rollout_settings(self.run, temperature)

    def groups_at_once(self, size: int) -> int:
        """How many groups of `size` rollouts fit: each may need as many sessions again for mixed-in tools."""
        return max(1, self.capacity // (2 * size))

    async def engine(self, folder: Path, schedule: "Schedule", position: Position | None) -> "EmbeddedEngine":
        """An engine at the beginning of a stage, or where `position` left it."""
        from astra_trainer.engines.embedded.engine import EmbeddedEngine

        rl = self.run.spec.rl
        with self.progress.doing("loading the model"):
            engine = await compute(
                EmbeddedEngine,
                folder,
                schedule,
                seed=self.run.spec.seed,
                clip_ratio=rl.clip_ratio if rl else 0.2,
                temperature=rl.temperature if rl else 1.0,
            )
            if position is not None and self.directory.engine_state is not None:
                await compute(engine.load_state, self.directory.engine_state)
        return engine

    async def commit(
        self, engine: "EmbeddedEngine", position: Position, line: Mapping[str, Value], *, last: bool
    ) -> None:
        """Ends a step: a snapshot if one is due, a state if one is, then the news."""
        stage, step, checkpoint = position.stage, position.step, self.run.spec.checkpoint
        if last or step % checkpoint.snapshot_every == 0:
            await compute(self.directory.save_snapshot, stage, step, engine.save_snapshot)
        if last or step % checkpoint.state_every == 0:
            await compute(self.directory.commit, position, line, engine.save_state)
        else:
            await compute(self.directory.record, line)
        self.progress.line(line)


def mixing_settings(run: TrainingRun) -> MixingSettings:
    """How many irrelevant tools of which bands stand beside a prompt's own."""
    if run.spec.rl is None:
        return MixingSettings()
    mixed = run.spec.rl.irrelevant_tools
    return MixingSettings(per_band=mixed.per_band, medium=mixed.bands.medium, high=mixed.bands.high)


def rollout_settings(run: TrainingRun, temperature: float) -> RolloutSettings:
    """The limits of a run's rollouts, sampled at `temperature`."""
    rl = run.spec.rl
    if rl is None:
        return RolloutSettings(temperature=temperature)
    return RolloutSettings(
        max_turns=rl.max_turns,
        max_prompt_tokens=rl.max_prompt_tokens,
        max_response_tokens=rl.max_response_tokens,
        temperature=temperature,
        reward=rl.reward,
    )
