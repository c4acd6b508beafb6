"""What verl is told: golden files of whole runs, and that verl's own configuration takes every word of them."""

import os
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from astra_api.errors import BadInput
from astra_api.manifests import load_manifests
from astra_api.training_run import TrainingRun
from astra_trainer.engines.verl.overrides import Places, Site, check, rl_overrides, serving_overrides, sft_overrides

ROOT = Path(__file__).parents[4]
GOLDEN = Path(__file__).parent / "golden"
CPU = Site("cpu", 0, environment={"ASTRA_VERL_JOB": "/out/state/spool-rl/job.json"})
CPU_CLUSTER = Site("cpu", 0, ray="head:6379")
ONE_NODE = Site("cuda", 8)
CLUSTER = Site("cuda", 8, ray="head:6379", environment={"ASTRA_VERL_JOB": "/out/state/spool-rl/job.json"})
PLACES = Places(Path("/model"), Path("/out/state/verl-rl"), None, Path("/out/demonstrations.jsonl"), 2048, 8)
SITES = {"verl-cpu": CPU, "train-qwen3-14b": ONE_NODE, "train-qwen3-32b": CLUSTER}


def example(name: str) -> TrainingRun:
    run = load_manifests([ROOT / "examples" / f"{name}.yaml"])[0].resource
    assert isinstance(run, TrainingRun)
    return run


def run(**changes: Any) -> TrainingRun:
    spec: dict[str, Any] = {"model": {"path": "/model"}, "engine": "verl", "rl": {}, "verl": {"tokensPerGpu": 80000}}
    return TrainingRun.model_validate({"metadata": {"name": "a"}, "spec": spec | changes})


@pytest.mark.parametrize("name", SITES)
def test_the_examples_read_as_they_were_approved(name: str) -> None:
    """Set ASTRA_APPROVE=1 to write the files anew; read the difference before you commit it."""
    manifest, site = example(name), SITES[name]
    parts = {
        "sft": sft_overrides(manifest, site, PLACES),
        "rl": rl_overrides(manifest, site, PLACES),
        "serving": serving_overrides(manifest, site, PLACES),
    }
    text = "".join(f"# {part}\n" + "".join(f"{line}\n" for line in lines) for part, lines in parts.items())
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("ASTRA_APPROVE"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
    check(manifest, site)


DIVISIONS: list[dict[str, Any]] = [
    {},
    {"maxStaleness": 2},
    {"rollout": "separate", "maxStaleness": 3, "rolloutGpus": 8, "tensorParallel": 4},
    {"sequenceParallel": 4, "offload": True, "packing": False},
]


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("site", [CPU, ONE_NODE, CLUSTER], ids=["cpu", "node", "cluster"])
def test_verl_knows_every_setting(division: dict[str, Any], site: Site) -> None:
    manifest = run(
        verl={"tokensPerGpu": 80000, **division},
        trainer={"nodes": 4, "gpusPerNode": 8},
        sft={"dataset": {"type": "gold"}},
    )
    with initialize_config_module("verl.trainer.config", version_base=None):
        rl = compose("ppo_trainer", rl_overrides(manifest, site, PLACES))
        sft = compose("sft_trainer_engine", sft_overrides(manifest, site, PLACES))
        compose("ppo_trainer", serving_overrides(manifest, site, PLACES))
    OmegaConf.resolve(rl)
    actor, rollout, trainer = rl.actor_rollout_ref.actor, rl.actor_rollout_ref.rollout, rl.trainer
    assert rl.data.train_batch_size == 256 // 8
    assert actor.ppo_mini_batch_size == rl.data.train_batch_size, "on-policy: one update a batch"
    assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.use_kl_loss, actor.entropy_coeff) == (0.2, 0.2, False, 0)
    assert (rollout.n, rollout.temperature, actor.loss_agg_mode) == (8, 1.0, "token-mean")
    assert rl.algorithm.rollout_correction.bypass_mode is True
    assert trainer.total_training_steps == 140
    modes = {"colocated": "colocate_async" if division.get("maxStaleness") else "sync", "separate": "separate_async"}
    assert trainer.v1.trainer_mode == modes[division.get("rollout", "colocated")]
    assert trainer.v1.sampler.max_off_policy_threshold == division.get("maxStaleness", 0) + 1
    separate = division.get("rolloutGpus", 0)
    assert trainer.nnodes * trainer.n_gpus_per_node + separate == 32
    if separate:  # what verl's trainer of this mode asks before it starts
        assert rollout.nnodes * rollout.n_gpus_per_node == separate
        assert rollout.checkpoint_engine.backend == "nccl"
        assert rl.data.train_batch_size == trainer.v1.separate_async.parameter_sync_step * actor.ppo_mini_batch_size
    else:
        assert rollout.checkpoint_engine.backend == "naive"
    assert sft.data.train_batch_size == 32
    assert sft.trainer.total_epochs == 1


