"""The stages of a TrainingRun on verl: each a process tree that is followed, and whose steps are committed here.

verl reports a step in its log of metrics, keeps its state in a checkpoint folder, and (in the job's spool) what was
rolled out and what was snapshot. A step is committed when all of that is there; a resume begins with the state of the
last committed step, and what came after it is done again.
"""

import asyncio
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from astra_api.errors import BadInput, RunFailed
from astra_api.records import Reject, Trajectory
from astra_api.training_run import Rl, Sft, TrainingRun
from astra_sandbox.client import SandboxClient
from astra_sandbox.interface import Sandbox
from astra_sandbox.pool import ADDRESSES, CERTIFICATES, Pools, Servers
from astra_trainer.compute import compute
from astra_trainer.engines.verl.job import JOB, Job
from astra_trainer.engines.verl.overrides import (
    Places,
    Site,
    check,
    division,
    rl_overrides,
    serving_overrides,
    sft_overrides,
)
from astra_trainer.engines.verl.processes import METRICS, run_process
from astra_trainer.engines.verl.ray_cluster import check_nodes
from astra_trainer.engines.verl.snapshots import FOLDER, Exports
from astra_trainer.evaluation import Evaluation, summary
from astra_trainer.kept_environments import kept, write_environments
from astra_trainer.reinforcement import rollout_figures
from astra_trainer.run_directory import Position, Stage
from astra_trainer.supervision import demonstrations
from astra_trainer.trajectory_lines import dump_lines, read_lines
from astra_trainer.workplace import Value, Workplace, rollout_settings

_TRACKER = "latest_checkpointed_iteration.txt"  # verl's: the step of its newest whole state
STALL = "ASTRA_STALL_SECONDS"  # environment variable: how long nothing may be heard of a stage
_CPU = {
    "VERL_PLATFORM": "cpu",
    "VERL_ENGINE_DEVICE": "cuda",  # verl registers its engines for accelerators; this one runs on any device
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "RAY_worker_niceness": "0",  # else what computes stands behind everything else that a small machine does
}
_EVERYWHERE = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HYDRA_FULL_ERROR": "1",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # `ray job submit` may set some of these too; Ray would refuse to start
}
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's: what `ray job submit` hands to the workers of its job


def site() -> Site:
    """This machine, or the Ray cluster that RAY_ADDRESS names; one without GPUs only where VERL_PLATFORM says so."""
    import torch

    ray = os.environ.get("RAY_ADDRESS") or None
    if os.environ.get("VERL_PLATFORM") == "cpu":
        return Site(device="cpu", gpus=0, ray=ray)
    gpus = torch.cuda.device_count()
    return Site(device="cuda" if gpus or ray else "cpu", gpus=gpus, ray=ray)


async def _checked_site(run: TrainingRun) -> Site:
    """Where a stage of the run is to begin. Raises BadInput where it cannot."""
    here, trainer = site(), run.spec.trainer
    check(run, here)
    if here.ray is not None and trainer.nodes > 1:
        await check_nodes(here.ray, trainer.nodes, trainer.gpus_per_node or max(1, here.gpus))
    return here


async def supervise(work: Workplace, start: Path, sft: Sft) -> int:
    """SFT by verl's trainer, from the model in `start`; returns the number of its last step."""
    here = await _checked_site(work.run)
    data = await demonstrations(work, sft)
    steps = sft.epochs * (len(data) // sft.batch_size)
    if not steps:
        raise BadInput(f"spec.sft.batchSize: {sft.batch_size} is more than the {len(data)} demonstrations; lower it")
    stage = await _Stage.begin(work, here, "sft", start, steps)
    if stage.done == steps:
        return steps
    file = stage.spool / "demonstrations.jsonl"
    file.write_bytes(dump_lines(data))
    overrides = sft_overrides(work.run, here, stage.places(start, demonstrations=file))
    if work.run.spec.trainer.nodes > 1:
        await stage.run(["verl.trainer.sft_trainer_ray", *overrides], _sft_line, _for_workers(stage.environment))
    else:
        gpus = work.run.spec.trainer.gpus_per_node or max(1, here.gpus)
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}", "-m"]
        await stage.run([*torchrun, "verl.trainer.sft_trainer", *overrides], _sft_line)
    return steps


