"""Trajectories as the batches that verl's engine takes: nested tensors, one row a trajectory, no padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.utils import tensordict_utils

from astra_api.records import Trajectory


def supervised_batch(trajectories: Sequence[Trajectory]) -> TensorDict:
    """The fields of verl's `sft_loss`: loss on exactly the tokens whose mask is 1."""
    return TensorDict(
        {**_sequences(trajectories), "loss_mask": _nested([t.mask for t in trajectories])},
        batch_size=len(trajectories),
    )


def policy_batch(trajectories: Sequence[Trajectory], advantages: Sequence[float]) -> TensorDict:
    """The fields of verl's `ppo_loss`; a trajectory's advantage stands at each of its generated tokens.

    A trajectory is split where its first generated token stands: what comes before is the prompt, all after it the
    response, whose mask leaves out tool responses. The old log-probabilities are the sampler's: a group that batch
    filling carried over is then weighted by the policy that really sampled it.
    """
    starts = [t.mask.index(1) for t in trajectories]
    masks = [t.mask[start:] for t, start in zip(trajectories, starts, strict=True)]
    return TensorDict(
        {
            **_sequences(trajectories),
            "prompts": _nested([t.tokens[:start] for t, start in zip(trajectories, starts, strict=True)]),
            "responses": _nested([t.tokens[start:] for t, start in zip(trajectories, starts, strict=True)]),
            "response_mask": _nested(masks),
            "loss_mask": _nested(masks),
            "old_log_probs": _nested(
                [t.logprobs[start:] for t, start in zip(trajectories, starts, strict=True)], torch.float32
            ),
            "advantages": torch.nested.as_nested_tensor(
                [torch.tensor(mask) * advantage for mask, advantage in zip(masks, advantages, strict=True)],
                layout=torch.jagged,
            ),
        },
        batch_size=len(trajectories),
    )


def group_advantages(rewards: Sequence[float], groups: Sequence[int]) -> list[float]:
    """verl's GRPO advantage of each rollout: (reward - mean of its group) / (std of its group + 1e-6)."""
    scores = torch.tensor(rewards, dtype=torch.float32).unsqueeze(-1)
    advantages, _ = compute_grpo_outcome_advantage(scores, torch.ones_like(scores), np.array(groups, dtype=object))
    return [float(value) for value in advantages.squeeze(-1)]


def annotate(batch: TensorDict, **settings: Any) -> None:
    """Attaches what the engine reads next to the tensors."""
    tensordict_utils.assign_non_tensor(batch, **settings)


def rows_per_micro_batch(lengths: Sequence[int], token_budget: int) -> int:
    """How many rows go through the model at once: the largest divisor of the batch that keeps padded rows in budget."""
    most = max(1, token_budget // max(lengths))
    return max(rows for rows in range(1, len(lengths) + 1) if len(lengths) % rows == 0 and rows <= most)


def _sequences(trajectories: Sequence[Trajectory]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": _nested([t.tokens for t in trajectories]),
        "position_ids": _nested([range(len(t.tokens)) for t in trajectories]),
    }


def _nested(rows: Sequence[Sequence[float]], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row, dtype=dtype) for row in rows], layout=torch.jagged)