@pytest.mark.parametrize(
    ("changes", "site", "field"),
    [
        ({"trainer": {"gpusPerNode": 8}}, CPU, "spec.trainer.gpusPerNode"),
        ({"trainer": {"nodes": 2}}, CPU, "spec.trainer.nodes: more than one needs a Ray cluster"),
        ({"trainer": {"nodes": 2}}, CPU_CLUSTER, ""),
        (
            {"trainer": {"nodes": 2}, "rl": {"batchSize": 9, "groupSize": 3}},
            CPU_CLUSTER,
            "spec.rl.batchSize: 9 must be",
        ),
        ({"trainer": {"gpusPerNode": 16}}, ONE_NODE, "spec.trainer.gpusPerNode: 16 GPUs are asked; there are 8 here"),
        ({}, Site("cuda", 0, ray="head:6379"), "spec.trainer.gpusPerNode: required on a Ray cluster"),
        ({"trainer": {"nodes": 2, "gpusPerNode": 8}}, ONE_NODE, "spec.trainer.nodes"),
        ({"verl": {}}, ONE_NODE, "spec.rl.maxPromptTokens"),
        ({"sft": {"dataset": {"type": "gold"}, "maxLength": 90000}}, ONE_NODE, "spec.sft.maxLength"),
        ({"sft": {"dataset": {"type": "gold"}, "batchSize": 12}}, ONE_NODE, "spec.sft.batchSize"),
        ({"rl": {"batchSize": 12, "groupSize": 4}}, ONE_NODE, "spec.rl.batchSize"),
        ({"checkpoint": {"snapshotEvery": 10, "stateEvery": 4}}, ONE_NODE, "spec.checkpoint.snapshotEvery"),
        (
            {"trainer": {"gpusPerNode": 0}, "verl": {"tokensPerGpu": 80000, "maxStaleness": 1}},
            CPU,
            "",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_field(changes: dict[str, Any], site: Site, field: str) -> None:
    manifest = run(**changes)
    if not field:
        check(manifest, site)
        return
    with pytest.raises(BadInput, match=field):
        check(manifest, site)


def test_values_reach_verl_unharmed() -> None:
    """Paths and names with what a shell, Hydra or YAML would read."""
    odd = "/a b/it's=\\x,\\'{y}$z/${oc.env:HOME}"
    lines = rl_overrides(run(), CPU, Places(Path(odd), Path(odd), Path(f"{odd}/global_step_3"), None, 99))
    with initialize_config_module("verl.trainer.config", version_base=None):
        found = compose("ppo_trainer", lines)
    assert found.actor_rollout_ref.model.path == odd
    assert found.trainer.resume_from_path == f"{odd}/global_step_3"
    assert found.trainer.resume_mode == "resume_path"
    assert found.trainer.v1.sampler.sampler_kwargs.state == found.trainer.resume_from_path
