"""A model folder made of the weights that ranks keep."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from transformers import AutoModelForCausalLM, AutoTokenizer

from astra_trainer.engines.embedded.platform import activate
from astra_trainer.engines.verl.snapshots import Exports, SnapshotFailed, whole_weights


@pytest.fixture(scope="module")
def mesh() -> DeviceMesh:
    activate()
    return init_device_mesh("cpu", (1,))


def sharded(tensor: torch.Tensor, mesh: DeviceMesh, placement: Any) -> DTensor:
    return DTensor.from_local(tensor, mesh, [placement], run_check=False)


def test_shards_are_put_together_and_replicas_taken_once(tmp_path: Path, mesh: DeviceMesh) -> None:
    whole = {"rows": torch.randn(7, 3), "columns": torch.randn(4, 5), "same": torch.randn(6), "plain": torch.randn(2)}
    for rank, rows in enumerate((slice(0, 4), slice(4, 7))):  # the last rank has fewer
        columns = slice(0, 3) if rank == 0 else slice(3, 5)
        state = {
            "rows": sharded(whole["rows"][rows].clone(), mesh, Shard(0)),
            "columns": sharded(whole["columns"][:, columns].clone(), mesh, Shard(1)),
            "same": sharded(whole["same"], mesh, Replicate()),
            "plain": whole["plain"],
        }
        torch.save(state, tmp_path / f"model_world_size_2_rank_{rank}.pt")
    files = sorted(tmp_path.glob("*.pt"))
    found = whole_weights(files, torch.float32)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert whole_weights(files, torch.bfloat16)["rows"].dtype == torch.bfloat16
    with pytest.raises(SnapshotFailed, match="not the weights of all ranks"):
        whole_weights(files[1:], torch.float32)
    with pytest.raises(SnapshotFailed, match="not the weights of all ranks"):
        whole_weights([], torch.float32)


@pytest.fixture
def state(tmp_path: Path, model_folder: Path, mesh: DeviceMesh) -> Path:
    """A training state of the tiny model, as verl writes one."""
    folder = tmp_path / "global_step_3"
    (folder / "huggingface").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_folder / name, folder / "huggingface" / name)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    weights = {name: sharded(value, mesh, Shard(0)) for name, value in model.state_dict().items()}
    torch.save(weights, folder / "model_world_size_1_rank_0.pt")
    return folder


def test_a_snapshot_is_made_beside_training_and_outlives_the_state(
    state: Path, tmp_path: Path, model_folder: Path
) -> None:
    exports = Exports(tmp_path / "snapshots")
    exports.begin(state, 3)
    shutil.rmtree(state)
    exports.finish()
    made = tmp_path / "snapshots" / "3"
    before, after = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (model_folder, made))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((made / "config.json").read_text())["dtype"] == "float32"
    assert AutoTokenizer.from_pretrained(made).chat_template
    assert [child.name for child in (tmp_path / "snapshots").iterdir() if child.is_dir()] == ["3"], "no links are left"


def test_a_failed_export_is_told(state: Path, tmp_path: Path) -> None:
    (state / "model_world_size_1_rank_0.pt").rename(state / "model_world_size_2_rank_0.pt")
    exports = Exports(tmp_path / "snapshots")
    exports.begin(state, 3)
    with pytest.raises(SnapshotFailed, match="not the weights of all ranks"):
        exports.finish()
    assert not (tmp_path / "snapshots" / "3").exists()
