"""The sampler over a real TransferQueue: what it trains on, replaces, carries over, and when it gives up."""

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("vllm", reason="needs the environment of `make test-verl`")

import ray
import transfer_queue
from farm import EXAMPLE
from hydra import compose, initialize_config_module

from astra_api.manifests import load_manifests
from astra_api.records import Reward, Trajectory
from astra_api.training_run import TrainingRun
from astra_sandbox.pool import Servers
from astra_trainer.engines.verl import job
from astra_trainer.engines.verl.generation import ServerGenerator
from astra_trainer.kept_environments import kept, write_environments
from astra_trainer.trajectory_lines import read_lines

WANTED, ROUNDS, SIZE = 4, 3, 2
Kind = str  # useful | useless | failed


@pytest.fixture(scope="module", autouse=True)
def queue() -> Iterator[None]:
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", ["transfer_queue.enable=true"])
    ray.init(num_cpus=16, include_dashboard=False)
    transfer_queue.init(config.transfer_queue)
    yield
    transfer_queue.close()
    ray.shutdown()


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    documents = [manifest.resource for manifest in load_manifests([EXAMPLE])]
    run = next(resource for resource in documents if isinstance(resource, TrainingRun))
    values = run.model_dump(mode="json", by_alias=True, exclude_none=True)
    values["spec"]["rl"] |= {"groupSize": SIZE, "batchSize": SIZE * WANTED, "batchFilling": {"maxRounds": ROUNDS}}
    write_environments(
        tmp_path / "environments.json",
        [kept(resource) for resource in documents if not isinstance(resource, TrainingRun)],  # type: ignore[arg-type]
    )
    job.Job(
        run=values,
        environments=str(tmp_path / "environments.json"),
        model="/nowhere",
        sandboxes=Servers(addresses=("unix:/nowhere",)),
        capacity=8,
        room=512,
        spool=str(tmp_path),
    ).write(tmp_path / "job.json")
    monkeypatch.setenv(job.JOB, str(tmp_path / "job.json"))
    job.floor.cache_clear()
    yield tmp_path
    job.floor.cache_clear()
    empty_queue()


def empty_queue() -> None:
    """As it is when a run begins, or begins again."""
    for partition, entries in (transfer_queue.kv_list() or {}).items():
        if entries:
            transfer_queue.kv_clear(keys=list(entries), partition_id=partition)


class Rollouts:
    """Stands where verl's trainer and its agent loops stand: puts groups of given kinds into the queue."""

    def __init__(self, kinds: Callable[[int], Kind], *, at_once: bool = True) -> None:
        self.kinds, self.number, self.step, self.at_once = kinds, 0, 1, at_once
        self.under_way: list[tuple[int, str]] = []

    def add(self, count: int) -> None:
        for _ in range(count):
            self.under_way.append((self.number, str(uuid4())))
            self._tag("running", self.under_way[-1][1])
            self.number += 1
        while self.at_once and self.under_way:
            self.finish()

    def finish(self) -> None:
        """The group that has been under way for longest comes to its end."""
        from astra_trainer.engines.verl.agent_loop import output

        number, uid = self.under_way.pop(0)
        kind = self.kinds(number)
        if kind != "failed":
            for index in range(SIZE):
                value = 1.0 if kind == "useless" else float(index)
                generator: Any = ServerGenerator(None, frozenset(), 0)  # type: ignore[arg-type]
                generator.timeline.ended = time.time()
                field = output(self._trajectory(number, index, value), 1, generator).as_dict()
                field["uid"] = uid
                data = _tensors(field)
                tag = {"status": "success", "seq_len": 3, "global_steps": self.step}
                transfer_queue.kv_batch_put(keys=[f"{uid}_{index}_0"], fields=data, tags=[tag], partition_id="train")
        self._tag("failure" if kind == "failed" else "finished", uid)

    def _tag(self, status: str, uid: str) -> None:
        tag = {"is_prompt": True, "status": status, "global_steps": self.step}
        transfer_queue.kv_batch_put(keys=[uid], tags=[tag], partition_id="train")

    def _trajectory(self, number: int, index: int, value: float) -> Trajectory:
        return Trajectory(
            environment="e",
            digest="sha256:0",
            domain="d",
            split="train",
            stage="rl",
            step=self.step,
            group=number,
            index=index,
            messages=(),
            tools=(),
            tokens=(1, 2, 3),
            mask=(0, 1, 1),
            logprobs=(0.0, -1.0, -1.0),
            turns=1,
            calls=(),
            ended="answered",
            reward=Reward(value=value, recall=value, precision=value, f1=value, solved=(), needed=1, calls=1),
        )


def _tensors(field: dict[str, Any]) -> Any:
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    return list_of_dict_to_tensordict([field])


