"""Adaptive batch filling in verl: which groups a step trains on, which are replaced, which wait for the next step.

verl's own filter never gives up on a pool without a spread of rewards, and drops what it has too much of. Here a step
asks for at most `maxRounds` batches of groups, and a surplus stays in the queue for the next step, which takes the
oldest first. A group of which one rollout was failed by the infrastructure is replaced whole, and not counted.

Runs in the process of verl's trainer. What a step rolled out, and how it was filled, is left in the job's spool. The
queue is part of a step's state, beside weights and data loader: a run that goes on from there finds its surplus.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import transfer_queue
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from astra_api.files import replace
from astra_api.records import Record, Trajectory
from astra_trainer.batch_filling import has_spread
from astra_trainer.engines.verl.agent_loop import TIMELINE, TRAJECTORY
from astra_trainer.engines.verl.job import FAILURES, floor
from astra_trainer.engines.verl.processes import DIAGNOSIS
from astra_trainer.engines.verl.timeline import Timeline, waiting_seconds
from astra_trainer.engines.verl.watchdog import Watchdog
from astra_trainer.groups import Group
from astra_trainer.trajectory_lines import dump_lines

TRAIN = "train"  # verl's name of the partition that is trained on
_QUEUE, _CARRIED = "transfer_queue", "sampler.json"  # in a state; the first is verl's name
POLL_SECONDS = 0.2


class RolloutsFailed(RuntimeError):
    """The infrastructure fails rollouts for good; the message says how."""


@dataclass
class Filling:
    """How a step's batch came about."""

    wanted: int
    offered: int = 0  # groups rolled out in this step
    discarded: int = 0  # of those, without a spread of rewards
    failed: int = 0  # groups that the infrastructure failed; not offered
    taken: int = 0  # groups trained on
    stale: int = 0  # of those, carried over from earlier steps
    surplus: int = 0  # left for the next step
    rollout_seconds: float = 0.0
    waiting_seconds: float = 0.0  # all rollouts waited for their tools


class Carried(Record):
    """What a sampler knows of a state's queue, and the queue does not."""

    reported: tuple[str, ...]  # groups in it that were counted, and written, with the step that rolled them out
    useful: float  # share of that step's groups


@dataclass
class _Offers:
    """What came of the groups of one partition so far."""

    groups: dict[str, Group] = field(default_factory=dict)
    timelines: list[Timeline] = field(default_factory=list)
    of_step: list[str] = field(default_factory=list)


