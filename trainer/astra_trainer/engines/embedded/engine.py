"""verl's training engine in this process: no Ray, no vLLM, one device, the same losses and advantages as at scale.

One engine serves one stage: it starts from a model folder with a fresh optimizer and learning-rate schedule. Weights
are trained in float32; on a CUDA device the matrix products run in bfloat16.
"""

import contextlib
import io
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tensordict import TensorDict
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils
from verl.utils.metric import AggregationType, Metric
from verl.workers.config import (
    FSDPActorConfig,
    FSDPEngineConfig,
    FSDPOptimizerConfig,
    HFModelConfig,
    TrainingWorkerConfig,
)
from verl.workers.engine_workers import TrainingWorker
from verl.workers.utils.losses import ppo_loss, sft_loss
from verl.workers.utils.padding import no_padding_2_padding

from astra_api.records import Trajectory
from astra_trainer.batched_generation import BatchedGenerator
from astra_trainer.engines.embedded import DEVICE
from astra_trainer.engines.embedded.batch import (
    annotate,
    group_advantages,
    policy_batch,
    rows_per_micro_batch,
    supervised_batch,
)
from astra_trainer.models import load_policy

_LOG = logging.getLogger(__name__)
# A micro-batch is bounded by its logits (float32 values: 128 MiB, several times that with their gradients) and, on a
# CPU, by what still sits in its caches: 4,096 tokens of a 1M-parameter model are a fifth faster than 10,000.
_LOGITS_PER_MICRO_BATCH = 1 << 25
_TOKENS_PER_MICRO_BATCH = {"cpu": 4096, "cuda": 1 << 15}


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a stage: linear warm-up to `peak`, then constant, or a half cosine towards zero."""

    peak: float
    steps: int
    kind: Literal["constant", "cosine"] = "constant"
    warmup: float = 0.0  # share of the steps


class EmbeddedEngine:
    """Trains the model of `folder`, a step at a time, and samples from the weights as they are.

    `metrics` of a step are plain floats: `loss`, `grad_norm`, `learning_rate`, `tokens` (those with a loss), and for RL
    `clip_fraction` and `logprob_mismatch_{mean,max}`: absolute difference between the sampler's log-probabilities and
    the trainer's, before the update. A step raises ValueError when no trajectory has a generated token.
    """

    def __init__(
        self,
        folder: Path,
        schedule: Schedule,
        *,
        seed: int = 0,
        clip_ratio: float = 0.2,
        temperature: float = 1.0,
        token_budget: int | None = None,
    ) -> None:
        _seed_everything(seed)
        self.folder = folder
        self.temperature = temperature
        precision = "bf16" if DEVICE == "cuda" else "fp32"
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            self._worker = TrainingWorker(_worker_config(folder, schedule, precision))
            self._worker.reset()
        _LOG.debug(printed.getvalue())
        self._engine: Any = self._worker.engine
        self._actor = FSDPActorConfig(
            strategy="fsdp2",
            rollout_n=1,
            ppo_micro_batch_size_per_gpu=1,
            clip_ratio=clip_ratio,
            clip_ratio_low=clip_ratio,
            clip_ratio_high=clip_ratio,
            loss_agg_mode="token-mean",
            entropy_coeff=0.0,
            use_kl_loss=False,
        )
        config = self._worker.model_config.hf_config
        self.tokenizer = self._worker.model_config.tokenizer
        self._token_budget = token_budget or min(
            _TOKENS_PER_MICRO_BATCH[DEVICE], _LOGITS_PER_MICRO_BATCH // config.vocab_size
        )
        self._policy = load_policy(folder, DEVICE)

    def sft_step(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """One update on the mean negative log-likelihood of all tokens whose mask is 1."""
        chosen = sorted(filter(_trainable, trajectories), key=_length)
        _check_any(chosen)
        self._worker.set_loss_fn(partial(sft_loss, self._actor))
        return self._step(supervised_batch(chosen), chosen, temperature=1.0)

    def rl_step(self, trajectories: Sequence[Trajectory], groups: Sequence[int]) -> dict[str, float]:
        """One GRPO update; `groups[i]` says which rollouts share an environment, and so a baseline.

        A rollout without a generated token counts in its group's baseline; it has nothing to learn from.
        """
        advantages = group_advantages([t.reward.value for t in trajectories], groups)
        pairs = [pair for pair in zip(trajectories, advantages, strict=True) if _trainable(pair[0])]
        pairs.sort(key=lambda pair: _length(pair[0]))
        chosen = [trajectory for trajectory, _ in pairs]
        _check_any(chosen)
        self._worker.set_loss_fn(partial(_policy_loss, self._actor))
        batch = policy_batch(chosen, [advantage for _, advantage in pairs])
        return self._step(batch, chosen, temperature=self.temperature)

    def policy(self) -> PreTrainedModel:
        """The model to sample from, holding the current weights; call it again after a step."""
        trained = dict(self._engine.module.named_parameters())
        for name, parameter in self._policy.named_parameters():
            weights = _local(trained[name].detach())
            if weights.dtype == parameter.dtype:
                parameter.data = weights  # the very storage that the optimizer updates
            else:
                parameter.data.copy_(weights)
        return self._policy

    def generator(self, stop_ids: frozenset[int]) -> BatchedGenerator:
        """Samples from the current weights; make a new one after a step."""
        return BatchedGenerator(self.policy(), stop_ids)

    def save_snapshot(self, folder: Path) -> None:
        """Writes weights and tokenizer as a Hugging Face model folder, in the precision of the model's own folder."""
        self.policy().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def save_state(self, file: Path) -> None:
        """Writes all that the next step depends on: weights, optimizer, schedule, random state."""
        optimizer = self._engine.optimizer.state_dict()
        state = {
            "weights": {name: _local(p.detach()) for name, p in self._engine.module.named_parameters()},
            "moments": {
                index: {name: _local(value) for name, value in moments.items()}
                for index, moments in optimizer["state"].items()
            },
            "parameter_groups": optimizer["param_groups"],
            "schedule": {
                k: v for k, v in self._engine.lr_scheduler.state_dict().items() if isinstance(v, int | float | list)
            },
            "random": torch.get_rng_state(),
        }
        torch.save(state, file)

    def load_state(self, file: Path) -> None:
        """Restores what `save_state` wrote; the next step is then bitwise the one that would have followed."""
        state = torch.load(file, map_location=DEVICE, weights_only=True)
        parameters = dict(self._engine.module.named_parameters())
        with torch.no_grad():
            for name, weights in state["weights"].items():
                _local(parameters[name]).copy_(weights)
        ordered = [p for group in self._engine.optimizer.param_groups for p in group["params"]]
        moments = {
            index: {name: _like(value, ordered[index]) for name, value in values.items()}
            for index, values in state["moments"].items()
        }
        self._engine.optimizer.load_state_dict({"state": moments, "param_groups": state["parameter_groups"]})
        self._engine.lr_scheduler.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"].cpu())

    def _step(self, batch: TensorDict, trajectories: Sequence[Trajectory], temperature: float) -> dict[str, float]:
        lengths = [_length(trajectory) for trajectory in trajectories]
        annotate(
            batch,
            temperature=temperature,
            use_remove_padding=False,
            use_dynamic_bsz=False,
            micro_batch_size_per_gpu=rows_per_micro_batch(lengths, self._token_budget),
            pad_mode="no_padding",
            pad_token_id=self.tokenizer.pad_token_id or 0,
            calculate_entropy=False,
            compute_loss=True,
            global_batch_size=len(lengths),
            update_lr_scheduler=True,
        )
        rate = float(self._engine.lr_scheduler.get_last_lr()[0])
        tokens = float(batch["loss_mask"].values().sum())
        found: dict[str, Any] = tensordict_utils.get(self._worker.train_batch(batch), "metrics")
        metrics = {"loss": float(found["loss"]), "grad_norm": float(found["grad_norm"]), "tokens": tokens}
        metrics["learning_rate"] = rate
        for name, source in _POLICY_METRICS.items():
            if source in found:
                metrics[name] = float(Metric.aggregate_dp([_flat(found[source])]))
        return metrics


