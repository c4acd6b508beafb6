"""verl's engine against hand-written references: the losses, what they look at, and what a saved state restores."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from astra_api.records import Trajectory
from astra_trainer.engines.embedded.engine import EmbeddedEngine, Schedule
from astra_trainer.models import load_policy, load_tokenizer

MakeTrajectory = Callable[..., Trajectory]
RATE = 1e-3


def token_logprobs(model: Any, trajectory: Trajectory) -> torch.Tensor:
    """Log-probability of each token but the first, given those before it; (tokens - 1,)."""
    tokens = torch.tensor([trajectory.tokens])
    logits = model(input_ids=tokens).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(-1, tokens[0, 1:, None])[:, 0]


def sampled(model: Any, trajectory: Trajectory) -> Trajectory:
    """The trajectory as if the model itself had sampled it."""
    with torch.no_grad():
        logprobs = [0.0, *token_logprobs(model, trajectory).tolist()]
    masked = tuple(p * m for p, m in zip(logprobs, trajectory.mask, strict=True))
    return trajectory.model_copy(update={"logprobs": masked})


def reference_step(
    folder: Path, loss_of: Callable[[Any], torch.Tensor]
) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Loss, gradient norm and new weights of one AdamW step with clipping at 1, in plain torch."""
    model = load_policy(folder, "cpu").requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    loss = loss_of(model)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item(), norm.item(), {name: p.detach() for name, p in model.named_parameters()}


def assert_same_weights(engine: EmbeddedEngine, expected: dict[str, torch.Tensor]) -> None:
    for name, weights in engine.policy().named_parameters():
        # Adam's first step is about +-RATE whatever the gradient: a gradient of rounding noise may differ in sign
        assert (weights - expected[name]).abs().mean() < 0.01 * RATE, name


def test_sft_step_is_the_masked_mean_of_a_plain_torch_step(model_folder: Path, make_trajectory: MakeTrajectory) -> None:
    batch = [make_trajectory(i, lengths=(12 + i, 6, 5, 4 + 3 * i)) for i in range(6)]

    def loss_of(model: Any) -> torch.Tensor:
        terms = [token_logprobs(model, t) * torch.tensor(t.mask[1:]) for t in batch]
        return -sum(term.sum() for term in terms) / sum(sum(t.mask) for t in batch)

    loss, norm, weights = reference_step(model_folder, loss_of)
    engine = EmbeddedEngine(model_folder, Schedule(RATE, 10), token_budget=64)
    metrics = engine.sft_step(batch)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics["tokens"] == sum(sum(t.mask) for t in batch)
    assert metrics["learning_rate"] == RATE
    assert_same_weights(engine, weights)


