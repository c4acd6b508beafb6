"""The whole farm on real pods under gVisor: chart, operator, synthesis, training, and what sandboxes keep out."""

import base64
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import Node
from operators import eventually
from standin import kube_of

from astra_api.kube import CONFIG_MAP, ENVIRONMENT, POD, SECRET, SYNTHESIS_RUN, TRAINING_RUN, Kube
from astra_api.records import Toolset, ToolSpec
from astra_operator.manifests.identity import MANAGED
from astra_operator.manifests.job import CLAIM, JOB, RBAC_ROLE, ROLE_BINDING, SERVICE_ACCOUNT
from astra_operator.manifests.pool import NETWORK_POLICY, SERVICE, STATEFUL_SET
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.interface import Isolation, SandboxUnavailable
from astra_sandbox.link import ClientTls

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
RELEASE, SYSTEM, LAB = "farm", "astra-system", "lab"
OPERATOR = "farm-astra-farm-operator"
VERIFIER = f"verify-{OPERATOR}"
TAG = "test"
OWNED = (
    CONFIG_MAP,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    NETWORK_POLICY,
    JOB,
    CLAIM,
    SERVICE_ACCOUNT,
    RBAC_ROLE,
    ROLE_BINDING,
    POD,
)

# tried in a session, and (to show that it can succeed) in the sandbox pod itself, outside of any session
PROBE = """
import os, socket

def probe(targets: list) -> dict:
    found = {}
    for target in targets:
        host, port = target.rsplit(":", 1)
        try:
            with socket.create_connection((host, int(port)), timeout=3):
                found[target] = "reached"
        except OSError as error:
            found[target] = type(error).__name__
    return found

def look() -> dict:
    return {
        "kernel": os.uname().release,
        "files": sorted(os.listdir("/")),
        "keys": os.path.exists("/etc/astra/tls"),
        "token": os.path.exists("/var/run/secrets"),
        "user": os.getuid(),
    }
"""
TOOLS = Toolset(
    tools=(
        ToolSpec(name="probe", description="", parameters={"type": "object"}),
        ToolSpec(name="look", description="", parameters={"type": "object"}),
    ),
    source=PROBE,
)


@pytest.fixture(scope="module")
def kube(node: Node) -> Kube:
    return kube_of(node)


