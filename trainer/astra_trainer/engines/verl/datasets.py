"""The data sets that verl reads: draws of environments for RL, demonstrations token by token for SFT."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, DistributedSampler

from astra_trainer.engines.verl.job import floor
from astra_trainer.supervision import epoch_order
from astra_trainer.trajectory_lines import read_lines


class EnvironmentDraws(Dataset[dict[str, Any]]):
    """Row i is the i-th draw of the run: a function of (seed, i). verl reads the rows in order, and never to the end.

    A row names its draw; the agent loop makes the prompt, whose irrelevant tools depend on the step.
    """

    def __init__(self, **_: Any) -> None:
        rl = floor().rl
        self._length = rl.steps * (rl.batch_size // rl.group_size) * (rl.batch_filling.max_rounds + 1)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> dict[str, Any]:
        question = floor().environment(number).spec.question
        return {
            "raw_prompt": [{"role": "user", "content": question}],
            "agent_name": "astra",
            "data_source": "astra",
            "reward_model": {"ground_truth": ""},
            "index": number,
            "number": number,
        }


class Demonstrations(Dataset[dict[str, torch.Tensor]]):
    """Expert trajectories of all epochs, in the order in which they are trained on, as tokens with their loss mask.

    verl renders and masks nothing itself, and sees one long epoch: it loses its place when it resumes between two. It
    also shuffles, always alike: rows are placed so that what it makes of them is `sequence`.
    """

    def __init__(self, parquet_files: str, **_: Any) -> None:
        run = floor().run
        assert run.spec.sft is not None
        self._data = read_lines(Path(str(parquet_files)))
        order = sequence(len(self._data), run.spec.sft.batch_size, run.spec.sft.epochs, run.spec.seed)
        places: Any = range(len(order))
        shuffled: list[int] = list(DistributedSampler(places, num_replicas=1, rank=0, shuffle=True))
        self._row = dict(zip(shuffled, order, strict=True))

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        trajectory = self._data[self._row[number]]
        return {
            "input_ids": torch.tensor(trajectory.tokens),
            "position_ids": torch.arange(len(trajectory.tokens)),
            "loss_mask": torch.tensor(trajectory.mask),
        }


def sequence(count: int, batch_size: int, epochs: int, seed: int) -> list[int]:
    """Numbers of demonstrations, a batch after the other: of each epoch its whole batches, in `epoch_order`."""
    whole = count - count % batch_size
    return [number for epoch in range(epochs) for number in epoch_order(count, seed, epoch)[:whole]]
