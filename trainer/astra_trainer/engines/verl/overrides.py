"""A TrainingRun as verl's configuration: pure functions from a run and its places to Hydra overrides.

verl's defaults stand where nothing is said here. What it cannot do is refused by `check` before anything starts.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astra_api.errors import BadInput
from astra_api.training_run import Sft, TrainingRun, TrainingRunSpec, Verl
from astra_trainer.workplace import rollout_settings

_SAMPLERS = "pkg://astra_trainer.engines.verl.group_sampler"
_DATASETS = "pkg://astra_trainer.engines.verl.datasets"
_SNAPSHOTS = "astra_trainer.engines.verl.checkpoint_callback.SnapshotCallback"
WARMUP = 0.05  # of SFT, share of the steps (METHOD section 3)


@dataclass(frozen=True)
class Site:
    """Where a stage runs. `ray`: the address of a cluster that is there already; None starts one here."""

    device: str  # cuda | cpu, which Ray and verl are told is one GPU of each node
    gpus: int  # of this node, where the run itself does not say
    ray: str | None = None
    environment: Mapping[str, str] | None = None  # of all workers


@dataclass(frozen=True)
class Places:
    """Folders and files of one attempt at a stage."""

    model: Path  # what the stage starts from
    states: Path  # verl's checkpoints: global_step_N
    resume: Path | None  # the state that the attempt goes on from
    demonstrations: Path | None = None  # SFT's data
    room: int = 0  # tokens of one sequence that a rollout server holds
    agents: int = 1  # processes that drive rollouts


def check(run: TrainingRun, site: Site) -> None:
    """Raises BadInput, naming the field, for what verl cannot do, or not here."""
    spec, verl = run.spec, division(run.spec)
    gpus = spec.trainer.nodes * (spec.trainer.gpus_per_node or max(1, site.gpus))
    if site.device == "cpu":
        if spec.trainer.gpus_per_node:
            raise BadInput(f"spec.trainer.gpusPerNode: {spec.trainer.gpus_per_node} GPUs are asked; there is none here")
        if verl.rollout == "separate" or verl.tensor_parallel > 1 or verl.sequence_parallel > 1:
            raise BadInput("spec.verl: without GPUs only rollout: colocated, tensorParallel: 1, sequenceParallel: 1")
    elif site.ray is None and spec.trainer.gpus_per_node > site.gpus:
        raise BadInput(
            f"spec.trainer.gpusPerNode: {spec.trainer.gpus_per_node} GPUs are asked; there are {site.gpus} here"
        )
    elif not spec.trainer.gpus_per_node and not site.gpus:
        raise BadInput(
            "spec.trainer.gpusPerNode: required on a Ray cluster; say how many GPUs of each node the run takes"
        )
    if spec.trainer.nodes > 1 and site.ray is None:
        raise BadInput("spec.trainer.nodes: more than one needs a Ray cluster (RAY_ADDRESS); the operator makes one")
    if spec.checkpoint.snapshot_every % spec.checkpoint.state_every:
        raise BadInput(
            "spec.checkpoint.snapshotEvery: must be a multiple of stateEvery; engine verl snapshots its states"
        )
    if (rl := spec.rl) is not None:
        longest = rl.max_prompt_tokens + rl.max_response_tokens
        _fits(longest, "spec.rl.maxPromptTokens + maxResponseTokens", verl)
        training = max(1, gpus - (verl.rollout_gpus or 0)) // verl.sequence_parallel
        if rl.batch_size % training:
            raise BadInput(f"spec.rl.batchSize: {rl.batch_size} must be a multiple of the {training} training groups")
    if (sft := spec.sft) is not None:
        _fits(sft.max_length, "spec.sft.maxLength", verl)
        ranks = gpus // verl.sequence_parallel
        if sft.batch_size % ranks:
            raise BadInput(f"spec.sft.batchSize: {sft.batch_size} must be a multiple of the {ranks} training groups")


def _fits(tokens: int, field: str, verl: Verl) -> None:
    room = verl.tokens_per_gpu * verl.sequence_parallel
    if tokens > room:
        raise BadInput(
            f"{field}: a sequence of {tokens} tokens does not fit verl.tokensPerGpu x sequenceParallel = {room}; "
            "raise one of those"
        )


def division(spec: TrainingRunSpec) -> Verl:
    """`spec.verl`, or its defaults."""
    return spec.verl or Verl()


def rl_overrides(run: TrainingRun, site: Site, places: Places) -> list[str]:
    """Of `verl.trainer.main_ppo`, for the whole RL stage."""
    spec, verl = run.spec, division(run.spec)
    rl = spec.rl
    assert rl is not None
    groups = rl.batch_size // rl.group_size
    mode = _mode(verl)
    settings: dict[str, Any] = {
        "algorithm": {
            "adv_estimator": "grpo",
            "use_kl_in_reward": False,
            "norm_adv_by_std_in_grpo": True,
            # the ratio is to the sampler's own log-probabilities: a group that was carried over is weighted by the
            # policy that sampled it, and clipping bounds how far the policy has moved since
            "rollout_correction": {"bypass_mode": True},
        },
        "data": {
            "train_files": "draws",
            "val_files": "draws",
            "custom_cls": {"path": _DATASETS, "name": "EnvironmentDraws"},
            "train_batch_size": groups,
            "gen_batch_size": 1,
            "val_batch_size": 1,
            "max_prompt_length": rl.max_prompt_tokens,
            "max_response_length": rl.max_response_tokens,
            "shuffle": False,  # the draws are in order already
            "dataloader_num_workers": 0,
        },
        "actor_rollout_ref": {
            "hybrid_engine": verl.rollout == "colocated",
            "model": _model(verl, site, places),
            "actor": {
                "strategy": "fsdp2",
                "rollout_n": rl.group_size,
                "ppo_mini_batch_size": groups,
                "ppo_epochs": 1,
                "use_dynamic_bsz": True,
                "ppo_max_token_len_per_gpu": verl.tokens_per_gpu,
                "ulysses_sequence_parallel_size": verl.sequence_parallel,
                "clip_ratio": rl.clip_ratio,
                "clip_ratio_low": rl.clip_ratio,
                "clip_ratio_high": rl.clip_ratio,
                "loss_agg_mode": "token-mean",
                "policy_loss": {"loss_mode": "astra"},
                "entropy_coeff": 0.0,
                "use_kl_loss": False,
                "use_torch_compile": False,
                "optim": _optimizer(rl.learning_rate, rl.schedule, rl.warmup),
                "fsdp_config": _fsdp(verl, site) | {"ulysses_sequence_parallel_size": verl.sequence_parallel},
                "checkpoint": {"save_contents": ["model", "optimizer", "extra"]},
            },
            "rollout": {
                **_rollout(run, site, places),
                "n": rl.group_size,
                "temperature": rl.temperature,
                "calculate_log_probs": True,
                "agent": {"num_workers": places.agents, "default_agent_loop": "astra"},
                **_rollout_gpus(spec, verl),
            },
        },
        "reward": {"num_workers": 1},
        "trainer": {
            **_trainer(run, places),
            "checkpoint_callback_class": _SNAPSHOTS,
            "nnodes": _training_nodes(spec, verl),
            "n_gpus_per_node": _training_gpus_per_node(spec, verl, site),
            "device": site.device,
            "total_training_steps": rl.steps,
            "total_epochs": rl.steps,  # the draws never end before the steps do
            "val_before_train": False,
            "use_v1": True,
            "v1": {
                "trainer_mode": mode,
                "sampler": {
                    "sync_refill_failed_groups": True,
                    "max_off_policy_threshold": verl.max_staleness + 1,  # verl counts the versions that a rollout spans
                    "max_off_policy_strategy": "drop",
                    "custom_sampler": {
                        "path": _SAMPLERS,
                        "name": "GroupSampler" if mode == "sync" else "AsyncGroupSampler",
                    },
                    **({} if places.resume is None else {"sampler_kwargs": {"+state": str(places.resume)}}),
                },
                **({mode: {"num_warmup_batches": min(1, verl.max_staleness)}} if mode != "sync" else {}),
            },
        },
        **_ray(site),
        **_hydra(places),
    }
    if mode == "separate_async":
        settings["trainer"]["v1"][mode]["parameter_sync_step"] = 1
    return _flat(settings)


def sft_overrides(run: TrainingRun, site: Site, places: Places) -> list[str]:
    """Of `verl.trainer.sft_trainer`, for the whole SFT stage."""
    spec, verl = run.spec, division(run.spec)
    sft = _sft(run)
    return _flat(
        {
            "data": {
                "train_files": str(places.demonstrations),
                "custom_cls": {"path": _DATASETS, "name": "Demonstrations"},
                "train_batch_size": sft.batch_size,
                "max_length": sft.max_length,
                "use_dynamic_bsz": True,
                "max_token_len_per_gpu": verl.tokens_per_gpu,
                "pad_mode": "no_padding",
                "num_workers": 0,
            },
            "model": _model(verl, site, places),
            "engine": {
                "strategy": "fsdp2",
                "ulysses_sequence_parallel_size": verl.sequence_parallel,
                **_fsdp(verl, site),
            },
            "optim": _optimizer(sft.learning_rate, "cosine", WARMUP),
            "checkpoint": {"save_contents": ["model", "optimizer", "extra"]},
            "trainer": {
                **_trainer(run, places),
                "nnodes": spec.trainer.nodes,
                "n_gpus_per_node": spec.trainer.gpus_per_node or max(1, site.gpus),
                "device": site.device,
                "seed": spec.seed,
                "total_epochs": 1,  # the data set holds them all
            },
            **_hydra(places),
        }
    )


def serving_overrides(run: TrainingRun, site: Site, places: Places) -> list[str]:
    """Of verl's rollout servers alone, on all GPUs of the run, over the weights of `places.model`."""
    spec = run.spec
    return _flat(
        {
            "actor_rollout_ref": {
                "model": _model(division(spec), site, places),
                "rollout": {
                    **_rollout(run, site, places),
                    "load_format": "auto",
                    "nnodes": spec.trainer.nodes,
                    "n_gpus_per_node": spec.trainer.gpus_per_node or max(1, site.gpus),
                },
            },
            **_ray(site),
        }
    )


