"""Weight-only snapshots of a training state: apart from it, and made while training goes on.

A state is verl's checkpoint: one file of weights and one of optimizer moments a rank. A snapshot is a Hugging Face
model folder. It is made by a process of its own (`python -m astra_trainer.engines.verl.snapshots STATE FOLDER`) from
hard links to the weights, so that the state may be removed meanwhile.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

FOLDER = "snapshots"  # in the spool; a snapshot has the number of its step, and is whole when it is there
_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")


class SnapshotFailed(RuntimeError):
    """No snapshot could be made of a state."""


@dataclass
class Exports:
    """Snapshots that are being made in `folder`."""

    folder: Path
    running: list[tuple[subprocess.Popen[bytes], Path]] = field(default_factory=list)

    def begin(self, state: Path, step: int) -> None:
        """Starts to make the snapshot of a step."""
        links = self.folder / f".state-{step}"
        link_weights(state, links)
        command = [sys.executable, "-m", __spec__.name, str(links), str(self.folder / str(step))]
        log = self.folder / f"{step}.log"
        with log.open("wb") as output:
            self.running.append((subprocess.Popen(command, stdout=output, stderr=output), log))

    def check(self) -> None:
        """Forgets what is done. Raises SnapshotFailed."""
        for process, log in self.running:
            if process.poll() not in (None, 0):
                raise SnapshotFailed(log.read_text(errors="replace").strip()[-2000:])
        self.running = [entry for entry in self.running if entry[0].poll() is None]

    def finish(self) -> None:
        """Waits for all. Raises SnapshotFailed."""
        for process, _ in self.running:
            process.wait()
        self.check()


def link_weights(state: Path, folder: Path) -> None:
    """A folder with the weights of a state, its config and tokenizer, that outlives the state."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in state.glob("model_world_size_*.pt"):
        os.link(file, folder / file.name)
    shutil.copytree(state / "huggingface", folder / "huggingface")


def export(links: Path, target: Path) -> None:
    """Makes a Hugging Face model folder of linked weights, in the precision of the config; then removes the links."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(str(links / "huggingface"))
    weights = whole_weights(sorted(links.glob("model_world_size_*.pt"), key=_rank), config.dtype or torch.float32)
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    with torch.device("meta"):
        model = cast(Any, AutoModelForCausalLM).from_config(config)
    building = target.with_name(f".{target.name}")
    shutil.rmtree(building, ignore_errors=True)
    model.save_pretrained(building, state_dict=weights)
    AutoTokenizer.from_pretrained(str(links / "huggingface")).save_pretrained(building)
    building.rename(target)
    shutil.rmtree(links)


def whole_weights(shards: Sequence[Path], dtype: Any) -> dict[str, Any]:
    """Parameters by name, put together from the files of all ranks, which this project's own trainer wrote.

    Raises SnapshotFailed when a rank is missing, or for a placement other than sharded or replicated.
    """
    import torch
    from torch.distributed.tensor import DTensor

    if not shards or [_rank(shard) for shard in shards] != list(range(_world(shards[0]))):
        raise SnapshotFailed(f"{[shard.name for shard in shards]} are not the weights of all ranks")
    loaded = [torch.load(shard, map_location="cpu", mmap=True, weights_only=False) for shard in shards]
    found: dict[str, Any] = {}
    for name, first in loaded[0].items():
        if not isinstance(first, DTensor):
            found[name] = first.to(dtype).clone()
            continue
        placement: Any = first.placements[-1]
        if first.device_mesh.ndim > 1 or not (placement.is_shard() or placement.is_replicate()):
            raise SnapshotFailed(f"{name}: placement {first.placements} cannot be put together")
        parts = [state[name]._local_tensor.to(dtype) for state in loaded]
        found[name] = torch.cat(parts, dim=placement.dim) if placement.is_shard() else parts[0].clone()
    return found


def _rank(file: Path) -> int:
    match = _SHARD.fullmatch(file.name)
    return int(match[2]) if match else -1


def _world(file: Path) -> int:
    match = _SHARD.fullmatch(file.name)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    os.nice(19)  # rollouts go on beside it
    export(Path(sys.argv[1]), Path(sys.argv[2]))
