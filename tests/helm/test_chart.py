"""The chart: what it makes of which values, for the oldest and for current servers."""

import copy
import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from astra_api import kube
from astra_api.crds import definitions
from astra_api.kube import Kind
from astra_operator import settings
from astra_operator.manifests import identity, job, pool

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "astra-farm"
Object = dict[str, Any]
Render = Callable[..., list[Object]]

OLD = ("--kube-version", "1.20.2")
NEW = ("--kube-version", "1.35.0")
EVERYTHING: Object = {
    "operator": {
        "replicas": 2, "watchNamespaces": ["team-a", "astra"], "canaryTargets": ["10.0.0.1:443"],
        "podLabels": {"team": "one"}, "podAnnotations": {"note": "two"}, "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"operator": "Exists"}],
        "priorityClassName": "high", "affinity": {"nodeAffinity": {}},
    },
    "serviceAccount": {"annotations": {"note": "three"}},
    "runtimeClass": {"create": True, "nodeSelector": {"pool": "gvisor"}},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}], "egressPorts": [16443]},
    "podDefaults": {
        "trainer": {"spec": {"priorityClassName": "low", "env": [{"name": "PLACE", "value": "$(HOME)/there"}]}},
        "sandboxes": {"metadata": {"labels": {"cost": "lab"}}, "spec": {"tolerations": [{"operator": "Exists"}]}},
        "synthesis": {"spec": {"imagePullSecrets": [{"name": "pull"}]}},
        "verification": {"spec": {"nodeSelector": {"pool": "gvisor"}}},
    },
    "policy": {"allowedImages": ["registry.example/team/*"], "allowedSecrets": ["run-*", "hub"]},
    "sandboxes": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]},
    "tracing": {"endpoint": "http://10.0.0.9:4318", "peers": [{"podSelector": {"matchLabels": {"app": "otel"}}}]},
    "kuberay": {"namespace": "kuberay", "authToken": False},
    "metrics": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "alerts": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    },
    "teacher": {
        "enabled": True, "gpus": 2, "hubTokenSecret": "hub", "cacheClaim": "cache", "args": ["--max-model-len", "8192"],
        "nodeSelector": {"pool": "gpu"}, "tolerations": [{"operator": "Exists"}],
    },
}  # fmt: skip
VALUES = {"defaults": {}, "everything": EVERYTHING}
_FOREIGN = ("ServiceMonitor", "PodMonitor", "PrometheusRule")  # kinds that Kubernetes does not define


def _of(objects: list[Object], kind: str, name: str = "") -> Object:
    (found,) = (one for one in objects if one["kind"] == kind and name in one["metadata"]["name"])
    return found


@pytest.mark.parametrize(
    ("version", "takes"), [("1.20.2", True), ("1.24.17", True), ("1.25.0", False), ("1.28.9", False), ("1.29.0", True)]
)
def test_servers_that_would_refuse_the_definitions_are_refused_by_the_chart(
    helm: Any, version: str, takes: bool
) -> None:
    done = helm("template", "farm", str(CHART), "--kube-version", version)
    assert (done.returncode == 0) is takes, done.stderr
    assert takes or "requires kubeVersion" in done.stderr


def test_lint(helm: Any, tmp_path: Path) -> None:
    for name, values in VALUES.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values))
        done = helm("lint", "--strict", str(CHART), "-f", str(file))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize(("flags", "schema"), [(NEW, "1.32"), (NEW, "1.35"), (NEW, "1.37")])
def test_current_servers_know_every_field(
    template: Render, values: Object, flags: tuple[str, ...], schema: str
) -> None:
    for body in template(values, *flags):
        if body["kind"] not in _FOREIGN:
            kubernetes_validate.validate(copy.deepcopy(body), schema, strict=True)


@pytest.mark.parametrize(("flags", "budget"), [(OLD, "policy/v1beta1"), (NEW, "policy/v1")])
def test_versions_are_those_of_the_server(template: Render, flags: tuple[str, ...], budget: str) -> None:
    objects = template(EVERYTHING, *flags)
    assert _of(objects, "PodDisruptionBudget")["apiVersion"] == budget
    assert _of(objects, "RuntimeClass")["apiVersion"] == "node.k8s.io/v1"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("operater.replicas", 2),
        ("operator.replica", 2),
        ("operator.replicas", 0),
        ("operator.replicas", "two"),
        ("images.operator.digest", "sha256:abc"),
        ("images.pullPolicy", "Sometimes"),
        ("metrics.alerts.enable", True),
        ("teacher.gpus", -1),
        ("operator.canaryTargets", ["no-port"]),
        ("operator.resources.limit", {}),
        ("operator.scope", "team"),
        ("podDefaults.trainer.nodeSelector", {"pool": "gpu"}),
        ("podDefaults.sandbox", {}),
        ("policy.allowedImages", ["a,b"]),
        ("sandboxes.metricsFrom", [{}]),
        ("tracing.endpoint", "http://collector.monitoring.svc:4318"),
        ("kuberay.authToken", "yes"),
        ("networkPolicy.egressPorts", []),
    ],
)
def test_bad_values_are_refused_by_name(helm: Any, path: str, value: Any) -> None:
    made: Any = value
    for name in reversed(path.split(".")):
        made = {name: made}
    done = helm("template", "farm", str(CHART), "-f", "-", stdin=yaml.safe_dump(made))
    assert done.returncode != 0
    assert path.split(".")[0 if path.startswith("operater") else -1] in done.stderr