def _for_workers(environment: Mapping[str, str]) -> dict[str, str]:
    """The same for Ray's workers on any node: unlike its RL, verl's SFT has no setting for that."""
    given = json.loads(os.environ.get(_JOB_CONFIG) or "{}")
    runtime = given.get("runtime_env") or {}
    variables = {**(runtime.get("env_vars") or {}), **environment}
    return {_JOB_CONFIG: json.dumps({**given, "runtime_env": {**runtime, "env_vars": variables}})}


async def reinforce(work: Workplace, start: Path, rl: Rl) -> int:
    """RL by verl's trainer, from the model in `start`; returns the number of its last step."""
    here = await _checked_site(work.run)
    stage = await _Stage.begin(work, here, "rl", start, rl.steps)
    if stage.done < rl.steps:
        overrides = rl_overrides(work.run, stage.site, stage.places(start))
        await stage.run(["verl.trainer.main_ppo", *overrides], _rl_line)
    return rl.steps


async def evaluate(work: Workplace, name: Stage, step: int, folder: Path) -> Evaluation:
    """Held-out rollouts by vLLM servers over the checkpoint in `folder`."""
    here = await _checked_site(work.run)
    stage = await _Stage.begin(work, here, name, folder, 0, spool=f"evaluation-{name}")
    result = stage.spool / "evaluation.json"
    overrides = serving_overrides(work.run, stage.site, stage.places(folder))
    module = "astra_trainer.engines.verl.evaluate"
    with work.progress.doing(f"{name}: evaluating"):
        await stage.process([module, name, str(step), str(result), *overrides], lambda: None)
    if not result.exists():
        raise RunFailed(f"the evaluation left no result; see {stage.log}")
    found = json.loads(result.read_bytes())
    shutil.rmtree(stage.spool)
    return summary(
        [Trajectory.model_validate(values) for values in found["trajectories"]],
        [Reject.model_validate(values) for values in found["excluded"]],
    )