@pytest.fixture(scope="module")
def farm(node: Node, kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The chart, installed; gives the folder behind the volume of the runs."""
    if node.kit is not None:
        _load_images(node)
    values = {
        "images": {"tag": TAG, "pullPolicy": "Never", "registry": "docker.io/library"},
        "runtimeClass": {"create": False},
        "operator": {"replicas": 2},
    }
    file = tmp_path_factory.mktemp("chart") / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    chart = ROOT / "helm" / "astra-farm"
    old = ("--server-side=false", "--disable-openapi-validation")  # drop the rules that an old server does not know
    flags = ("-n", SYSTEM, "--create-namespace", *(() if node.has_cel else old))
    node.run("helm", "install", RELEASE, chart, *flags, "-f", file, timeout=300)
    node.kubectl("create", "namespace", LAB)
    volume = Path(f"/tmp/astra-volume-{os.getpid()}")
    node.inside("/bin/sh", "-c", f"mkdir -p {volume} && chmod 777 {volume}")
    node.apply(*_volume(volume))
    eventually(lambda: _ready(kube, SYSTEM, VERIFIER) == 2, 600, every=2, what=lambda: _state(node))
    yield volume
    node.kubectl("delete", "namespace", LAB, "--wait=false")
    node.kubectl("delete", "persistentvolume", "runs", "--wait=false")
    node.run("helm", "uninstall", RELEASE, "-n", SYSTEM, "--wait", timeout=300)
    eventually(lambda: not list(kube.list(STATEFUL_SET, SYSTEM)), 120, what="the verification pool outlived the chart")
    node.forget(RELEASE)


def _load_images(node: Node) -> None:
    assert node.kit is not None
    home = Path(os.environ.get("ASTRA_CLUSTER_HOME", Path.home() / ".cache" / "astra-cluster"))
    command = [
        sys.executable,
        str(ROOT / "images" / "build.py"),
        "rootfs",
        "--tag",
        TAG,
        "--out",
        str(home / "astra-farm"),
    ]
    command += ["--base", str(home / "images" / "py"), "--mkimage", str(node.kit / "mkimage.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for archive in done.stdout.split():
        node.load_image(Path(archive))


def _volume(folder: Path) -> list[dict[str, Any]]:
    volume = {
        "capacity": {"storage": "10Gi"},
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "by-hand",
        "hostPath": {"path": str(folder)},
    }
    claim = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "by-hand",
        "volumeName": "runs",
        "resources": {"requests": {"storage": "10Gi"}},
    }
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "runs"}, "spec": volume},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "runs", "namespace": LAB},
            "spec": claim,
        },
    ]


def test_from_manifests_to_a_checkpoint_with_the_operator_killed_all_the_time(
    node: Node, kube: Kube, farm: Path
) -> None:
    synthesis = _example("synthesis/small.yaml", {})
    node.apply(synthesis)
    _wait_phase(node, kube, SYNTHESIS_RUN, "small", "Succeeded", 1500)
    eventually(lambda: _phases(kube) == ["Verified"] * 16, 600, every=3, what=lambda: _phases(kube))
    training = _example(
        "train-tiny.yaml",
        {
            "sft": {"epochs": 4},
            "rl": {"steps": 2, "batchSize": 4, "groupSize": 2, "maxTurns": 2},
            "sandboxes": {"replicas": 2, "minimumIsolation": "gvisor", "requireNetworkIsolation": False},
            "checkpoint": {"claimName": "runs"},
        },
    )
    strict = json.loads(json.dumps(training))
    strict["metadata"]["name"] = "strict"
    del strict["spec"]["sandboxes"]["requireNetworkIsolation"]
    node.apply(training, strict)
    jobs, kills, rng = set(), 0, random.Random(7)
    deadline = time.monotonic() + 1800
    while _status(kube, TRAINING_RUN, "tiny").get("phase") != "Succeeded":
        assert time.monotonic() < deadline, _state(node)
        if kills < 10:
            time.sleep(rng.uniform(1, 12))
            _kill_the_operator(node, kube)
            kills += 1
        time.sleep(1)
        jobs |= {
            job["metadata"]["uid"] for job in kube.list(JOB, LAB, MANAGED) if job["metadata"]["name"] == "train-tiny"
        }
        assert _status(kube, TRAINING_RUN, "tiny").get("phase") != "Failed", _state(node)
    assert len(jobs) == 1, "one Job, however often the operator died"
    assert kills >= 5
    status = _status(kube, TRAINING_RUN, "tiny")
    assert status["lastCheckpoint"] == "checkpoints/rl-2"
    assert (status["stage"], status["step"], status["totalSteps"]) == ("rl", 2, 2)
    assert "model.safetensors" in node.inside("/bin/ls", farm / "tiny" / "checkpoints" / "rl-2")
    assert "containment: gvisor" in node.inside("/bin/cat", farm / "tiny" / "run.yaml")
    _check_that_the_network_is_called_what_it_is(kube)
    node.kubectl("delete", "trainingrun", "tiny", "strict", "-n", LAB)
    node.kubectl("delete", "synthesisrun", "small", "-n", LAB)
    node.kubectl("delete", "environment", "-l", "astra.farm/synthesis-run=small", "-n", LAB)
    eventually(lambda: not _owned(kube), 300, every=2, what=lambda: _owned(kube))
    assert not list(kube.list(ENVIRONMENT, LAB))


def _check_that_the_network_is_called_what_it_is(kube: Kube) -> None:
    """The kit's network stores policies and enforces none: the strict run says so and does not run."""
    found = _condition(kube, TRAINING_RUN, "strict", "NetworkIsolated")
    assert (found["status"], found["reason"]) == ("False", "EgressOpen")
    assert "API server" in found["message"]
    assert _status(kube, TRAINING_RUN, "strict")["phase"] == "Provisioning"
    assert kube.get(JOB, LAB, "train-strict") is None


async def test_a_session_is_under_gvisor_and_reaches_nothing(node: Node, kube: Kube, farm: Path) -> None:
    pods = [pod for pod in kube.list(POD, SYSTEM, MANAGED) if pod["metadata"]["name"].startswith(VERIFIER)]
    mine, neighbour = sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))[:2]
    service = kube.get(SERVICE, "default", "kubernetes") or {}
    targets = [
        f"{service['spec']['clusterIP']}:443",  # the API server
        f"{mine['status']['hostIP']}:6443",  # the node
        f"{neighbour['status']['podIP']}:50051",  # another sandbox pod
        f"{mine['status']['podIP']}:50051",  # its own server, over the network
    ]
    outside = node.kubectl(
        "exec", "-i", mine["metadata"]["name"], "-n", SYSTEM, "-c", "sandbox", "--", "python", "-",
        stdin=f"{PROBE}\nimport json\nprint(json.dumps(probe({targets!r})))",
    )  # fmt: skip
    assert set(json.loads(outside).values()) == {"reached"}, "the probe can succeed: it does outside of a session"
    client = _client(node, kube, SYSTEM, VERIFIER, mine)
    try:
        (status,) = await client.status()
        assert status.isolation is Isolation.GVISOR
        assert not [measure for measure in status.measures if measure.startswith("no seccomp")]
        (session,) = await client.open_sessions(TOOLS, 1)
        inside = json.loads((await session.call("probe", json.dumps({"targets": targets}))).observation())
        assert "reached" not in inside.values()
        seen = json.loads((await session.call("look", "{}")).observation())
        await session.close()
    finally:
        await client.close()
    assert seen["kernel"].startswith("4.4.0"), "gVisor's kernel, not the node's"
    assert os.uname().release != seen["kernel"]
    assert not seen["keys"], "the server's key is out of sight"
    assert not seen["token"]
    assert {"etc", "tmp", "proc"}.isdisjoint(seen["files"])