def sampler(rollouts: Rollouts, state: Path | None = None, staleness: int = 0) -> Any:
    """As verl's trainer makes it: at a run's beginning, or where it goes on from a state."""
    from astra_trainer.engines.verl import group_sampler

    kind = group_sampler.AsyncGroupSampler if staleness else group_sampler.GroupSampler
    return kind(
        trainer_mode="colocate_async" if staleness else "sync",
        trainer_config={},
        max_off_policy_threshold=staleness + 1,
        max_off_policy_strategy="drop",
        sampler_kwargs={"state": str(state)} if state else {},
        refill_fn=rollouts.add,
    )


def step(
    made: Any, rollouts: Rollouts, number: int, state: Path | None = None
) -> tuple[set[int], dict[str, Any], list[Trajectory]]:
    """One step as verl's trainer takes it: the draws trained on, the figures, and what was rolled out.

    The state after it is kept in the folder `state`.
    """
    rollouts.step = number
    rollouts.add(WANTED)
    batch, metrics = made.sample(number, "train", WANTED)
    fields = transfer_queue.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["extra_fields"])
    found = [getattr(extra, "data", extra)["astra_trajectory"] for extra in fields["extra_fields"]]
    draws = {Trajectory.model_validate_json(text).group for text in found}
    assert len(batch.keys) == SIZE * len(draws), "whole groups"
    if state:
        made.keep(state)
    transfer_queue.kv_clear(keys=batch.keys, partition_id="train")  # as verl's trainer does after the update
    figures = json.loads((job.floor().spool / "steps" / f"{number}.json").read_bytes())
    assert metrics["astra/offered"] == figures["offered"]
    return draws, figures, read_lines(job.floor().spool / "steps" / f"{number}.jsonl")


def test_useless_and_failed_groups_are_replaced_and_a_surplus_is_trained_on_next(spool: Path) -> None:
    kinds = ["useless", "useful", "failed", "useful", "useful", "useful", "useful", "useful"]
    rollouts = Rollouts(lambda number: kinds[number] if number < len(kinds) else "useful")
    made = sampler(rollouts)
    draws, figures, rolled = step(made, rollouts, 1)
    assert draws == {1, 3, 4, 5}
    assert (figures["discarded"], figures["failed"], figures["taken"], figures["stale"]) == (1, 1, 4, 0)
    assert figures["offered"] == len({trajectory.group for trajectory in rolled}) == rollouts.number - 1
    surplus = set(range(6, rollouts.number))
    assert figures["surplus"] == len(surplus) > 0, "more was asked for than was missing, as some would be useless"
    draws, figures, rolled = step(made, rollouts, 2)
    assert surplus <= draws, "the oldest first"
    assert figures["stale"] == len(surplus)
    assert {trajectory.step for trajectory in rolled} == {2}, "a rollout is reported in its own step"


