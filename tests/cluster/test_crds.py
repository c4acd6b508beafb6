"""The three kinds on a real API server, whatever its version; test_definitions.py looks closer, on a current one."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import Cluster
from operators import eventually

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "environments" / "city-trip.yaml"
CHART = ROOT / "helm" / "astra-farm"


def _environment(**spec: Any) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    body["spec"] |= spec
    return body


def test_they_are_served_as_they_were_written(crds: Cluster) -> None:
    for name in ("environments", "synthesisruns", "trainingruns"):
        conditions = crds.get("crd", f"{name}.astra.farm")["status"]["conditions"]
        states = {condition["type"]: condition["status"] for condition in conditions}
        assert states["NamesAccepted"] == states["Established"] == "True"
        assert "NonStructuralSchema" not in states


def test_helm_installs_upgrades_and_uninstalls_them(api_server: Cluster, crds: Cluster) -> None:
    """With the whole chart, over what is there; without kubelets its pods stay Pending."""
    names = [f"{plural}.astra.farm" for plural in ("environments", "synthesisruns", "trainingruns")]
    with api_server.namespace("helm") as namespace:

        def helm(verb: str, *flags: str | Path) -> None:
            api_server.run("helm", verb, namespace, *flags, "-n", namespace)

        chart = (CHART, "--take-ownership", *api_server.helm_flags)
        helm("install", *chart)
        assert api_server.get("deployments", "-n", namespace)["items"]
        for name in names:
            found = api_server.get("crd", name)
            assert found["metadata"]["annotations"]["meta.helm.sh/release-name"] == namespace
            assert ("x-kubernetes-validations" in json.dumps(found)) == api_server.has_cel
        helm("upgrade", *chart, "--set", "operator.replicas=2")
        helm("uninstall", "--wait")
        for name in names:  # kept; from now on they are nobody's
            api_server.kubectl("annotate", "crd", name, "meta.helm.sh/release-name-", "meta.helm.sh/release-namespace-")


def test_short_names_columns_and_category(crds: Cluster) -> None:
    with crds.namespace() as namespace:
        crds.kubectl("apply", "--server-side", "-n", namespace, "-f", EXAMPLE)
        run = {"apiVersion": "astra.farm/v1alpha1", "kind": "TrainingRun", "metadata": {"name": "r"}}
        crds.apply(run | {"spec": {"model": {"preset": "tiny"}, "rl": {}}}, namespace=namespace)
        assert crds.kubectl("get", "env", "-n", namespace).split()[:4] == ["NAME", "PHASE", "DOMAIN", "SCENARIO"]
        assert crds.kubectl("get", "train", "-n", namespace).split()[:3] == ["NAME", "PHASE", "STAGE"]
        everything = crds.kubectl("get", "astra", "-n", namespace, "-o", "name").split()
        assert set(everything) == {"environment.astra.farm/city-trip", "trainingrun.astra.farm/r"}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("environment.spec.steps.match", "Comparison that a result must pass"),
        ("synthesisrun.spec.count", "Number of objects to make"),
        ("trainingrun.spec.rl.maxTurns", "Number of turns"),
        ("trainingrun.status.reward", "Mean reward"),
    ],
)
def test_explain(crds: Cluster, path: str, words: str) -> None:
    def explained() -> bool:
        try:
            return words in crds.kubectl("explain", path)
        except AssertionError:  # the server publishes the schemas of a new kind a while after it serves it
            return False

    eventually(explained, 60, what=lambda: crds.kubectl("explain", path))


def test_what_comes_back_means_the_same(crds: Cluster) -> None:
    """Defaults are filled in, free-form answers and arguments kept to the byte."""
    from astra_api.environment import Environment

    body = _environment()
    body["spec"]["steps"][0]["answer"] = {"deep": [1, None, {"unknown": True}], "text": "5e-6"}
    with crds.namespace() as namespace:
        crds.apply(body, namespace=namespace)
        stored = crds.get("env", "city-trip", "-n", namespace)
        assert stored["spec"]["sandbox"]["memory"] == "256Mi"
        kept = {"apiVersion", "kind", "metadata", "spec"}
        assert Environment.model_validate({key: stored[key] for key in kept}).digest == (
            Environment.model_validate(body).digest
        )


def test_scale(crds: Cluster) -> None:
    with crds.namespace() as namespace:
        crds.apply(_environment(), namespace=namespace)
        crds.kubectl("scale", "env/city-trip", "--replicas=2", "-n", namespace)
        assert crds.get("env", "city-trip", "-n", namespace)["spec"]["sandbox"]["replicas"] == 2


def test_status_is_apart(crds: Cluster) -> None:
    with crds.namespace() as namespace:
        crds.apply(_environment() | {"status": {"phase": "Verified"}}, namespace=namespace)
        stored = crds.get("env", "city-trip", "-n", namespace)
        assert "phase" not in stored.get("status", {})
        assert stored["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"question": ""}, "spec.question"),
        ({"sourceRef": None}, "spec.sourceRef"),
        ({"scenario": "hop"}, "spec.scenario"),
        ({"steps": []}, "spec.steps"),
        ({"domain": 3}, "spec.domain"),
        ({"sandbox": {"replicas": 1001}}, "spec.sandbox.replicas"),
        ({"sandbox": {"memory": "lots"}}, "spec.sandbox.memory"),
        ({"source": "x" * 131073}, "spec.source"),
    ],
)
def test_every_server_names_the_bad_field(crds: Cluster, change: dict[str, Any], field: str) -> None:
    with crds.namespace() as namespace, pytest.raises(AssertionError, match=field.replace(".", r"\.")):
        crds.apply(_environment(**change), namespace=namespace)


def test_rules_hold_where_the_server_knows_cel(crds: Cluster) -> None:
    both = _environment(sourceRef={"configMap": "c", "key": "k"})
    with crds.namespace() as namespace:
        if not crds.has_cel:  # then the operator refuses it, in a condition
            crds.apply(both, namespace=namespace)
            return
        with pytest.raises(AssertionError, match="give exactly one of source and sourceRef"):
            crds.apply(both, namespace=namespace)


def test_conditions_are_merged_by_type(crds: Cluster) -> None:
    if not crds.has_cel and crds.version < (1, 22):
        pytest.skip("needs Kubernetes 1.22: before, managers of one list of a custom resource conflict")
    with crds.namespace() as namespace:
        crds.apply(_environment(), namespace=namespace)
        for manager, kind in (("one", "Verified"), ("two", "Ready")):
            condition = {"type": kind, "status": "True", "reason": "Test"}
            status = {"apiVersion": "astra.farm/v1alpha1", "kind": "Environment", "status": {"conditions": [condition]}}
            patch = copy.deepcopy(status | {"metadata": {"name": "city-trip", "namespace": namespace}})
            arguments = ("--server-side", "--subresource=status", f"--field-manager={manager}", "--validate=false")
            crds.kubectl("apply", *arguments, "-f", "-", stdin=json.dumps(patch))
        conditions = crds.get("env", "city-trip", "-n", namespace)["status"]["conditions"]
        assert {condition["type"] for condition in conditions} == {"Verified", "Ready"}
