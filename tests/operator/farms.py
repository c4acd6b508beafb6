"""A farm and its runs, for tests."""

from typing import Any

from astra_api.environment import Environment
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_operator.census import Census
from astra_operator.farm import Farm
from astra_operator.manifests.identity import Owner
from astra_operator.runs import Plan
from astra_operator.settings import OperatorSettings
from astra_operator.synthesis import synthesis_plan
from astra_operator.training import training_plan

NAMESPACE = "lab"
FARM = Farm(OperatorSettings(namespace="astra"))
QUESTION: dict[str, Any] = {
    "question": "Number?",
    "answer": 7,
    "domain": "numbers",
    "scenario": "single-hop",
    "steps": [{"id": "s1", "question": "?", "answer": 7, "call": {"tool": "ping", "arguments": {}}}],
    "tools": [{"name": "ping", "description": "", "parameters": {"type": "object", "properties": {}}}],
    "source": "def ping() -> int:\n    return 7\n",
}


def environment(name: str = "seven", **changes: Any) -> Environment:
    return Environment.model_validate({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": QUESTION | changes})


def environment_body(name: str, phase: str = "Verified", labels: dict[str, str] | None = None) -> dict[str, Any]:
    """As the API gives it, with a verdict of its generation."""
    decided = {"type": "Verified", "status": "True", "reason": phase, "observedGeneration": 1}
    return {
        "apiVersion": "astra.farm/v1alpha1",
        "kind": "Environment",
        "metadata": {"name": name, "namespace": NAMESPACE, "generation": 1, "uid": name, "labels": labels or {}},
        "spec": QUESTION,
        "status": {} if phase == "Pending" else {"phase": phase, "conditions": [decided]},
    }


def training_run(name: str = "tiny", labels: dict[str, str] | None = None, **changes: Any) -> TrainingRun:
    spec: dict[str, Any] = {"model": {"preset": "tiny"}, "rl": {}, "sandboxes": {"replicas": 2}} | changes
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels or {}}
    return TrainingRun.model_validate({"metadata": metadata, "spec": spec})


def synthesis_run(name: str = "tables", **changes: Any) -> SynthesisRun:
    spec = {"count": 3, "environments": {"source": {"type": "tables", "pack": "geography"}}} | changes
    return SynthesisRun.model_validate({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})


def census(*bodies: dict[str, Any]) -> Census:
    found = Census()
    for body in bodies or (environment_body("one"),):
        found.note(body)
    return found


def owner(kind: str = "TrainingRun", name: str = "tiny", uid: str = "uid-1") -> Owner:
    return Owner(kind, name, NAMESPACE, uid)


def plan(run: TrainingRun | SynthesisRun, found: Census | None = None) -> Plan:
    whose = owner(run.kind, run.metadata.name)
    if isinstance(run, SynthesisRun):
        return synthesis_plan(run, whose, FARM)
    return training_plan(run, whose, FARM, found or census())
