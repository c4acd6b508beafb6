"""A run on two nodes of a Ray cluster that was there before: each a raylet, with processors as its only "GPU"."""

import asyncio
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("vllm", reason="needs vLLM: run `make test-verl`")
pytest.importorskip("ray", reason="needs Ray: run `make test-verl`")

from farm import EXAMPLE

from sandbox_servers import tcp_server

pytestmark = [pytest.mark.timeout(1200)]
BIN = Path(sys.executable).parent


@dataclass
class Cluster:
    """Where the head answers, what its users need in their environment, and its raylets."""

    address: str
    dashboard: str
    environment: dict[str, str]
    log: Path
    raylets: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_node(self, *flags: str) -> None:
        command = [BIN / "ray", "start", "--block", "--num-gpus", "1", "--num-cpus", "28", *flags]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.raylets.append(process)

    def wait_for(self, nodes: int) -> None:
        """Until as many answer. Raises AssertionError with what they say."""
        command = [sys.executable, "-m", "astra_trainer.engines.verl.ray_cluster", self.address, str(nodes)]
        for _ in range(10):
            found = subprocess.run(command, env=self.environment, capture_output=True, check=False)
            if found.returncode == 0 and len(json.loads(found.stdout.splitlines()[-1])) == nodes:
                return
        raise AssertionError(self.log.read_text(errors="replace"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    port, dashboard = _free_ports()
    environment = os.environ | {
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_TMPDIR": str(tmp_path_factory.mktemp("ray")),
    }
    address = f"{_own_address()}:{port}"
    made = Cluster(
        address, f"http://127.0.0.1:{dashboard}", environment, tmp_path_factory.mktemp("log") / "raylets.log"
    )
    try:
        made.add_node("--head", "--port", str(port), "--dashboard-port", str(dashboard))
        made.wait_for(1)
        yield made
    finally:
        for raylet in made.raylets:
            raylet.terminate()
        for raylet in made.raylets:
            raylet.wait()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _own_address() -> str:
    """The address of this machine that Ray announces: raylets of one cluster do not meet on loopback."""
    import ray

    return str(ray.util.get_node_ip_address())


@contextlib.asynccontextmanager
async def sandboxes(folder: Path) -> AsyncIterator[dict[str, str]]:
    """A server that workers on any node can reach, as a run's environment names it."""
    async with tcp_server() as (address, tls):
        for name, content in (
            ("client.crt", tls.certificate),
            ("client.key", tls.key),
            ("ca.crt", tls.authority),
        ):
            (folder / name).write_bytes(content)
        yield {"ASTRA_SANDBOXES": address, "ASTRA_TLS_DIR": str(folder)}


async def train(cluster: Cluster, manifest: Path, out: Path, places: dict[str, str]) -> tuple[int, str]:
    """The exit code of `ray job submit` with `astra train` on the cluster's head, and what both said."""
    variables = json.dumps({"env_vars": {"VERL_PLATFORM": "cpu"} | places})
    process = await asyncio.create_subprocess_exec(
        *(BIN / "ray", "job", "submit", "--address", cluster.dashboard, "--runtime-env-json", variables),
        *("--", BIN / "astra", "train", "-f", manifest, "--out", out),
        env=cluster.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")


def manifest(folder: Path) -> Path:
    """The example, shorter, on two nodes."""
    run, *environments = yaml.safe_load_all(EXAMPLE.read_text())
    run["spec"]["sft"]["epochs"] = 10
    run["spec"]["rl"]["steps"] = 2
    run["spec"]["trainer"] = {"nodes": 2}
    file = folder / "two-nodes.yaml"
    file.write_text(yaml.safe_dump_all([run, *environments]))
    return file


async def test_two_nodes_train_and_their_shards_make_the_checkpoint(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with sandboxes(tmp_path) as places:
        code, said = await train(cluster, manifest(tmp_path), out, places)
        assert code == 1, said
        assert "spec.trainer.nodes: 2 nodes with 1 GPUs are asked; of the 1 nodes at RAY_ADDRESS 1 declare" in said
        assert "Traceback" not in said
        assert "exit code 2" in said
        cluster.add_node("--address", cluster.address)
        cluster.wait_for(2)
        code, said = await train(cluster, manifest(tmp_path), out, places)
    assert code == 0, said
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    done = [(line["kind"], line["stage"], line["step"]) for line in lines]
    assert [step for kind, stage, step in done if (kind, stage) == ("train", "sft")] == list(range(1, 11))
    assert [step for kind, stage, step in done if (kind, stage) == ("train", "rl")] == [1, 2]
    assert [stage for kind, stage, _ in done if kind == "evaluation"] == ["base", "sft", "rl"]
    rl = [line for line in lines if (line["kind"], line["stage"]) == ("train", "rl")]
    assert all(line["excluded"] == 0 and line["logprob_mismatch_mean"] < 1e-3 for line in rl)
    losses = [line["loss"] for line in lines if (line["kind"], line["stage"]) == ("train", "sft")]
    assert losses[-1] < losses[0] / 2
    _compare(out / "state" / "verl-sft" / "global_step_10", out / "checkpoints" / "sft-10")
    _compare(out / "state" / "verl-rl" / "global_step_2" / "actor", out / "checkpoints" / "rl-2")


def _compare(state: Path, checkpoint: Path) -> None:
    """Each weight of the checkpoint is what the ranks hold of it, one after the other."""
    import torch
    from transformers import AutoModelForCausalLM

    ranks: list[dict[str, Any]] = [
        torch.load(state / f"model_world_size_2_rank_{rank}.pt", weights_only=False) for rank in range(2)
    ]
    merged = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    assert set(merged) >= set(ranks[0]) == set(ranks[1])
    for name in ranks[0]:
        shards = [rank[name].to_local() for rank in ranks]
        assert all(shard.numel() for shard in shards) or name.endswith("norm.weight"), name
        assert torch.equal(torch.cat(shards).to(merged[name].dtype), merged[name]), name