_POLICY_METRICS = {
    "clip_fraction": "actor/pg_clipfrac",
    "logprob_mismatch_mean": "mismatch/mean",
    "logprob_mismatch_max": "mismatch/max",
}


def _policy_loss(config: FSDPActorConfig, model_output: Any, data: TensorDict, dp_group: Any = None) -> Any:
    """verl's `ppo_loss`, and how far the sampler's log-probabilities were from the trainer's."""
    loss, metrics = ppo_loss(config, model_output, data, dp_group)
    with torch.no_grad():
        mask = data["response_mask"].to_padded_tensor(0).bool()
        sampled = data["old_log_probs"].to_padded_tensor(0.0)
        difference = (no_padding_2_padding(model_output["log_probs"].detach(), data) - sampled).abs()[mask]
        tokens = data["batch_num_tokens"]
        metrics["mismatch/mean"] = Metric(value=difference.sum() / tokens, aggregation=AggregationType.SUM)
        metrics["mismatch/max"] = Metric(value=difference.max(), aggregation=AggregationType.MAX)
    return loss, metrics


def _worker_config(folder: Path, schedule: Schedule, precision: str) -> TrainingWorkerConfig:
    return TrainingWorkerConfig(
        model_type="language_model",
        model_config=HFModelConfig(
            path=str(folder),
            use_remove_padding=False,
            enable_gradient_checkpointing=False,
            override_config={"attn_implementation": "sdpa"},
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            use_torch_compile=False,
            use_dynamic_bsz=False,
            micro_batch_size_per_gpu=1,
            infer_micro_batch_size_per_gpu=1,
            use_remove_padding=False,
            reshard_after_forward=False,  # one device holds every shard anyway
            model_dtype="fp32",
            mixed_precision={"param_dtype": precision, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
        ),
        optimizer_config=FSDPOptimizerConfig(
            lr=schedule.peak,
            total_training_steps=schedule.steps + 1,  # else the last step of a cosine has a learning rate of zero
            lr_scheduler_type=schedule.kind,
            lr_warmup_steps_ratio=schedule.warmup,
            zero_indexed_step=False,  # else the first step of a warm-up has a learning rate of zero
        ),
        checkpoint_config=CheckpointConfig(),
    )


def _trainable(trajectory: Trajectory) -> bool:
    """Whether a prompt and at least one generated token are there."""
    return 1 in trajectory.mask and not trajectory.mask[0]


def _length(trajectory: Trajectory) -> int:
    return len(trajectory.tokens)


def _check_any(trajectories: Sequence[Trajectory]) -> None:
    if not trajectories:
        raise ValueError("a training step needs at least one trajectory with a generated token")


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A moment of the optimizer, distributed as its parameter is; step counts are plain."""
    if isinstance(parameter, DTensor) and value.ndim:
        return DTensor.from_local(value, parameter.device_mesh, parameter.placements, run_check=False)
    return value


def _flat(values: Any) -> Any:
    while isinstance(values, list) and len(values) == 1:
        values = values[0]
    return values