def _sft(run: TrainingRun) -> Sft:
    assert run.spec.sft is not None
    return run.spec.sft


def _mode(verl: Verl) -> str:
    if verl.rollout == "separate":
        return "separate_async"
    return "colocate_async" if verl.max_staleness else "sync"


def _optimizer(rate: float, schedule: str, warmup: float) -> dict[str, Any]:
    return {
        "lr": rate,
        "lr_scheduler_type": schedule,
        "lr_warmup_steps_ratio": warmup,
        "zero_indexed_step": warmup == 0.0,  # a warm-up that begins with nothing would waste the first step
    }


def _fsdp(verl: Verl, site: Site) -> dict[str, Any]:
    precision = "fp32" if site.device == "cpu" else "bf16"
    return {
        "model_dtype": "fp32",
        "+mixed_precision": {"param_dtype": precision, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
        "param_offload": verl.offload,
        "optimizer_offload": verl.offload,
        "use_torch_compile": False,
    }


def _model(verl: Verl, site: Site, places: Places) -> dict[str, Any]:
    packing = verl.packing and site.device == "cuda"
    return {
        "path": str(places.model),
        "use_remove_padding": packing,
        "enable_gradient_checkpointing": site.device == "cuda",
        "+override_config": {"attn_implementation": "flash_attention_2" if packing else "sdpa"},
    }


def _rollout(run: TrainingRun, site: Site, places: Places) -> dict[str, Any]:
    """Of the rollout servers."""
    verl, limits = division(run.spec), rollout_settings(run, 1.0)
    common = {
        "name": "vllm",
        "mode": "async",
        "seed": run.spec.seed,
        "max_model_len": places.room,
        "max_num_batched_tokens": max(8192, min(places.room, limits.max_prompt_tokens)),
        "prompt_length": limits.max_prompt_tokens,
        "response_length": limits.max_response_tokens,
        "multi_turn": {"enable": True},
    }
    if site.device == "cuda":
        return common | {
            "tensor_model_parallel_size": verl.tensor_parallel,
            "gpu_memory_utilization": verl.gpu_memory,
            "free_cache_engine": verl.rollout == "colocated",
        }
    return common | {
        "dtype": "float32",
        "tensor_model_parallel_size": 1,
        "enforce_eager": True,
        "free_cache_engine": False,
        "+enable_sleep_mode": False,
        "load_format": "auto",
        "max_num_seqs": 64,
        "gpu_memory_utilization": 0.2,
        "checkpoint_engine": {"update_weights_bucket_megabytes": 64},
    }


def _rollout_gpus(spec: TrainingRunSpec, verl: Verl) -> dict[str, Any]:
    """The GPUs that only generate, where there are any."""
    if verl.rollout_gpus is None:
        return {}
    whole = spec.trainer.nodes > 1
    per_node = spec.trainer.gpus_per_node
    return {
        "nnodes": verl.rollout_gpus // per_node if whole else 1,
        "n_gpus_per_node": per_node if whole else verl.rollout_gpus,
        "checkpoint_engine": {"backend": "nccl"},  # weights cross between GPUs; by default verl shares them in place
    }


def _training_nodes(spec: TrainingRunSpec, verl: Verl) -> int:
    if verl.rollout_gpus is None or spec.trainer.nodes == 1:
        return spec.trainer.nodes
    return spec.trainer.nodes - verl.rollout_gpus // spec.trainer.gpus_per_node


def _training_gpus_per_node(spec: TrainingRunSpec, verl: Verl, site: Site) -> int:
    gpus = spec.trainer.gpus_per_node or max(1, site.gpus)
    return gpus - verl.rollout_gpus if verl.rollout_gpus is not None and spec.trainer.nodes == 1 else gpus


def _trainer(run: TrainingRun, places: Places) -> dict[str, Any]:
    return {
        "project_name": "astra-farm",
        "experiment_name": run.metadata.name,
        "logger": ["file"],
        "default_local_dir": str(places.states),
        "save_freq": run.spec.checkpoint.state_every,
        "test_freq": -1,
        "resume_mode": "disable" if places.resume is None else "resume_path",
        **({} if places.resume is None else {"resume_from_path": str(places.resume)}),
    }


def _ray(site: Site) -> dict[str, Any]:
    start: dict[str, Any] = {}
    if site.environment:
        start["runtime_env"] = {"+env_vars": {f"+{name}": value for name, value in site.environment.items()}}
    if site.ray is None and site.device == "cpu":  # workers that wait for each other: more of them than processors
        start |= {"num_cpus": 32, "+num_gpus": 1}
    if site.ray is None:
        start["+include_dashboard"] = False
    return {"ray_kwargs": {"ray_init": start}} if start else {}


def _hydra(places: Places) -> dict[str, Any]:
    """Hydra's own log goes beside the states, not into the folder that the command was given in."""
    return {"hydra": {"run": {"dir": str(places.states)}, "output_subdir": None}}


def _flat(settings: Mapping[str, Any]) -> list[str]:
    """Hydra overrides: `a.b=value`; a `+` before any part of the path adds what verl's own files do not name."""
    found: list[str] = []

    def walk(prefix: tuple[str, ...], values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            path = (*prefix, name)
            if isinstance(value, Mapping) and value:
                walk(path, value)
            else:
                added = any(part.startswith("+") for part in path)
                dotted = ".".join(part.removeprefix("+") for part in path)
                found.append(f"{'+' if added else ''}{dotted}={_value(value)}")

    walk((), settings)
    return found


def _value(value: Any) -> str:
    if isinstance(value, str):  # in Hydra's quotes a backslash counts only before a quote; `${` would be looked up
        held = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", value.replace("${", r"\${"))
        return "'" + re.sub(r"\\+$", lambda match: match[0] * 2, held) + "'"
    return "null" if value is None else json.dumps(value)