def test_rl_step_is_the_clipped_token_mean_of_a_plain_torch_step(
    model_folder: Path, make_trajectory: MakeTrajectory
) -> None:
    rewards, groups = [1.0, 0.0, 0.5, 0.25, 1.0, 1.0], [0, 0, 0, 1, 1, 1]
    policy = load_policy(model_folder, "cpu")
    batch = [sampled(policy, make_trajectory(i, reward, (9 + i, 5, 4, 2 * i + 2))) for i, reward in enumerate(rewards)]
    # two were sampled by an older policy: far enough for their ratios to be clipped
    shifted = [tuple(p - 0.5 * m for p, m in zip(t.logprobs, t.mask, strict=True)) for t in batch[:2]]
    batch[:2] = [t.model_copy(update={"logprobs": s}) for t, s in zip(batch[:2], shifted, strict=True)]
    scores = torch.tensor(rewards).view(2, 3)
    advantages = ((scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True) + 1e-6)).flatten()

    def loss_of(model: Any) -> torch.Tensor:
        total = torch.tensor(0.0)
        for trajectory, advantage in zip(batch, advantages, strict=True):
            ratio = (token_logprobs(model, trajectory) - torch.tensor(trajectory.logprobs[1:])).exp()
            gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            total = total - (gain * torch.tensor(trajectory.mask[1:])).sum()
        return total / sum(sum(t.mask) for t in batch)

    loss, norm, weights = reference_step(model_folder, loss_of)
    engine = EmbeddedEngine(model_folder, Schedule(RATE, 10), clip_ratio=0.2, token_budget=80)
    metrics = engine.rl_step(batch, groups)
    assert metrics["loss"] == pytest.approx(loss, abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics["logprob_mismatch_max"] == pytest.approx(0.5, abs=1e-4)
    assert metrics["clip_fraction"] > 0
    assert_same_weights(engine, weights)


def test_the_sampler_and_the_trainer_agree_on_log_probabilities(
    model_folder: Path, make_trajectory: MakeTrajectory
) -> None:
    policy = load_policy(model_folder, "cpu")
    batch = [sampled(policy, make_trajectory(i, float(i % 2))) for i in range(4)]
    metrics = EmbeddedEngine(model_folder, Schedule(RATE, 10)).rl_step(batch, [0, 0, 1, 1])
    assert metrics["logprob_mismatch_max"] < 1e-4
    assert metrics["clip_fraction"] == 0.0


def test_only_masked_tokens_are_learned(model_folder: Path, make_trajectory: MakeTrajectory) -> None:
    trajectory = make_trajectory(3)
    last = len(trajectory.tokens) - 1
    unmasked = trajectory.model_copy(update={"mask": (*trajectory.mask[:last], 0)})
    other = unmasked.model_copy(update={"tokens": (*trajectory.tokens[:last], trajectory.tokens[last] ^ 1)})
    engines = [EmbeddedEngine(model_folder, Schedule(RATE, 10)) for _ in range(2)]
    losses = [engine.sft_step([t])["loss"] for engine, t in zip(engines, (unmasked, other), strict=True)]
    assert losses[0] == losses[1]  # the last token is not a target, and nothing comes after it
    assert losses[0] != EmbeddedEngine(model_folder, Schedule(RATE, 10)).sft_step([trajectory])["loss"]


def test_sft_learns_a_batch(model_folder: Path, make_trajectory: MakeTrajectory) -> None:
    engine = EmbeddedEngine(model_folder, Schedule(1e-2, 30, "cosine", 0.05))
    batch = [make_trajectory(i) for i in range(4)]
    steps = [engine.sft_step(batch) for _ in range(30)]
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    rates = [step["learning_rate"] for step in steps]
    assert max(rates) == pytest.approx(1e-2)
    assert rates[0] > rates[-1] > 0.0
    assert rates[-1] < 1e-4


def test_rl_makes_rewarded_tokens_likelier(model_folder: Path, make_trajectory: MakeTrajectory) -> None:
    engine = EmbeddedEngine(model_folder, Schedule(1e-3, 5))
    good, bad = (sampled(engine.policy(), make_trajectory(i, reward)) for i, reward in ((1, 1.0), (2, 0.0)))
    engine.rl_step([good, bad], [0, 0])
    change = [
        sum(after.logprobs) - sum(before.logprobs)
        for before, after in ((t, sampled(engine.policy(), t)) for t in (good, bad))
    ]
    assert change[0] > 0 > change[1]


def test_a_rollout_without_a_token_counts_in_the_baseline_only(
    model_folder: Path, make_trajectory: MakeTrajectory
) -> None:
    empty = make_trajectory(9, 0.0, (12, 0, 0, 0))
    good = make_trajectory(1, 1.0)
    engine = EmbeddedEngine(model_folder, Schedule(RATE, 5))
    metrics = engine.rl_step([sampled(engine.policy(), good), empty], [0, 0])
    assert metrics["grad_norm"] > 0
    with pytest.raises(ValueError, match="at least one trajectory"):
        engine.rl_step([empty, empty], [0, 0])


@pytest.mark.parametrize("budget", [1, 70, 10_000])
def test_micro_batches_do_not_change_the_step(model_folder: Path, make_trajectory: MakeTrajectory, budget: int) -> None:
    batch = [make_trajectory(i, lengths=(10 + i, 6, 5, 4)) for i in range(6)]
    whole = EmbeddedEngine(model_folder, Schedule(RATE, 10), token_budget=10_000).sft_step(batch)
    parts = EmbeddedEngine(model_folder, Schedule(RATE, 10), token_budget=budget).sft_step(batch)
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)


def steps(engine: EmbeddedEngine, batches: Sequence[Sequence[Trajectory]]) -> list[dict[str, float]]:
    return [engine.sft_step(batch) for batch in batches]


def test_a_restored_state_gives_the_very_same_next_steps(
    tmp_path: Path, model_folder: Path, make_trajectory: MakeTrajectory
) -> None:
    batches = [[make_trajectory(10 * n + i) for i in range(4)] for n in range(4)]
    schedule = Schedule(RATE, 8, "cosine", 0.25)
    undisturbed = EmbeddedEngine(model_folder, schedule)
    steps(undisturbed, batches[:2])
    undisturbed.save_state(tmp_path / "state.pt")
    expected = steps(undisturbed, batches[2:])
    resumed = EmbeddedEngine(model_folder, schedule, seed=99)
    resumed.load_state(tmp_path / "state.pt")
    assert steps(resumed, batches[2:]) == expected
    weights = dict(undisturbed.policy().named_parameters())
    for name, parameter in resumed.policy().named_parameters():
        assert torch.equal(parameter, weights[name]), name


def test_a_snapshot_is_a_plain_hugging_face_folder(
    tmp_path: Path, model_folder: Path, make_trajectory: MakeTrajectory
) -> None:
    engine = EmbeddedEngine(model_folder, Schedule(RATE, 5))
    engine.sft_step([make_trajectory(1)])
    engine.save_snapshot(tmp_path / "snapshot")
    loaded = load_policy(tmp_path / "snapshot", "cpu")
    assert loaded.config.model_type == "qwen3"
    for name, parameter in engine.policy().named_parameters():
        assert torch.equal(parameter, dict(loaded.named_parameters())[name])
    tokenizer = load_tokenizer(tmp_path / "snapshot")
    assert tokenizer.get_vocab() == engine.tokenizer.get_vocab()
    assert tokenizer.chat_template == load_tokenizer(model_folder).chat_template