def test_every_value_is_in_the_schema_and_in_the_table() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def keys(node: Object) -> Iterator[tuple[str, ...]]:
        node = schema["definitions"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node
        for name, inner in node.get("properties", {}).items():
            yield (name,)
            yield from ((name, *rest) for rest in keys(inner))

    def given(values: Any) -> Iterator[tuple[str, ...]]:
        for name, inner in values.items() if isinstance(values, dict) else ():
            yield (name,)
            yield from ((name, *rest) for rest in given(inner))

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    free = {(name, part) for name in ("resources", "verifierResources") for part in ("limits", "requests")}
    allowed = {path for path in keys(schema) if path[-2:] not in free and path != ("global",)}
    leaves = {path for path in given(values) if not {"resources", "verifierResources", "labels"} & set(path[:-1])}
    assert allowed == leaves

    found = importlib.util.spec_from_file_location("chart_values", ROOT / "scripts" / "chart_values.py")
    assert found is not None
    assert found.loader is not None
    chart_values = importlib.util.module_from_spec(found)
    found.loader.exec_module(chart_values)
    page = chart_values.PAGE.read_text()
    assert chart_values.page(page) == page, "run `make chart-docs`"
    inner = {path[: index + 1] for path in leaves for index in range(len(path) - 1)}
    documented = {tuple(path.split(".")) for path, _ in chart_values.described((CHART / "values.yaml").read_text())}
    assert leaves - inner <= documented


def test_definitions_are_optional_and_kept(template: Render) -> None:
    made = [body for body in template() if body["kind"] == "CustomResourceDefinition"]
    assert made == definitions()
    assert all(body["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for body in made)
    assert not [body for body in template({"crds": {"enabled": False}}) if body["kind"] == "CustomResourceDefinition"]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_pods_are_restricted(template: Render, values: Object) -> None:
    """The restricted Pod Security Standard, and a read-only root besides."""
    pods = [
        body["spec"] if body["kind"] == "Pod" else body["spec"]["template"]["spec"]
        for body in template(values)
        if body["kind"] in ("Pod", "Deployment")
    ]
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]
        allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
        assert {next(key for key in volume if key != "name") for volume in pod["volumes"]} <= allowed


def test_the_operator_is_told_all_that_it_reads(template: Render) -> None:
    container = _of(template(EVERYTHING), "Deployment", "operator")["spec"]["template"]["spec"]["containers"][0]
    told = {variable["name"]: variable.get("value", "").replace("$$", "$") for variable in container["env"]}
    assert "$$(HOME)" in next(each["value"] for each in container["env"] if each["name"] == "ASTRA_POD_DEFAULTS")
    read = set(re.findall(r"ASTRA_\w+", inspect.getsource(settings)))
    assert set(told) - {"HOME"} == read
    made = settings.OperatorSettings.of_environment({**told, "ASTRA_NAMESPACE": "astra"})
    assert made.watched == ("team-a", "astra")
    assert made.sandbox_image == "astra-farm-sandbox:0.1.0"
    assert made.image_of_trainer("embedded", 0) == "astra-farm-trainer:0.1.0"
    assert made.image_of_trainer("embedded", 1) == "astra-farm-trainer-gpu:0.1.0"
    assert made.image_of_trainer("verl", 8) == "astra-farm-trainer-verl:0.1.0"
    assert made.runtime_class == "gvisor"
    assert made.canary_targets == ("10.0.0.1:443",)
    assert made.pod_defaults.trainer.spec.priority_class_name == "low"
    assert made.pod_defaults.sandboxes.metadata.labels == {"cost": "lab"}
    assert [secret.name for secret in made.pod_defaults.synthesis.spec.image_pull_secrets] == ["pull"]
    assert made.pod_defaults.verification.spec.node_selector == {"pool": "gvisor"}
    assert made.verifier_idle_seconds == 600
    assert made.verifier_resources == {"requests": {"cpu": "100m", "memory": "512Mi"}}
    assert made.allowed_images == ("registry.example/team/*",)
    assert made.allowed_secrets == ("run-*", "hub")
    assert made.monitoring == settings.Monitoring(
        ({"namespaceSelector": {"matchLabels": {"team": "monitoring"}}},),
        "http://10.0.0.9:4318",
        ({"podSelector": {"matchLabels": {"app": "otel"}}},),
    )
    assert made.kuberay == settings.KubeRay("kuberay", token=False)
    pod = _of(template(EVERYTHING), "Deployment", "operator")["spec"]["template"]["metadata"]["labels"]
    assert dict(made.operator_labels).items() <= pod.items()


@pytest.mark.parametrize("release", ["farm", "a-rather-long-release-name-for-a-farm"])
def test_the_chart_finds_the_pool_that_the_operator_makes(helm: Any, release: str) -> None:
    done = helm("template", release, str(CHART), "-n", "astra")
    objects = [document for document in yaml.safe_load_all(done.stdout) if document]
    deployment = _of(objects, "Deployment")["metadata"]["name"]
    owner = identity.Owner("Deployment", deployment, "astra")
    made = pool.Pool(owner=owner, image="i", pull_policy="Never", replicas=1, clients={})
    (test,) = (body for body in objects if body["kind"] == "Pod")
    assert test["spec"]["containers"][0]["command"][-2:] == [made.addresses[0], f"astra/{made.name}"]
    role = next(
        body for body in objects if body["kind"] == "Role" and body["metadata"]["name"] == test["metadata"]["name"]
    )
    assert role["rules"] == [
        {"apiGroups": ["apps"], "resources": ["statefulsets"], "resourceNames": [made.name], "verbs": ["patch"]}
    ], "it wakes the pool, and can do nothing else"
    assert test["spec"]["serviceAccountName"] == role["metadata"]["name"]
    assert {"name": "tls", "secret": {"secretName": made.secret, "defaultMode": 0o440}} in test["spec"]["volumes"]
    egress = _of(objects, "NetworkPolicy")["spec"]["egress"][1]["to"][0]["podSelector"]["matchLabels"]
    assert egress.items() <= owner.labels("sandbox").items()


def _rules(objects: list[Object]) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of all that the operator may do."""
    roles = [
        body for body in objects if body["kind"] in ("Role", "ClusterRole") and "operator" in body["metadata"]["name"]
    ]
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_rights_cover_every_kind_that_the_operator_handles(template: Render) -> None:
    rules = _rules(template())
    kinds = {
        value for module in (kube, identity, job, pool) for value in vars(module).values() if isinstance(value, Kind)
    }
    kinds.add(pool.disruption_budget_kind("policy/v1"))
    for kind in kinds:
        group = kind.api_version.rpartition("/")[0]
        verb = "create" if kind.kind == "Event" else "get"
        assert (group, kind.plural, verb) in rules, kind


def test_rights_are_no_more_than_that(template: Render) -> None:
    rules = _rules(template())
    assert not {verb for _, _, verb in rules} & {"*", "escalate", "bind", "impersonate", "deletecollection"}
    assert not {resource for _, resource, _ in rules} & {
        "*",
        "nodes",
        "namespaces",
        "clusterroles",
        "clusterrolebindings",
    }
    writes = {(group, resource) for group, resource, verb in rules if verb not in ("get", "list", "watch")}
    assert not {verb for group, resource, verb in rules if (group, resource) == ("", "pods")} & {"create", "delete"}
    assert not {resource for group, resource in writes if group == "kueue.x-k8s.io"}
    assert ("", "secrets", "list") not in rules


def test_watched_namespaces_limit_the_rights(template: Render) -> None:
    objects = template({"operator": {"watchNamespaces": ["team-a"]}})
    assert not [body for body in objects if body["kind"] == "ClusterRoleBinding"]
    served = {body["metadata"]["namespace"] for body in objects if body["kind"] == "RoleBinding"}
    assert served == {"team-a", "astra"}


_OF_THE_CLUSTER = {"ClusterRole", "ClusterRoleBinding", "RuntimeClass", "CustomResourceDefinition", "PriorityClass"}


@pytest.mark.parametrize(("watched", "served"), [([], {"astra"}), (["team-a"], {"team-a", "astra"})])
def test_a_namespaced_installation_makes_nothing_of_the_cluster(
    template: Render, watched: list[str], served: set[str]
) -> None:
    everything = copy.deepcopy(EVERYTHING) | {"crds": {"enabled": False}, "runtimeClass": {"create": False}}
    everything["operator"] |= {"scope": "namespace", "watchNamespaces": watched}
    objects = template(everything)
    assert not {body["kind"] for body in objects} & _OF_THE_CLUSTER
    assert {body["metadata"]["namespace"] for body in objects if body["kind"] == "RoleBinding"} == served
    assert {body["metadata"]["namespace"] for body in objects} <= served
    container = _of(objects, "Deployment", "operator")["spec"]["template"]["spec"]["containers"][0]
    (told,) = (each["value"] for each in container["env"] if each["name"] == "ASTRA_WATCH_NAMESPACES")
    assert told == (",".join(watched) or "astra"), "else it would ask for all, and be refused"
    assert _of(objects, "PodMonitor")["spec"]["namespaceSelector"]["matchNames"] == [*watched, "astra"]
    assert [
        body["kind"] for body in template({"operator": {"scope": "namespace"}}) if body["kind"] in _OF_THE_CLUSTER
    ] == ["CustomResourceDefinition"] * 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"operator": {"scope": "namespace"}, "runtimeClass": {"create": True}}, "runtimeClass.create"),
        ({"metrics": {"podMonitor": {"enabled": True}}}, "sandboxes.metricsFrom"),
        ({"tracing": {"endpoint": "http://10.0.0.9:4318"}}, "tracing.peers"),
        ({"tracing": {"peers": [{"podSelector": {}}]}}, "tracing.endpoint"),
    ],
)
def test_values_that_contradict_each_other_are_refused(helm: Any, values: Object, words: str) -> None:
    done = helm("template", "farm", str(CHART), "-f", "-", stdin=yaml.safe_dump(values))
    assert done.returncode != 0
    assert words in done.stderr


def test_the_operator_reaches_the_api_server_at_the_ports_given(template: Render) -> None:
    def ports(values: Object) -> list[int]:
        policy = _of(template(values), "NetworkPolicy", "operator")
        return [each["port"] for each in policy["spec"]["egress"][0]["ports"] if each["port"] != 53]

    assert ports({}) == [443, 6443]
    assert ports({"networkPolicy": {"egressPorts": [16443]}}) == [16443]


def test_a_pod_monitor_finds_the_port_of_sandbox_pods(template: Render) -> None:
    spec = _of(template(EVERYTHING | {"operator": {}}), "PodMonitor")["spec"]
    peers = settings.Monitoring(metrics_from=({"podSelector": {}},))
    owner = identity.Owner("TrainingRun", "tiny", "lab", "u")
    made = pool.pod_template(pool.Pool(owner, "i", "Never", 1, {}, monitoring=peers))
    assert spec["selector"]["matchLabels"].items() <= made["metadata"]["labels"].items()
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint["port"] in [each["name"] for each in made["spec"]["containers"][0]["ports"]]
    assert spec["namespaceSelector"] == {"any": True}


def test_a_digest_counts_before_a_tag(template: Render) -> None:
    digest = f"sha256:{'a' * 64}"
    images = {"registry": "registry.example/team", "tag": "v9", "operator": {"digest": digest}, "synth": {"tag": "v8"}}
    container = _of(template({"images": images}), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == f"registry.example/team/astra-farm-operator@{digest}"
    told = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert told["ASTRA_SYNTH_IMAGE"] == "registry.example/team/astra-farm-synth:v8"
    assert told["ASTRA_SANDBOX_IMAGE"] == "registry.example/team/astra-farm-sandbox:v9"


def test_alerts_and_dashboard_ask_for_metrics_that_exist(template: Render) -> None:
    from prometheus_client import REGISTRY

    import astra_operator.metrics  # noqa: F401  # registers them

    known = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    families = {family.name for family in REGISTRY.collect()}
    known |= families | {f"{name}_total" for name in families} | {f"{name}_bucket" for name in families}
    objects = template(EVERYTHING)
    rules = _of(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    panels = json.loads(_of(objects, "ConfigMap", "dashboard")["data"]["astra-farm.json"])["panels"]
    expressions = [rule["expr"] for rule in rules] + [panel["targets"][0]["expr"] for panel in panels]
    assert len(expressions) > 10
    for expression in expressions:
        for name in re.findall(r"astra_\w+", expression):
            assert name in known, expression


def test_notes_name_what_exists(helm: Any, template: Render) -> None:
    done = helm("install", "farm", str(CHART), "-n", "astra", "--dry-run=client")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    assert "rollout status deployment/farm-astra-farm-operator" in notes
    assert "rollout status statefulset/verify-farm-astra-farm-operator-sandbox" in notes
    for path in re.findall(r"-f (\S+\.yaml)", notes):
        assert (ROOT / path).exists()