@dataclass
class _Stage:
    """One attempt at a stage: its spool, how far it is, and what has been read of it."""

    work: Workplace
    site: Site
    name: Stage
    steps: int
    done: int
    spool: Path
    room: int
    _read: int = 0  # bytes of verl's metrics
    _heard: float = field(default_factory=time.monotonic)  # when its last line was read
    _pending: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    _exports: Exports = field(init=False)
    _exported: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._exports = Exports(self.spool / FOLDER)

    @classmethod
    async def begin(
        cls, work: Workplace, here: Site, name: Stage, model: Path, steps: int, spool: str | None = None
    ) -> "_Stage":
        position = work.directory.position
        done = position.step if position is not None and position.stage == name and not position.evaluated else 0
        folder = work.directory.path.absolute() / "state" / (spool or f"spool-{name}")
        shutil.rmtree(folder, ignore_errors=True)
        (folder / FOLDER).mkdir(parents=True)
        room = await compute(_room, work, model)
        stage = cls(work, here, name, steps, done if steps else 0, folder, room)
        stage._write_job(model)
        stage.site = replace(here, environment=stage.environment)  # Ray hands it on to workers on other nodes
        if steps:
            work.progress.stage(name, stage.done, steps)
            stage._forget_uncommitted()
            stage._make_missed_snapshots()
        return stage

    @property
    def job(self) -> Path:
        return self.spool / "job.json"

    @property
    def log(self) -> Path:
        """What verl, Ray and vLLM print, of all attempts."""
        return self.work.directory.path.absolute() / "logs" / f"{self.spool.name.removeprefix('spool-')}.log"

    @property
    def states(self) -> Path:
        return self.work.directory.path.absolute() / "state" / f"verl-{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        device = _CPU if self.site.device == "cpu" else {}
        places = {JOB: str(self.job), "VERL_FILE_LOGGER_PATH": str(self.spool / METRICS)}
        return {**_EVERYWHERE, **device, **places}

    def places(self, model: Path, demonstrations: Path | None = None) -> Places:
        resume = self.states / f"global_step_{self.done}" if self.done else None
        if resume is not None and not resume.is_dir():
            raise BadInput(f"{resume}: the state of the last step is gone; begin in a new directory")
        return Places(model.absolute(), self.states, resume, demonstrations, self.room, self._agents)

    @property
    def _agents(self) -> int:
        """Processes that drive rollouts: no more than there are groups that the sandboxes hold at once."""
        rl = self.work.run.spec.rl
        most = division(self.work.run.spec).agent_workers
        return min(most, self.work.groups_at_once(rl.group_size)) if rl is not None else 1

    async def run(self, command: list[str], line: "_Line", variables: Mapping[str, str] | None = None) -> None:
        """Runs verl to the stage's last step, with further environment variables. Raises RunFailed."""
        await self.process(command, lambda: self._follow(line), variables)
        await asyncio.to_thread(self._exports.finish)  # the last snapshots may still be in the making
        self._follow(line)
        if self.done < self.steps:
            raise RunFailed(f"{self.name} ended after step {self.done} of {self.steps}; see {self.log}")
        shutil.rmtree(self.spool)

    async def process(
        self, command: list[str], follow: Callable[[], None], variables: Mapping[str, str] | None = None
    ) -> None:
        self.log.parent.mkdir(exist_ok=True)
        stall = float(os.environ.get(STALL, "3600"))
        environment = {**self.environment, **(variables or {})}
        await run_process(command, environment, job=self.job, log=self.log, follow=follow, stall_seconds=stall)

    def _write_job(self, model: Path) -> None:
        given: Sandbox = self.work.sandbox
        sandbox, own = (given.shared, given.own) if isinstance(given, Pools) else (given, {})
        if not isinstance(sandbox, SandboxClient):
            raise TypeError("the workers of engine verl need sandboxes with addresses")
        if self.work.run.spec.trainer.nodes > 1 and any(address.startswith("unix:") for address in sandbox.addresses):
            raise BadInput(
                "spec.trainer.nodes: workers on other nodes cannot reach the sandboxes of this one; name servers that "
                f"they can reach in {ADDRESSES}, and the folder of their certificates in {CERTIFICATES}"
            )
        environments = self.spool / "environments.json"
        split = self.work.split
        write_environments(environments, map(kept, [*split.train, *split.holdout]))
        Job(
            run=self.work.run.model_dump(mode="json", by_alias=True, exclude_none=True),
            environments=str(environments),
            model=str(model.absolute()),
            sandboxes=Servers(
                addresses=sandbox.addresses, certificates=os.environ.get(CERTIFICATES) if sandbox.secured else None
            ),
            own=own,
            capacity=self.work.capacity,
            agents=self._agents,
            room=self.room,
            spool=str(self.spool),
        ).write(self.job)

    def _forget_uncommitted(self) -> None:
        (self.states / _TRACKER).unlink(missing_ok=True)
        for state in self.states.glob("global_step_*"):
            if _number(state) > self.done:
                shutil.rmtree(state)

    def _make_missed_snapshots(self) -> None:
        """Of states that are there: a run that was killed may have been about to make them."""
        for state in self.states.glob("global_step_*"):
            if self._due(_number(state)) and not self.work.directory.checkpoint(self.name, _number(state)).exists():
                self._export(_number(state))

    def _due(self, step: int) -> bool:
        return step == self.steps or step % self.work.run.spec.checkpoint.snapshot_every == 0

    def _export(self, step: int) -> None:
        state = self.states / f"global_step_{step}"
        self._exports.begin(state / "actor" if self.name == "rl" else state, step)

    def _follow(self, line: "_Line") -> None:
        """Commits the steps that are whole by now."""
        self._exports.check()
        self._read_metrics()
        self._adopt_snapshots()
        while self._pending:
            step, figures = self._pending[0]
            due = step == self.steps or step % self.work.run.spec.checkpoint.state_every == 0
            if due and not self._stored(step):
                return
            if self.name == "sft" and not self._snapshot(step):
                return
            self._pending.pop(0)
            made = line(self, step, figures)
            if due:
                self.done = step
                self.work.directory.commit(Position(stage=self.name, step=step), made)
                self._prune()
            else:
                self.work.directory.record(made)
            self.work.progress.line(made)

    def _read_metrics(self) -> None:
        file = self.spool / METRICS
        if not file.exists():
            return
        with file.open("rb") as log:
            log.seek(self._read)
            for entry in log:
                if not entry.endswith(b"\n"):
                    return
                self._read += len(entry)
                found = json.loads(entry)
                now = time.monotonic()
                self._pending.append((int(found["step"]), {"seconds": now - self._heard, **found["data"]}))
                self._heard = now

    def _stored(self, step: int) -> bool:
        """Whether the state of a step is whole: verl names the newest one after it is written."""
        tracker = self.states / _TRACKER
        return tracker.exists() and int(tracker.read_text()) >= step

    def _snapshot(self, step: int) -> bool:
        """SFT has no hook in verl: begins the snapshot of a step that needs one; whether the step may be committed."""
        if not self._due(step):
            return True
        if step not in self._exported:
            self._export(step)
            self._exported.add(step)
        return step != self.steps or self.work.directory.checkpoint(self.name, step).exists()

    def _adopt_snapshots(self) -> None:
        for folder in (self.spool / FOLDER).glob("[0-9]*"):
            if folder.is_dir():
                self.work.directory.adopt_snapshot(self.name, int(folder.name), folder)

    def _prune(self) -> None:
        states = sorted(self.states.glob("global_step_*"), key=_number)
        committed = [state for state in states if _number(state) <= self.done]
        for state in committed[: -self.work.run.spec.checkpoint.keep_states]:
            shutil.rmtree(state)


