"""One fixed set of rollouts through both engines: the same rewards, masks, advantages, loss and weights after it.

verl's side is its own code under the rendered configuration, from the output of the agent loop to new weights; what
is left out is the way there (Ray, the queue, vLLM), which the tests of whole runs take.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from tensordict import TensorDict

from astra_api.records import Trajectory
from astra_api.training_run import TrainingRun
from astra_trainer.engines.embedded import batch as embedded
from astra_trainer.engines.embedded.engine import EmbeddedEngine, Schedule
from astra_trainer.engines.verl.generation import ServerGenerator
from astra_trainer.engines.verl.overrides import Places, Site, rl_overrides

GROUPS, SIZE, RATE = 3, 4, 1e-3
PROMPT = 12


@pytest.fixture(scope="module")
def rollouts(model_folder: Path, make_trajectory: Callable[..., Trajectory]) -> list[Trajectory]:
    """Three groups of four: turns really sampled, with the sampler's log-probabilities; one turn was cut."""
    engine = EmbeddedEngine(model_folder, Schedule(RATE, 1))
    generator = engine.generator(frozenset({1}))

    async def roll(group: int, index: int) -> Trajectory:
        rng = random.Random(group)
        made = make_trajectory(seed=group, reward=rng.choice((0.0, 0.5)) + 0.25 * index)
        tokens, mask, logprobs = list(made.tokens[:PROMPT]), [0] * PROMPT, [0.0] * PROMPT
        for turn in range(2):
            seed = 100 * group + 10 * index + turn
            said = await generator.generate(tokens, max_tokens=4 + index + turn, temperature=1.0, seed=seed)
            cut = (group, index, turn) == (1, 2, 1)
            tokens += said.tokens
            mask += [int(not cut)] * len(said.tokens)
            logprobs += said.logprobs
            if turn == 0:
                given = [rng.randrange(8, 260) for _ in range(5)]
                tokens, mask, logprobs = tokens + given, mask + [0] * 5, logprobs + [0.0] * 5
        changes = {"tokens": tuple(tokens), "mask": tuple(mask), "logprobs": tuple(logprobs)}
        return made.model_copy(update={**changes, "group": group, "index": index})

    async def all_of_them() -> list[Trajectory]:
        return list(await asyncio.gather(*(roll(group, index) for group in range(GROUPS) for index in range(SIZE))))

    return asyncio.run(all_of_them())


def outputs(rollouts: Sequence[Trajectory]) -> list[dict[str, Any]]:
    """What verl's queue holds of each rollout."""
    from astra_trainer.engines.verl.agent_loop import output

    generator: Any = ServerGenerator(server=None, stop_ids=frozenset(), room=0)  # type: ignore[arg-type]
    return [output(trajectory, PROMPT, generator).as_dict() for trajectory in rollouts]


def nested(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def advantages(rollouts: Sequence[Trajectory], config: Any) -> torch.Tensor:
    """(rows, tokens), by verl's trainer."""
    from verl.protocol import DataProto
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    fields = outputs(rollouts)
    batch = TensorDict(
        {name: nested([field[name] for field in fields]) for name in ("response_mask", "rm_scores")},
        batch_size=len(fields),
    )
    data = DataProto(batch=batch.to_padded_tensor())
    data.batch["token_level_scores"] = data.batch["token_level_rewards"] = data.batch["rm_scores"]
    data.non_tensor_batch["uid"] = np.array([str(t.group) for t in rollouts], dtype=object)
    found = compute_advantage_for_multi_trajectories(
        data,
        batch_keys=[f"{t.group}_{t.index}_0" for t in rollouts],
        adv_estimator=config.algorithm.adv_estimator,
        num_repeat=SIZE,
        norm_adv_by_std_in_grpo=config.algorithm.norm_adv_by_std_in_grpo,
        config=config.algorithm,
    )
    return found.batch["advantages"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def config(model_folder: Path) -> Any:
    run = TrainingRun.model_validate(
        {
            "metadata": {"name": "parity"},
            "spec": {
                "model": {"path": str(model_folder)},
                "engine": "verl",
                "rl": {
                    "steps": 1,
                    "groupSize": SIZE,
                    "batchSize": GROUPS * SIZE,
                    "learningRate": RATE,
                    "maxPromptTokens": 64,
                    "maxResponseTokens": 64,
                },
            },
        }
    )
    places = Places(model_folder, Path("/states"), None, room=128)
    with initialize_config_module("verl.trainer.config", version_base=None):
        composed = compose("ppo_trainer", rl_overrides(run, Site("cpu", 0), places))
    OmegaConf.resolve(composed)
    return composed


def test_rewards_masks_and_tokens_are_the_same(rollouts: list[Trajectory]) -> None:
    for trajectory, field in zip(rollouts, outputs(rollouts), strict=True):
        assert field["prompts"].tolist() + field["responses"].tolist() == list(trajectory.tokens)
        assert [0] * PROMPT + field["response_mask"].tolist() == list(trajectory.mask)
        assert field["rm_scores"].sum().item() == trajectory.reward.value
        assert field["rollout_log_probs"].tolist() == pytest.approx(list(trajectory.logprobs[PROMPT:]), abs=1e-6)


def test_advantages_are_the_same(rollouts: list[Trajectory], config: Any) -> None:
    ours = embedded.group_advantages([t.reward.value for t in rollouts], [t.group for t in rollouts])
    theirs = advantages(rollouts, config)
    assert any(value != 0.0 for value in ours)
    for trajectory, value, row in zip(rollouts, ours, theirs, strict=True):
        mask = torch.tensor(trajectory.mask[PROMPT:])
        assert torch.allclose(row[: len(mask)], mask * value, atol=1e-6)


def test_one_step_has_the_same_loss_and_gives_the_same_weights(
    rollouts: list[Trajectory], config: Any, model_folder: Path, tmp_path: Path
) -> None:
    engine = EmbeddedEngine(model_folder, Schedule(RATE, 1))
    ours = engine.rl_step(rollouts, [trajectory.group for trajectory in rollouts])
    theirs, weights = one_step(rollouts, config)
    assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-6)
    assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-4)
    assert theirs["mismatch"] == pytest.approx(ours["logprob_mismatch_mean"], abs=1e-6)
    assert theirs["mismatch"] < 1e-4, "sampler and trainer agree on the policy"
    for name, value in engine.policy().named_parameters():
        assert torch.allclose(weights[name], value, atol=2e-6), name


