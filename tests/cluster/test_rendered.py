"""What the operator renders, as a real API server stores it: nothing is refused, and nothing differs afterwards."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster
from operators import eventually
from standin import kube_of

from astra_api.environment import Environment
from astra_api.kube import Kube
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_operator.census import Census
from astra_operator.drift import differs, stamped
from astra_operator.environments import dedicated_pool
from astra_operator.farm import Farm
from astra_operator.manifests.identity import Owner
from astra_operator.manifests.job import RUN_FILE, access_objects, job_object, run_object
from astra_operator.manifests.pool import STATEFUL_SET, pool_objects
from astra_operator.metrics import WRITES
from astra_operator.settings import MANAGER, OperatorSettings
from astra_operator.synthesis import synthesis_plan, unrunnable
from astra_operator.training import training_plan
from astra_operator.training import unrunnable as training_unrunnable
from astra_operator.verification_pool import WAKE, VerificationPool

ROOT = Path(__file__).parents[2]
Object = dict[str, Any]
# Each way to write a thing that a server stores in another.
TEMPLATE: Object = {
    "metadata": {"labels": {"team": "lab", "empty": ""}, "annotations": {"example.com/note": ""}},
    "spec": {
        "nodeSelector": {"pool": "", "zone": "a"},
        "tolerations": [
            {"operator": "Exists"},
            {"key": "gpu", "value": "", "effect": "NoSchedule"},
            {"key": "gone", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
        ],
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": {"team": ""}},
                        },
                    }
                ]
            }
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "imagePullSecrets": [{"name": "pull"}],
        "env": [
            {"name": "EMPTY", "value": ""},
            {"name": "CORES", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1000m"}}},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k", "optional": False}}},
        ],
        "envFrom": [{"configMapRef": {"name": "settings", "optional": True}}],
        "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "a", "readOnly": False}},
            {"name": "b", "emptyDir": {"medium": "", "sizeLimit": "1024Mi"}},
            {"name": "c", "emptyDir": {}},
            {"name": "d", "nfs": {"server": "s", "path": "/", "readOnly": False}},
            {"name": "e", "secret": {"secretName": "e", "optional": False}},
            {"name": "f", "configMap": {"name": "f", "items": [{"key": "k", "path": "p"}]}},
            {"name": "g", "csi": {"driver": "example.com", "readOnly": False, "volumeAttributes": {"empty": ""}}},
        ],
        "volumeMounts": [
            {"name": "a", "mountPath": "/a/", "readOnly": False, "subPath": ""},
            {"name": "b", "mountPath": "/b", "readOnly": True, "subPath": "in"},
        ],
        "priorityClassName": "low",
        "schedulerName": "gang",
        "securityContext": {
            "runAsUser": 1000, "supplementalGroups": [2000], "seLinuxOptions": {"level": "s0:c1,c2"},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    },
}  # fmt: skip
TOLD = {
    "ASTRA_NAMESPACE": "astra",
    "ASTRA_POD_DEFAULTS": json.dumps(dict.fromkeys(("trainer", "sandboxes", "synthesis", "verification"), TEMPLATE)),
    "ASTRA_VERIFIER_RESOURCES": '{"requests": {"cpu": "0.1", "memory": "1024Mi"}}',
    "ASTRA_SANDBOX_METRICS_FROM": '[{"podSelector": {}}]',
    "ASTRA_TRACING_ENDPOINT": "http://10.0.0.9:4318",
    "ASTRA_TRACING_PEERS": '[{"namespaceSelector": {"matchLabels": {"team": "otel"}}}]',
}


@pytest.fixture(scope="module")
def kube(api_server: Cluster) -> Kube:
    return kube_of(api_server)


@pytest.fixture
def farm(api_server: Cluster, kube: Kube) -> Iterator[Farm]:
    """One whose admin has asked for everything; its objects go to a namespace of their own."""
    with api_server.namespace("rendered") as namespace:
        settings = OperatorSettings.of_environment({**TOLD, "ASTRA_NAMESPACE": namespace})
        yield Farm(settings, "policy/v1" if kube.offers("policy/v1") else "policy/v1beta1")


def _training(namespace: str) -> TrainingRun:
    asked = {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"memory": "2048Mi"}}
    spec = {
        "model": {"preset": "tiny"},
        "rl": {},
        "sandboxes": {"resources": asked, "podTemplate": {"metadata": {"labels": {"team": "own"}}}},
        "trainer": {"resources": asked, "gpusPerNode": 1, "infiniband": True, "modelCacheClaim": "hub"},
        "checkpoint": {
            "size": "1024Gi",
            "storageClassName": "",
            "objectStore": {"url": "gs://bucket/x", "secret": "b"},
        },
        "activeDeadlineSeconds": 60,
    }
    return TrainingRun.model_validate({"metadata": {"name": "rich", "namespace": namespace}, "spec": spec})


def test_what_is_applied_is_what_is_found(kube: Kube, farm: Farm) -> None:
    """Else it would be applied for ever. Of a training run, a synthesis and an Environment with replicas of its own."""
    namespace = farm.settings.namespace
    run = _training(namespace)
    assert training_unrunnable(run, farm) == []
    training = training_plan(run, Owner("TrainingRun", "rich", namespace), farm, Census())
    tables = {"count": 1, "environments": {"source": {"type": "tables", "pack": "geography"}}, "podTemplate": TEMPLATE}
    asked = SynthesisRun.model_validate({"metadata": {"name": "rich", "namespace": namespace}, "spec": tables})
    assert unrunnable(asked, farm) == []
    synthesis = synthesis_plan(asked, Owner("SynthesisRun", "rich", namespace), farm)
    environment = Environment.model_validate(
        {
            "metadata": {"name": "rich", "namespace": namespace},
            "spec": {
                "question": "?", "answer": 7, "domain": "d", "scenario": "single-hop",
                "steps": [{"id": "s", "question": "?", "answer": 7, "call": {"tool": "ping", "arguments": {}}}],
                "tools": [{"name": "ping", "description": "", "parameters": {"type": "object"}}],
                "source": "def ping() -> int:\n    return 7\n", "sandbox": {"replicas": 1},
            },
        }
    )  # fmt: skip
    made = pool_objects(dedicated_pool(environment, Owner("Environment", "rich", namespace), farm, 1))
    for plan in (training, synthesis):
        made += [*access_objects(plan.work), *plan.extra, *pool_objects(plan.pool), job_object(plan.work)]
        made.append(run_object(plan.work, {RUN_FILE: plan.manifest}))
    for action in made:
        manifest = stamped(action.manifest)
        name = manifest["metadata"]["name"]
        kube.apply(action.kind, namespace, name, manifest, MANAGER, uid=None)
        found = kube.get(action.kind, namespace, name)
        assert found is not None
        assert not differs(manifest, found), (manifest, found)


def test_the_verification_pool_is_of_its_own_defaults_and_settles(kube: Kube, farm: Farm) -> None:
    pool = VerificationPool(kube, farm)
    pool.provide()
    (found,) = kube.list(STATEFUL_SET, farm.settings.namespace)
    spec = found["spec"]["template"]["spec"]
    assert spec["schedulerName"] == "gang"
    assert found["spec"]["template"]["metadata"]["labels"]["team"] == "lab"
    (container,) = spec["containers"]
    assert container["resources"]["requests"] == {"cpu": "100m", "memory": "1Gi"}, "what the admin gave"
    assert container["resources"]["limits"]["memory"], "what its sessions want"
    before = _writes()
    pool.provide()
    assert _writes() == before, "nothing differs, so nothing is written"


def _writes() -> float:
    return sum(
        sample.value for family in WRITES.collect() for sample in family.samples if sample.name.endswith("_total")
    )


def test_helm_s_test_wakes_a_pool_that_sleeps(api_server: Cluster, kube: Kube, farm: Farm, tmp_path: Path) -> None:
    """The operator goes by the annotation; what the test calls then is not there in a cluster without nodes."""
    namespace = farm.settings.namespace
    VerificationPool(kube, farm).provide()
    (pool,) = kube.list(STATEFUL_SET, namespace)
    for name in ("client.crt", "client.key", "ca.crt"):
        (tmp_path / name).write_text("")
    script = ROOT / "helm" / "astra-farm" / "files" / "call_a_tool.py"
    command = [sys.executable, str(script), "127.0.0.1:1", f"{namespace}/{pool['metadata']['name']}"]
    environment = {**api_server.environment, "ASTRA_TLS_DIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as calling:
        try:
            eventually(lambda: WAKE in next(iter(kube.list(STATEFUL_SET, namespace)))["metadata"]["annotations"], 120.0)
        finally:
            calling.kill()