_Line = Callable[[_Stage, int, Mapping[str, Any]], Mapping[str, Value]]  # verl's figures of a step, as ours


def _number(state: Path) -> int:
    return int(state.name.rpartition("_")[2])


def _room(work: Workplace, model: Path) -> int:
    """Tokens of a sequence that a rollout server must hold, as far as the model goes."""
    limits = rollout_settings(work.run, 1.0)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    longest = limits.max_prompt_tokens + limits.max_response_tokens
    return min(longest, int(config.get("max_position_embeddings", longest)))


def _sft_line(stage: _Stage, step: int, data: Mapping[str, Any]) -> Mapping[str, Value]:
    return {
        "kind": "train",
        "stage": "sft",
        "step": step,
        "loss": data["train/loss"],
        "grad_norm": data["train/grad_norm"],
        "learning_rate": data["train/lr"],
        "tokens": data["train/global_tokens"],
        "seconds": data["seconds"],
    }


def _rl_line(stage: _Stage, step: int, data: Mapping[str, Any]) -> Mapping[str, Value]:
    spool = stage.spool / "steps"
    trajectories = read_lines(spool / f"{step}.jsonl")
    filling = json.loads((spool / f"{step}.json").read_bytes())
    stage.work.directory.save_trajectories("rl", step, "train", trajectories)
    seconds = float(data["timing_s/step"])
    offered = filling["offered"]
    return {
        "kind": "train",
        "stage": "rl",
        "step": step,
        "loss": data.get("actor/pg_loss") if filling["taken"] else None,
        "grad_norm": data.get("actor/grad_norm"),
        "learning_rate": data.get("actor/lr"),
        "clip_fraction": data.get("actor/pg_clipfrac"),
        "logprob_mismatch_mean": data.get("actor/mismatch_mean"),
        "logprob_mismatch_max": data.get("actor/mismatch_max"),
        **rollout_figures(trajectories),
        "discarded_share": filling["discarded"] / offered if offered else 0.0,
        "groups": filling["taken"],
        "stale_groups": filling["stale"],
        "surplus_groups": filling["surplus"],
        "offered": offered,
        "excluded": filling["failed"],
        "tool_wait_share": filling["waiting_seconds"] / seconds,
        "tokens_per_second": data.get("perf/throughput"),
        "rollout_seconds": data.get("timing_s/gen"),
        "update_seconds": data.get("timing_s/update_actor"),
        "sync_seconds": data.get("timing_s/update_weights"),
        "seconds": seconds,
    }