async def test_another_runs_certificate_is_refused(node: Node, kube: Kube, farm: Path) -> None:
    node.apply(_environment("own", replicas=1))
    eventually(
        lambda: _condition(kube, ENVIRONMENT, "own", "Ready").get("reason") == "Serving", 600, every=2,
        what=lambda: _state(node),
    )  # fmt: skip
    (pod,) = [pod for pod in kube.list(POD, LAB, MANAGED) if pod["metadata"]["name"] == "env-own-sandbox-0"]
    own = _client(node, kube, LAB, "env-own", pod)
    (session,) = await own.open_sessions(TOOLS, 1)  # the door works for the right key
    await session.close()
    await own.close()
    stranger = _client(node, kube, SYSTEM, VERIFIER, pod)
    with pytest.raises(SandboxUnavailable):
        await stranger.open_sessions(TOOLS, 1)
    await stranger.close()
    node.kubectl("delete", "environment", "own", "-n", LAB)
    eventually(lambda: not _owned(kube), 300, every=2, what=lambda: _owned(kube))


def test_five_hundred_environments_under_gvisor(node: Node, kube: Kube, farm: Path) -> None:
    count = 500
    before = _writes(node, kube)
    began = time.monotonic()
    for start in range(0, count, 50):
        node.apply(*(_environment(f"city-{number:03}", number) for number in range(start, start + 50)))
    eventually(lambda: _phases(kube).count("Verified") == count, 300, every=3, what=lambda: _phases(kube)[:5])
    seconds = time.monotonic() - began
    writes = _writes(node, kube) - before
    print(f"\n{count} environments under gVisor: {seconds:.0f} s, {writes / count:.2f} writes each")
    assert seconds < 300
    assert writes <= 3 * count


