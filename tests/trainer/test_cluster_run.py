"""A run in a cluster trains on what is verified, and goes on with what it began with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.kube import CONFIG_MAP, Kind
from astra_api.training_run import TrainingRun
from astra_trainer.cluster_run import KEPT, StatusProgress, keep_environments

SPEC: dict[str, Any] = {
    "question": "Number?",
    "answer": 7,
    "domain": "numbers",
    "scenario": "single-hop",
    "steps": [{"id": "s1", "question": "?", "answer": 7, "call": {"tool": "ping", "arguments": {}}}],
    "tools": [{"name": "ping", "description": "", "parameters": {"type": "object", "properties": {}}}],
}
SOURCE = "def ping() -> int:\n    return 7\n"


class Api:
    """Lists Environments, and has one ConfigMap."""

    def __init__(self, *bodies: dict[str, Any], source: str = SOURCE) -> None:
        self.bodies, self.source = list(bodies), source

    def list(self, kind: Kind, namespace: str) -> Iterator[dict[str, Any]]:
        return iter(self.bodies)

    def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        return {"data": {"a.py": self.source}} if (kind, name) == (CONFIG_MAP, "tools") else None


def body(
    name: str, phase: str = "Verified", generation: int = 1, label: str = "train", by: str = "source"
) -> dict[str, Any]:
    spec = SPEC | ({"source": SOURCE} if by == "source" else {"sourceRef": {"configMap": "tools", "key": "a.py"}})
    manifest = {"apiVersion": "astra.farm/v1alpha1", "kind": "Environment", "spec": spec}
    manifest["metadata"] = {"name": name, "labels": {"split": label}}
    found = Environment.model_validate(manifest).with_source(SOURCE)
    verified = {"type": "Verified", "status": "True", "reason": phase, "observedGeneration": 1}
    status = {"phase": phase, "digest": found.digest, "toolset": found.toolset.digest, "conditions": [verified]}
    metadata = {**manifest["metadata"], "namespace": "lab", "generation": generation, "uid": name, "managedFields": []}
    return {**manifest, "metadata": metadata, "status": status}


def kept(api: Api, out: Path, **environments: Any) -> list[str]:
    run = TrainingRun.model_validate(
        {
            "metadata": {"name": "tiny"},
            "spec": {"model": {"preset": "tiny"}, "rl": {}, "environments": environments},
        }
    )
    return [environment.name for environment in keep_environments(run, api, "lab", out)]  # type: ignore[arg-type]


def test_only_what_is_verified_as_it_is_now_and_selected(tmp_path: Path) -> None:
    stale = body("stale", generation=2)
    edited = body("edited")
    edited["spec"] = {**edited["spec"], "question": "Another?"}
    api = Api(
        body("a"), body("rejected", "Rejected"), stale, edited, body("other", label="x"), body("held", label="held")
    )
    selectors = {
        "selector": {"matchLabels": {"split": "train"}},
        "holdout": {"selector": {"matchLabels": {"split": "held"}}},
    }
    assert kept(api, tmp_path, **selectors) == ["a", "held"]


def test_a_run_that_is_started_again_has_those_it_began_with(tmp_path: Path) -> None:
    assert kept(Api(body("a"), body("b", by="reference")), tmp_path) == ["a", "b"]
    assert kept(Api(body("c")), tmp_path) == ["a", "b"]
    (tmp_path / KEPT).write_text("[{")
    with pytest.raises(BadInput, match=r"verified\.json"):
        kept(Api(body("c")), tmp_path)


def test_a_source_that_is_not_what_was_verified_is_left_out(tmp_path: Path) -> None:
    assert kept(Api(body("b", by="reference"), source=SOURCE.replace("7", "8")), tmp_path) == []


class Status:
    def __init__(self) -> None:
        self.said: dict[str, Any] = {}

    def say(self, **status: Any) -> None:
        self.said |= status


def test_progress_becomes_status(tmp_path: Path) -> None:
    status = Status()
    progress = StatusProgress(status, tmp_path)  # type: ignore[arg-type]
    progress.note("base: evaluating on 3 held-out environments")
    assert (status.said["phase"], status.said["stage"]) == ("Evaluating", "base")
    progress.stage("rl", 1, 3)
    assert status.said == {"phase": "Training", "stage": "rl", "step": 1, "totalSteps": 3, "eta": None}
    (tmp_path / "checkpoints" / "rl-2").mkdir(parents=True)
    progress.line({"kind": "train", "stage": "rl", "step": 2, "reward_mean": 0.5})
    assert status.said["reward"] == 0.5
    assert status.said["lastCheckpoint"] == "checkpoints/rl-2"
    assert status.said["eta"].endswith("Z")
    progress.line({"kind": "train", "stage": "rl", "step": 3, "reward_mean": 0.75})
    assert (status.said["phase"], status.said["eta"]) == ("Evaluating", None)
    (tmp_path / "checkpoints" / "rl-3").mkdir()
    progress.line({"kind": "evaluation", "stage": "rl", "step": 3, "holdout_success": 0.25})
    assert (status.said["success"], status.said["stage"]) == (0.25, "rl")
    progress.line({"kind": "evaluation", "stage": "rl", "step": 3})
    assert status.said["success"] == 0.25