class GroupSampler(ReplayBuffer):  # type: ignore[misc]
    """The sampler of synchronous training: rollouts end before the update begins."""

    def __init__(self, **settings: Any) -> None:
        """As verl makes it; `sampler_kwargs.state` is the folder of the state that training goes on from, if any."""
        here = floor()
        rl = here.rl
        self._spool = here.spool
        self._min_std = rl.batch_filling.min_std
        self._wanted = rl.batch_size // rl.group_size
        self._most = self._wanted * rl.batch_filling.max_rounds
        self._offers = _Offers()
        self._filling = Filling(self._wanted)
        self._useful_before = 1.0  # share of the last step's groups; of the first, the best is hoped for
        self._reported = frozenset[str]()  # groups that a state brought, of which nothing is left to be said
        super().__init__(
            **{**settings, "poll_interval": POLL_SECONDS},
            filter_groups_metric="reward",
            train_batch_size=self._wanted,
            gen_batch_size=1,
            sync_refill_failed_groups=True,
        )
        if state := self.sampler_kwargs.get("state"):
            self._resume(Path(state))
        self._watchdog = Watchdog(self._spool)
        self._watchdog.start()

    def keep(self, state: Path) -> None:
        """Puts the queue, and what is known of it, into the state of the step that was sampled last."""
        if self.trainer_mode == "sync":  # in its other modes verl does
            transfer_queue.save_checkpoint(state / _QUEUE)
        reported = self._offers.groups.keys() - set(self._offers.of_step)
        carried = Carried(reported=tuple(sorted(reported)), useful=self._useful_before)
        replace(state / _CARRIED, carried.model_dump_json().encode())

    def _resume(self, state: Path) -> None:
        """Takes up what `keep` left."""
        carried = Carried.model_validate_json((state / _CARRIED).read_bytes())
        self._reported, self._useful_before = frozenset(carried.reported), carried.useful
        if self.trainer_mode == "sync":
            transfer_queue.load_checkpoint(state / _QUEUE)
            self._sync_metadata_from_transfer_queue()
            waiting = self.finished_keys[TRAIN]  # the step's own batch was in the queue still
            trained = [key for key in self.partitions[TRAIN] if key.split("_")[0] not in waiting]
            if trained:
                transfer_queue.kv_clear(keys=trained, partition_id=TRAIN)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """The groups of a step, and figures that verl logs. Raises RolloutsFailed."""
        began = time.monotonic()
        while True:
            self._sync_metadata_from_transfer_queue()
            self._evict(global_steps, partition_id)
            ready = self._ready(partition_id)
            under_way = len(self.pending_keys[partition_id]) + len(self.running_keys[partition_id])
            replacements = self._replacements(batch_size - len(ready), under_way)
            if replacements:
                self.refill_fn(replacements)
                continue
            if under_way == 0:
                break
            self._watchdog.heartbeat(step=global_steps, ready=len(ready), under_way=under_way)
            time.sleep(self.poll_interval)
        batch = self._take(ready, global_steps, partition_id, batch_size)
        self._filling.rollout_seconds = time.monotonic() - began
        return batch, self._report(global_steps)

    def _evict(self, global_steps: int, partition_id: str) -> None:
        """Takes failed groups and those without a spread of rewards out of the queue."""
        reasons = self._terminal_eviction_reasons(global_steps, partition_id)
        self._evict_terminal_groups(global_steps, partition_id, reasons)

    def _terminal_eviction_reasons(
        self, global_steps: int, partition_id: str
    ) -> tuple[set[str], set[str], set[str], Counter[float]]:
        failed = set(self.failure_keys[partition_id])
        self._count_failed(len(failed))
        useless, rewards = self._dapo_filtered_keys(partition_id)
        return set(), useless, failed, rewards

    def _dapo_filtered_keys(self, partition_id: str) -> tuple[set[str], Counter[float]]:
        """Groups without a spread of rewards, while others may still be asked for in their place."""
        self._read(partition_id)
        finished = self.finished_keys[partition_id]
        useless = {uid for uid in finished if not has_spread(self._offers.groups[uid], self._min_std)}
        if self._filling.offered >= self._most:
            return set(), Counter()  # they stay: a step without any other trains on one of them, to no effect
        return useless, Counter(self._offers.groups[uid].rewards[0] for uid in useless)

    def _read(self, partition_id: str) -> None:
        """Takes note of groups that have finished."""
        new = self.finished_keys[partition_id] - self._offers.groups.keys()
        if not new:
            return
        keys = [key for key in self.partitions[partition_id] if key.split("_")[0] in new]
        fields = transfer_queue.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["extra_fields"])
        found: dict[str, list[Trajectory]] = {uid: [] for uid in new}
        for key, extra in zip(keys, fields["extra_fields"], strict=True):
            values: Mapping[str, Any] = getattr(extra, "data", extra)
            uid = key.split("_")[0]
            found[uid].append(Trajectory.model_validate_json(values[TRAJECTORY]))
            if uid not in self._reported:
                self._offers.timelines.append(_timeline(values[TIMELINE]))
        for uid, trajectories in found.items():
            group = Group(trajectories=tuple(sorted(trajectories, key=lambda trajectory: trajectory.index)))
            self._offers.groups[uid] = group
            if uid in self._reported:
                continue
            self._offers.of_step.append(uid)
            self._filling.offered += 1
            self._filling.discarded += not has_spread(group, self._min_std)

    def _count_failed(self, failed: int) -> None:
        if not failed:
            return
        self._filling.failed += failed
        failures = _failures(self._spool)
        if fatal := [failure for failure in failures if failure["fatal"]]:
            self._give_up(f"the rollout engine died: {fatal[-1]['message']}")
        through = self._filling.offered
        if self._filling.failed > (self._most if through else 2 * self._wanted):
            said = {f"{failure['reason']}: {failure['message']}" for failure in failures[-32:]}
            why = "; ".join(sorted(said)[:3]) or "see the log of the agent loop workers"
            self._give_up(f"{self._filling.failed} groups failed and {through or 'none'} came through: {why}")

    def _give_up(self, why: str) -> NoReturn:
        """Leaves the diagnosis where the stage's driver finds it, whatever verl makes of the exception."""
        replace(self._spool / DIAGNOSIS, json.dumps({"message": why}).encode())
        raise RolloutsFailed(why)

    def _ready(self, partition_id: str) -> list[str]:
        """Groups that can be trained on, those with a spread of rewards first, then the oldest, then by draw."""

        def place(uid: str) -> tuple[bool, int, int]:
            group = self._offers.groups[uid]
            trajectory = group.trajectories[0]
            return not has_spread(group, self._min_std), trajectory.step, trajectory.group

        return sorted(self.finished_keys[partition_id], key=place)

    def _replacements(self, missing: int, under_way: int) -> int:
        """How many groups to ask for now, so that as many as are missing may be expected to be of use.

        Never beyond the limits. What is asked for too much is stale when it is trained on.
        """
        if missing <= 0:
            return 0
        useful = self._useful_share()
        free = self._wanted - under_way
        left = self._most - self._filling.offered - under_way
        return max(0, min(math.ceil(missing / useful - under_way), free, left))

    def _useful_share(self) -> float:
        """The share of groups with a spread of rewards: of this step's, and the last one's as half a batch. Above 0."""
        before = self._wanted / 2
        useful = self._filling.offered - self._filling.discarded + before * self._useful_before
        return max(useful / (self._filling.offered + before), 1 / self._most)

    def _take(self, ready: Sequence[str], global_steps: int, partition_id: str, batch_size: int) -> Any:
        useful = [uid for uid in ready if has_spread(self._offers.groups[uid], self._min_std)]
        chosen = useful[:batch_size] or list(ready[:1])
        if not chosen:
            self._give_up(f"step {global_steps}: no group came through; see the log of the agent loop workers")
        self._filling.taken = len(useful[:batch_size])
        self._filling.stale = self._stale(chosen, global_steps)
        surplus = set(useful[batch_size:])
        self._filling.surplus = len(surplus)
        batch = self._hand_out(partition_id, chosen)
        self._clear_groups(partition_id, set(ready) - set(chosen) - surplus)
        return batch

    def _hand_out(self, partition_id: str, chosen: Sequence[str]) -> Any:
        """The rollouts of groups as verl's trainer takes them; the groups wait no longer."""
        batch = self._materialize_batch(partition_id, list(chosen), dict(self.partitions[partition_id]))
        self.finished_keys[partition_id].difference_update(chosen)
        return batch

    def _stale(self, chosen: Sequence[str], global_steps: int) -> int:
        """How many were rolled out for an earlier step."""
        return sum(self._offers.groups[uid].trajectories[0].step < global_steps for uid in chosen)

    def _report(self, step: int) -> dict[str, Any]:
        """Leaves the step's rollouts and figures in the spool, and begins the next step's."""
        offers, filling = self._offers, self._filling
        filling.waiting_seconds = waiting_seconds(offers.timelines)
        rolled = [trajectory for uid in offers.of_step for trajectory in offers.groups[uid].trajectories]
        rolled.sort(key=lambda trajectory: (trajectory.group, trajectory.index))
        (self._spool / "steps").mkdir(exist_ok=True)
        replace(self._spool / "steps" / f"{step}.jsonl", dump_lines(rolled))
        replace(self._spool / "steps" / f"{step}.json", json.dumps(asdict(filling)).encode())
        self._useful_before = self._useful_share()
        left = self.finished_keys[TRAIN]
        self._offers = _Offers(groups={uid: group for uid, group in offers.groups.items() if uid in left})
        self._filling = Filling(self._wanted)
        return {f"astra/{name}": float(value) for name, value in asdict(filling).items()}


