"""A namespace with an operator of its own, and what tests put into it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from clusters import Cluster
from operators import RunningOperator, eventually
from standin import KubeletStandIn, kube_of

from astra_api.kube import CONFIG_MAP, EVENT, SECRET, Kind
from astra_operator.manifests.identity import MANAGED
from astra_operator.manifests.job import CLAIM, JOB, RBAC_ROLE, ROLE_BINDING, SERVICE_ACCOUNT
from astra_operator.manifests.pool import NETWORK_POLICY, SERVICE, STATEFUL_SET

ROOT = Path(__file__).parents[2]
CITY = ROOT / "examples" / "environments" / "city-trip.yaml"
EVERYTHING = (
    CONFIG_MAP, SECRET, SERVICE, STATEFUL_SET, NETWORK_POLICY, JOB, CLAIM, SERVICE_ACCOUNT, RBAC_ROLE, ROLE_BINDING,
    Kind("policy/v1beta1", "PodDisruptionBudget", "poddisruptionbudgets"),
)  # fmt: skip


class Lab:
    """A namespace with an operator of its own."""

    def __init__(self, cluster: Cluster, namespace: str, operator: RunningOperator, kubelet: KubeletStandIn) -> None:
        self.cluster, self.namespace, self.operator, self.kubelet = cluster, namespace, operator, kubelet
        self.kube = kubelet.kube

    def make(self, kind: Kind, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
        body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name, **metadata}, "spec": spec}
        return self.kube.create(kind, self.namespace, body)

    def status(self, kind: Kind, name: str) -> dict[str, Any]:
        return (self.kube.get(kind, self.namespace, name) or {}).get("status") or {}

    def condition(self, kind: Kind, name: str, of: str) -> dict[str, Any]:
        conditions = self.status(kind, name).get("conditions") or []
        return next((condition for condition in conditions if condition["type"] == of), {})

    def change(self, kind: Kind, name: str, spec: dict[str, Any]) -> None:
        what = f"{kind.plural}.{kind.api_version.partition('/')[0]}"
        patch = json.dumps({"spec": spec})
        self.cluster.kubectl("patch", what, name, "-n", self.namespace, "--type=merge", "-p", patch)

    def wait_phase(self, kind: Kind, name: str, phase: str, seconds: float = 180.0) -> None:
        eventually(
            lambda: self.status(kind, name).get("phase") == phase,
            seconds,
            what=lambda: f"{name}: {phase}; {self.status(kind, name)}\n{self.operator.log[-3000:]}",
        )

    def made(self) -> set[tuple[str, str]]:
        """(kind, name) of all that the operator made here, its verification pool aside."""
        found = {
            (kind.kind, item["metadata"]["name"])
            for kind in EVERYTHING
            for item in self.kube.list(kind, self.namespace, MANAGED)
        }
        return {(kind, name) for kind, name in found if not name.startswith("verify-")}

    def events(self, name: str) -> list[str]:
        return [
            f"{event['type']} {event['reason']}: {event['message']}"
            for event in self.kube.list(EVENT, self.namespace, fields=f"involvedObject.name={name}")
        ]


def with_kinds(cluster: Cluster) -> Cluster:
    """With the chart's definitions, of which an old server drops the rules, and RuntimeClass gvisor."""
    files = sorted((ROOT / "helm" / "astra-farm" / "files" / "crds").glob("*.yaml"))
    cluster.install(*(yaml.safe_load(file.read_text()) for file in files))
    runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "gvisor"}}
    cluster.apply(runtime | {"handler": "runsc"})
    return cluster


@contextmanager
def lab_in(cluster: Cluster, folder: Path) -> Iterator[Lab]:
    with cluster.namespace("lab") as namespace:
        kube = kube_of(cluster)
        eventually(lambda: kube.get(SERVICE_ACCOUNT, namespace, "default"))
        with (
            KubeletStandIn(kube, namespace).started() as kubelet,
            RunningOperator(cluster, namespace, folder / "operator.log") as operator,
        ):
            yield Lab(cluster, namespace, operator, kubelet)


def city(number: int = 0) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load(CITY.read_text())["spec"]
    spec["question"] += f" ({number})" if number else ""
    spec["source"] += f"\n_NUMBER = {number}\n"
    return spec


def run_spec(**changes: Any) -> dict[str, Any]:
    return {"model": {"preset": "tiny"}, "rl": {"steps": 3}, "sandboxes": {"replicas": 1}} | changes
