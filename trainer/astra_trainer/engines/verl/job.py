"""What the processes of one stage share: a file that names the run, its environments, its model and its sandboxes.

verl's workers are started by Ray, on any node: they find the file through an environment variable, and what they write
for the process that drives the stage goes into the job's `spool`.
"""

import json
import os
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from astra_api.environment import Environment
from astra_api.files import replace
from astra_api.records import Record
from astra_api.training_run import Rl, TrainingRun
from astra_sandbox.pool import Pools, Servers
from astra_trainer.chat import ChatFormat
from astra_trainer.draws import drawn
from astra_trainer.kept_environments import read_environments
from astra_trainer.mixing import ToolMixer
from astra_trainer.rollout import Episode, RolloutSettings
from astra_trainer.split import EnvironmentSplit, split_environments
from astra_trainer.workplace import mixing_settings, rollout_settings

JOB = "ASTRA_VERL_JOB"  # environment variable: the path of the job's file


class Job(Record):
    """The contents of the file. Paths are absolute, and the same on every node."""

    run: dict[str, Any]  # the TrainingRun
    environments: str  # file of `kept_environments`
    model: str  # model folder: its tokenizer and chat template
    sandboxes: Servers
    own: dict[str, Servers] = Field(default_factory=dict)  # of toolsets that have servers to themselves, by digest
    capacity: int  # sessions that the sandboxes hold
    room: int  # tokens that a rollout server holds of one sequence
    agents: int = 1  # processes that drive rollouts
    spool: str  # folder

    def write(self, file: Path) -> None:
        """Writes the file, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        replace(file, self.model_dump_json().encode())


class Floor:
    """A job as one process sees it: loaded when first needed, and kept."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.run = TrainingRun.model_validate(job.run)
        self.spool = Path(job.spool)

    @cached_property
    def rl(self) -> Rl:
        assert self.run.spec.rl is not None  # a job of rollouts is of a run with that stage
        return self.run.spec.rl

    @cached_property
    def split(self) -> EnvironmentSplit:
        spec = self.run.spec
        return split_environments(
            read_environments(Path(self.job.environments)),
            spec.environments.selector,
            spec.environments.holdout,
            spec.seed,
        )

    @cached_property
    def mixer(self) -> ToolMixer:
        everything = [*self.split.train, *self.split.holdout]
        return ToolMixer(everything, mixing_settings(self.run), pool=self.split.train)

    @cached_property
    def chat(self) -> ChatFormat:
        from astra_trainer.models import load_tokenizer

        return ChatFormat(load_tokenizer(Path(self.job.model)))

    @cached_property
    def sandbox(self) -> Pools:
        """One client a process: its connections serve every rollout there."""
        return Pools(self.job.sandboxes.client(), self.job.own)

    @cached_property
    def settings(self) -> RolloutSettings:
        return rollout_settings(self.run, self.rl.temperature)

    def environment(self, number: int) -> Environment:
        """The `number`-th that RL draws."""
        return drawn(self.split.train, self.run.spec.seed, number)

    def episode(self, number: int, step: int) -> Episode:
        """That environment with the irrelevant tools of its draw."""
        return self.mixer.episode(self.environment(number), seed=self.run.spec.seed, index=number, step=step)

    def note_failure(self, error: BaseException, fatal: bool) -> None:
        """Leaves word of a rollout that the infrastructure failed, for whoever waits for it."""
        line = json.dumps({"reason": type(error).__name__, "message": str(error)[:2000], "fatal": fatal}) + "\n"
        with (self.spool / FAILURES).open("a", encoding="utf-8") as file:
            file.write(line)  # one short write: lines of many processes do not mix


FAILURES = "failures.jsonl"


@cache
def floor() -> Floor:
    """The job of this process. Raises KeyError outside of one."""
    return Floor(Job.model_validate_json(Path(os.environ[JOB]).read_bytes()))
