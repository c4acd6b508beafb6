"""verl's clipped policy loss, and how far the sampler's log-probabilities were from the trainer's."""

from typing import Any

import torch
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla, register_policy_loss

NAME = "astra"


@register_policy_loss(NAME)  # type: ignore[untyped-decorator]
def policy_loss(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    **rest: Any,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """All (rows, tokens). `old_log_prob` is the sampler's own: the mismatch of inference and training shows here."""
    loss, metrics = compute_policy_loss_vanilla(
        old_log_prob=old_log_prob, log_prob=log_prob, advantages=advantages, response_mask=response_mask, **rest
    )
    with torch.no_grad():
        difference = (log_prob - old_log_prob).abs()[response_mask.bool()]
        if difference.numel():
            metrics["actor/mismatch_mean"] = difference.mean().item()
            metrics["actor/mismatch_max"] = difference.max().item()
    return loss, metrics