def test_no_more_is_asked_for_than_is_expected_to_be_of_use(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups end one after the other. Where all are of use, what is under way is enough, and nothing grows stale."""
    from astra_trainer.engines.verl import group_sampler

    rollouts = Rollouts(lambda number: "useless" if 9 < number < 13 else "useful", at_once=False)
    clock = SimpleNamespace(sleep=lambda seconds: rollouts.finish(), monotonic=time.monotonic)
    made = sampler(rollouts)
    monkeypatch.setattr(group_sampler, "time", clock)
    for number in (1, 2):
        draws, figures, _ = step(made, rollouts, number)
        assert rollouts.number == figures["offered"] * number == WANTED * number
        assert (len(draws), figures["stale"], figures["surplus"]) == (WANTED, 0, 0)
    _, figures, _ = step(made, rollouts, 3)  # numbers 8 to 12: one is asked for as soon as the first is of no use
    assert figures["offered"] > WANTED
    assert figures["taken"] == WANTED


def test_a_pool_without_a_spread_of_rewards_is_given_up(spool: Path) -> None:
    rollouts = Rollouts(lambda number: "useless")
    made = sampler(rollouts)
    for number in (1, 2):
        draws, figures, _ = step(made, rollouts, number)
        assert len(draws) == 1, "something must be there to train on, to no effect"
        assert figures["taken"] == 0
        assert figures["offered"] == figures["discarded"] == WANTED * ROUNDS
        assert figures["surplus"] == 0


def test_failures_end_the_run_with_their_reasons(spool: Path) -> None:
    from astra_trainer.engines.verl.group_sampler import RolloutsFailed

    rollouts = Rollouts(lambda number: "failed")
    job.floor().note_failure(ConnectionError("sandbox 3 is gone"), fatal=False)
    with pytest.raises(RolloutsFailed, match="none came through: ConnectionError: sandbox 3 is gone"):
        step(sampler(rollouts), rollouts, 1)
    job.floor().note_failure(RuntimeError("EngineCore died"), fatal=True)
    rollouts = Rollouts(lambda number: "useful" if number else "failed")
    with pytest.raises(RolloutsFailed, match="the rollout engine died: EngineCore died"):
        step(sampler(rollouts), rollouts, 2)


def test_failures_without_end_are_given_up_though_some_groups_come_through(spool: Path) -> None:
    from astra_trainer.engines.verl.group_sampler import RolloutsFailed

    rollouts = Rollouts(lambda number: "failed" if number else "useful")
    with pytest.raises(RolloutsFailed, match="groups failed and 1 came through"):
        step(sampler(rollouts), rollouts, 1)
    assert rollouts.number < 10 * WANTED * ROUNDS


@pytest.mark.parametrize("seed", range(6))
def test_every_step_trains_on_useful_groups_alone_and_asks_within_its_limits(spool: Path, seed: int) -> None:
    rng = random.Random(seed)
    share = rng.random()
    kinds = [rng.choices(("useful", "useless", "failed"), (share, 1 - share, 0.1))[0] for _ in range(500)]
    rollouts = Rollouts(lambda number: kinds[number])
    made, trained = sampler(rollouts), set[int]()
    for number in range(1, 6):
        draws, figures, _ = step(made, rollouts, number)
        assert figures["offered"] <= WANTED * ROUNDS
        assert len(draws) <= WANTED
        assert not draws & trained, "no group twice"
        trained |= draws
        if figures["taken"]:
            assert {kinds[draw] for draw in draws} == {"useful"}
            assert figures["taken"] == len(draws)
        if len(draws) < WANTED:
            assert figures["offered"] == WANTED * ROUNDS, "it gave up only at the limit"
        assert figures["surplus"] <= WANTED


@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_goes_on_from_a_state_does_what_it_would_have_done(spool: Path, seed: int) -> None:
    rng = random.Random(seed)
    kinds = [rng.choices(("useful", "useless", "failed"), (0.6, 0.4, 0.1))[0] for _ in range(500)]

    def run(*, interrupted: bool) -> list[Any]:
        rollouts, found = Rollouts(lambda number: kinds[number]), list[Any]()
        made = sampler(rollouts)
        for number in range(1, 7):
            state = spool / f"{interrupted}-{number}"
            draws, figures, rolled = step(made, rollouts, number, state)
            del figures["rollout_seconds"]
            found.append((draws, figures, [(each.step, each.group, each.index) for each in rolled]))
            if interrupted:
                empty_queue()
                made = sampler(rollouts, state)
        empty_queue()
        return found

    undisturbed = run(interrupted=False)
    assert run(interrupted=True) == undisturbed
    assert any(figures["stale"] for _, figures, _ in undisturbed), "else this says nothing"


def test_a_state_brings_back_what_waits_and_nothing_else(spool: Path) -> None:
    rollouts = Rollouts(lambda number: "useful")
    rollouts.add(1)  # more than a step needs
    _, figures, _ = step(sampler(rollouts), rollouts, 1, spool / "state")
    waiting = transfer_queue.kv_list()["train"]
    assert figures["surplus"] == 1
    empty_queue()
    sampler(rollouts, spool / "state")
    assert transfer_queue.kv_list()["train"] == waiting, "the step's own batch was in the state too"


def test_asynchronous_training_reports_a_group_once_though_it_goes_on_from_a_state(spool: Path) -> None:
    """verl itself keeps and restores the queue there; what had not come to its end it rolls out anew."""
    rollouts, state = Rollouts(lambda number: "useful", at_once=False), spool / "state"
    made = sampler(rollouts, staleness=2)
    rollouts.add(2 * WANTED)
    for _ in range(WANTED + 1):
        rollouts.finish()
    trained = made.sample(1, "train", WANTED)[0].keys
    rollouts.finish()  # during the update
    transfer_queue.save_checkpoint(state / "transfer_queue")
    made.keep(state)
    empty_queue()
    made = sampler(rollouts, state, staleness=2)
    transfer_queue.load_checkpoint(state / "transfer_queue")
    while rollouts.under_way:
        rollouts.finish()
    batch, _ = made.sample(2, "train", WANTED)
    assert not set(batch.keys) & set(trained)
    figures = json.loads((spool / "steps" / "2.json").read_bytes())
    assert (figures["taken"], figures["stale"], figures["surplus"]) == (WANTED, WANTED, 0)
    reported = {trajectory.group for trajectory in read_lines(spool / "steps" / "2.jsonl")}
    assert reported == set(range(WANTED + 1, 2 * WANTED))
    assert figures["offered"] == WANTED - 1
