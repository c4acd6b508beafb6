"""Training: SFT, rollouts, rewards, mixing, batch filling, GRPO, evaluation, and the engines that update weights."""

import os

# Torch's worker threads sleep while they wait for work. By default they spin, and on a machine where sandboxes want the
# same cores each spinning thread holds up the one that it waits for: steps then take several times as long. OpenMP
# reads this once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