def one_step(rollouts: Sequence[Trajectory], config: Any) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """An update of verl's actor as `ActorRolloutRefWorker` makes it of the configuration; its weights after it."""
    from torch.distributed.tensor import DTensor
    from verl.utils import tensordict_utils
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config import TrainingWorkerConfig
    from verl.workers.engine_workers import TrainingWorker
    from verl.workers.utils.losses import ppo_loss

    import astra_trainer.engines.verl.policy_loss  # noqa: F401

    settings = config.actor_rollout_ref
    settings.actor.optim.total_training_steps = 1
    actor = omega_conf_to_dataclass(settings.actor)
    training = TrainingWorkerConfig(
        model_type="language_model",
        model_config=omega_conf_to_dataclass(settings.model),
        engine_config=actor.engine,
        optimizer_config=actor.optim,
        checkpoint_config=actor.checkpoint,
    )
    training.engine_config.use_dynamic_bsz = actor.use_dynamic_bsz
    training.engine_config.max_token_len_per_gpu = actor.ppo_max_token_len_per_gpu
    training.engine_config.infer_max_token_len_per_gpu = settings.rollout.log_prob_max_token_len_per_gpu
    training.engine_config.use_remove_padding = settings.model.use_remove_padding
    worker = TrainingWorker(training)
    worker.reset()
    worker.set_loss_fn(partial(ppo_loss, actor))
    fields = outputs(rollouts)
    tensors = {name: nested([field[name] for field in fields]) for name in ("prompts", "responses", "response_mask")}
    tensors["loss_mask"] = tensors["response_mask"]
    tensors["input_ids"] = nested([torch.cat([field["prompts"], field["responses"]]) for field in fields])
    tensors["position_ids"] = nested([torch.arange(len(trajectory.tokens)) for trajectory in rollouts])
    tensors["old_log_probs"] = nested([field["rollout_log_probs"] for field in fields])
    rows = advantages(rollouts, config)
    tensors["advantages"] = nested([row[: len(field["responses"])] for row, field in zip(rows, fields, strict=True)])
    data = TensorDict(tensors, batch_size=len(fields))
    tensordict_utils.assign_non_tensor(
        data,
        temperature=settings.rollout.temperature,
        calculate_entropy=False,
        global_batch_size=len(fields),
        mini_batch_size=len(fields),
        epochs=actor.ppo_epochs,
        pad_mode="no_padding",
        use_remove_padding=False,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=actor.ppo_max_token_len_per_gpu,
        pad_token_id=0,
        compute_loss=True,
        update_lr_scheduler=True,
    )
    found: dict[str, Any] = tensordict_utils.get(worker.train_batch(data), "metrics")
    weights = {
        name: (value.to_local() if isinstance(value, DTensor) else value).detach()
        for name, value in worker.engine.module.named_parameters()
    }
    mismatch = found["actor/mismatch_mean"]
    while isinstance(mismatch, list):
        mismatch = mismatch[0]
    return {
        "loss": float(found["loss"]),
        "grad_norm": float(found["grad_norm"]),
        "mismatch": float(getattr(mismatch, "values", [mismatch])[0]),
    }, weights