class AsyncGroupSampler(GroupSampler, ReplayBufferAsync):  # type: ignore[misc]
    """The sampler of asynchronous training: rollouts go on during the update, and those too stale are replaced.

    verl keeps the number of groups under way; each that is evicted is replaced by one.
    """

    def _terminal_eviction_reasons(
        self, global_steps: int, partition_id: str
    ) -> tuple[set[str], set[str], set[str], Counter[float]]:
        stale = self._stale_terminal_keys(global_steps, partition_id)
        _, useless, failed, rewards = super()._terminal_eviction_reasons(global_steps, partition_id)
        return stale, useless, failed, rewards

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        began = time.monotonic()
        found, metrics = ReplayBufferAsync.wait_for_sampleable(self, global_steps, partition_id, batch_size)
        ready = [uid for uid in self._ready(partition_id) if uid in found]
        chosen = ready[:batch_size]
        batch = self._hand_out(partition_id, chosen)
        self._filling.taken = len(chosen)
        self._filling.stale = self._stale(chosen, global_steps)
        self._filling.surplus = len(ready) - len(chosen)
        self._filling.rollout_seconds = time.monotonic() - began
        return batch, {**metrics, **self._report(global_steps)}

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        under_way = len(self.pending_keys[partition_id]) + len(self.running_keys[partition_id])
        self._watchdog.heartbeat(step=-1, ready=len(self.finished_keys[partition_id]), under_way=under_way)
        time.sleep(self.poll_interval)
        return last_debug_time


def _timeline(text: str) -> Timeline:
    values = json.loads(text)
    spans = {name: [(start, end) for start, end in values[name]] for name in ("generating", "calling")}
    return Timeline(values["began"], values["ended"], **spans)


def _failures(spool: Path) -> list[dict[str, Any]]:
    file = spool / FAILURES
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
