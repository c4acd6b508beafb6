"""Training: SFT, rollouts, rewards, mixing, batch filling, GRPO, evaluation, and the engines that update weights."""