def _writes(node: Node, kube: Kube) -> float:
    script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
    total = 0.0
    for pod in _operators(kube):
        text = node.kubectl("exec", pod["metadata"]["name"], "-n", SYSTEM, "--", "python", "-c", script)
        lines = [line for line in text.splitlines() if line.startswith("astra_operator_writes_total")]
        total += sum(float(line.rsplit(" ", 1)[1]) for line in lines if '"Environment"' in line or '"Event"' in line)
    return total


def _client(node: Node, kube: Kube, namespace: str, base: str, pod: dict[str, Any]) -> SandboxClient:
    """Of one pod, with the certificates of pool `base`; the server is expected to be what `pod` should be."""
    data = (kube.get(SECRET, namespace, f"{base}-tls") or {})["data"]
    certificate, key, authority = (base64.b64decode(data[name]) for name in ("client.crt", "client.key", "ca.crt"))
    pool = pod["metadata"]["name"].rsplit("-", 1)[0]
    name = f"{pool}.{pod['metadata']['namespace']}.svc"
    port = node.forward(pod["status"]["podIP"], 50051)
    return SandboxClient([f"127.0.0.1:{port}"], ClientTls(certificate, key, authority, name), retry=Retry(budget=15))


def _kill_the_operator(node: Node, kube: Kube) -> None:
    """The one that holds the Lease, without a word."""
    for pod in _operators(kube):
        node.kubectl(
            "delete", "pod", pod["metadata"]["name"], "-n", SYSTEM, "--force", "--grace-period=0", "--wait=false"
        )


def _operators(kube: Kube) -> list[dict[str, Any]]:
    return list(kube.list(POD, SYSTEM, "app.kubernetes.io/component=operator", "status.phase=Running"))


def _example(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A manifest of examples/ for namespace lab; `changes` make it fit a small node."""
    body: dict[str, Any] = yaml.safe_load((ROOT / "examples" / name).read_text())
    body["metadata"]["namespace"] = LAB
    for field, change in changes.items():
        body["spec"][field] = {**body["spec"].get(field, {}), **change}
    return json.loads(json.dumps(body).replace('"3e-3"', "0.003").replace('"2e-4"', "0.0002"))  # as kubectl reads it


def _environment(name: str, number: int = 0, replicas: int = 0) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "environments" / "city-trip.yaml").read_text())
    body["metadata"] = {"name": name, "namespace": LAB}
    body["spec"]["question"] += f" ({number})"
    body["spec"]["source"] += f"\n_NUMBER = {number}\n"
    body["spec"]["sandbox"] = {"replicas": replicas}
    return body


def _status(kube: Kube, kind: Any, name: str) -> dict[str, Any]:
    return (kube.get(kind, LAB, name) or {}).get("status") or {}


def _condition(kube: Kube, kind: Any, name: str, of: str) -> dict[str, Any]:
    conditions = _status(kube, kind, name).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == of), {})


def _wait_phase(node: Node, kube: Kube, kind: Any, name: str, phase: str, seconds: float) -> None:
    eventually(lambda: _status(kube, kind, name).get("phase") == phase, seconds, every=2, what=lambda: _state(node))


def _phases(kube: Kube) -> list[str]:
    return [(body.get("status") or {}).get("phase", "") for body in kube.list(ENVIRONMENT, LAB)]


def _ready(kube: Kube, namespace: str, base: str) -> int:
    found = kube.get(STATEFUL_SET, namespace, f"{base}-sandbox") or {}
    return int((found.get("status") or {}).get("readyReplicas") or 0)


def _owned(kube: Kube) -> list[str]:
    return [f"{kind.kind} {item['metadata']['name']}" for kind in OWNED for item in kube.list(kind, LAB, MANAGED)]


def _state(node: Node) -> str:
    pods = node.kubectl("get", "pods", "-A", "-o", "wide")
    runs = node.kubectl("get", "trainingruns,synthesisruns", "-n", LAB, "-o", "yaml")
    logs = node.kubectl("logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator", "--tail=30")
    warnings = node.kubectl("get", "events", "-A", "--field-selector=type=Warning", "--sort-by=.lastTimestamp")
    return f"{pods}\n{runs[-6000:]}\n{logs}\n{warnings[-4000:]}"
