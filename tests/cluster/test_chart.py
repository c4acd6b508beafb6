"""The chart on a real node: installed, tested, upgraded, uninstalled, and installed again over what it left."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import Node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "astra-farm"
RELEASE, NAMESPACE = "charted", "charted-system"
OPERATOR = f"{RELEASE}-astra-farm-operator"
POOL = f"verify-{OPERATOR}-sandbox"


@pytest.fixture(scope="module")
def helm(
    node: Node, image_loader: Callable[..., dict[str, str]], tmp_path_factory: Any
) -> Iterator[Callable[..., str]]:
    image = image_loader("sandbox", "operator")["sandbox"]
    registry, _, rest = image.rpartition("/")
    values = {
        "images": {"registry": registry, "tag": rest.partition(":")[2], "pullPolicy": "IfNotPresent"},
        "operator": {"verifierReplicas": 1, "watchNamespaces": [NAMESPACE]},
    }
    file = tmp_path_factory.mktemp("chart") / "values.yaml"
    file.write_text(yaml.safe_dump(values))

    def run(verb: str, *flags: str) -> str:
        chart = (
            [CHART, "-f", file, *node.helm_flags, "--wait", "--timeout", "8m"] if verb in ("install", "upgrade") else []
        )
        return node.run("helm", verb, RELEASE, *chart, "-n", NAMESPACE, *flags, timeout=600)

    node.kubectl("create", "namespace", NAMESPACE)
    run("install")
    yield run
    node.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    node.forget(RELEASE)


def _pool_serves(node: Node) -> None:
    deadline = time.monotonic() + 300  # until the operator has made it
    while POOL not in node.kubectl("get", "statefulsets", "-n", NAMESPACE, "-o", "name"):
        assert time.monotonic() < deadline, node.kubectl("logs", f"deploy/{OPERATOR}", "-n", NAMESPACE, "--tail=50")
        time.sleep(2)
    node.kubectl("rollout", "status", f"statefulset/{POOL}", "-n", NAMESPACE, "--timeout=400s", timeout=420)


def test_a_tool_is_called_in_a_sandbox(node: Node, helm: Callable[..., str]) -> None:
    _pool_serves(node)
    assert "Succeeded" in helm("test", "--timeout", "5m", "--logs")
    assert node.get("pod", f"{POOL}-0", "-n", NAMESPACE)["spec"]["runtimeClassName"] == "gvisor"


def test_the_operator_has_the_rights_that_it_needs_and_no_more(node: Node, helm: Callable[..., str]) -> None:
    _pool_serves(node)
    log = node.kubectl("logs", f"deployment/{OPERATOR}", "-n", NAMESPACE)
    assert "orbidden" not in log
    account = f"--as=system:serviceaccount:{NAMESPACE}:astra-farm-operator"

    def can(verb: str, resource: str, namespace: str) -> bool:
        command = ["kubectl", "auth", "can-i", verb, resource, "-n", namespace, account]
        try:
            return node.run(*command).strip() == "yes"
        except AssertionError:  # exit code 1: no
            return False

    assert can("create", "environments.astra.farm", NAMESPACE)
    assert not can("create", "environments.astra.farm", "default")  # it serves one namespace
    assert not can("get", "secrets", "kube-system")
    assert not can("delete", "pods", NAMESPACE)
    assert not can("create", "clusterrolebindings.rbac.authorization.k8s.io", NAMESPACE)


def test_viewers_read_and_editors_write(node: Node, helm: Callable[..., str]) -> None:
    for role, may in (("view", False), ("edit", True)):
        name, subject = f"test-{role}", f"{NAMESPACE}:{role}er"
        node.kubectl(
            "create", "rolebinding", name, f"--clusterrole={role}", f"--serviceaccount={subject}", "-n", NAMESPACE
        )
        account = f"--as=system:serviceaccount:{subject}"
        node.kubectl("get", "astra", "-n", NAMESPACE, account)
        body = yaml.safe_load((ROOT / "examples/environments/city-trip.yaml").read_text())
        arguments = ("create", "-n", NAMESPACE, account, "--dry-run=server", "-f", "-")
        if may:
            node.kubectl(*arguments, stdin=yaml.safe_dump(body))
        else:
            with pytest.raises(AssertionError, match="forbidden"):
                node.kubectl(*arguments, stdin=yaml.safe_dump(body))


def test_upgrade_then_uninstall_keeps_definitions_and_objects(node: Node, helm: Callable[..., str]) -> None:
    _pool_serves(node)
    node.kubectl("apply", "--server-side", "-n", NAMESPACE, "-f", ROOT / "examples/environments/city-trip.yaml")
    helm("upgrade", "--set", "operator.replicas=2")
    assert node.get("deployment", OPERATOR, "-n", NAMESPACE)["status"]["readyReplicas"] == 2
    assert node.get("pdb", OPERATOR, "-n", NAMESPACE)["spec"]["minAvailable"] == 1
    node.kubectl("wait", "env/city-trip", "-n", NAMESPACE, "--for=condition=Verified", "--timeout=200s", timeout=220)
    helm("uninstall", "--wait")
    assert node.kubectl("get", "env", "-n", NAMESPACE, "-o", "name").split() == ["environment.astra.farm/city-trip"]
    deadline = time.monotonic() + 120
    while POOL in node.kubectl("get", "statefulsets", "-n", NAMESPACE, "-o", "name"):
        assert time.monotonic() < deadline, "the verification pool outlived the operator"
        time.sleep(1)
    left = node.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert RELEASE not in left
    helm("install")  # over the definitions that stayed
    _pool_serves(node)
    helm("uninstall", "--wait")
