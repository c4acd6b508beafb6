"""The whole farm on real pods under gVisor: chart, operator, synthesis, training, and what sandboxes keep out."""

import asyncio
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

from astra_api.environment import Environment
from astra_api.kube import CONFIG_MAP, ENVIRONMENT, POD, SECRET, SYNTHESIS_RUN, TRAINING_RUN, Kube
from astra_api.manifests import load_manifests
from astra_api.records import Toolset, ToolSpec
from astra_operator.accepting import read
from astra_operator.manifests.identity import MANAGED
from astra_operator.manifests.job import CLAIM, JOB, RBAC_ROLE, ROLE_BINDING, SERVICE_ACCOUNT
from astra_operator.manifests.pool import NETWORK_POLICY, SERVICE, STATEFUL_SET
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.interface import Isolation, SandboxUnavailable
from astra_sandbox.link import ClientTls

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
ASTRA = Path(sys.executable).with_name("astra")
SCRIPT = ROOT / "tests" / "synth" / "scripted_teacher.py"
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
    flags = ("-n", SYSTEM, "--create-namespace", *node.helm_flags)
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
    alone = min(body["metadata"]["name"] for body in kube.list(ENVIRONMENT, LAB))
    apart = json.dumps({"spec": {"sandbox": {"isolation": "pod", "replicas": 1}}})
    node.kubectl("patch", "environment", alone, "--type=merge", "-p", apart, "-n", LAB)
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
    _check_that_rollouts_went_to_the_pod_of(node, kube, alone)
    _check_that_the_network_is_called_what_it_is(kube)
    node.kubectl("delete", "trainingrun", "tiny", "strict", "-n", LAB)
    node.kubectl("delete", "synthesisrun", "small", "-n", LAB)
    node.kubectl("delete", "environment", "-l", "astra.farm/synthesis-run=small", "-n", LAB)
    eventually(lambda: not _owned(kube), 300, every=2, what=lambda: _owned(kube))
    assert not list(kube.list(ENVIRONMENT, LAB))


def _check_that_rollouts_went_to_the_pod_of(node: Node, kube: Kube, name: str) -> None:
    """Nobody but the trainer ever talks to it."""
    (pool,) = [pod for pod in kube.list(POD, LAB, MANAGED) if _owner_of(pod) == f"Environment/{name}"]

    async def toolsets() -> int:
        client = _client(node, kube, LAB, pool["metadata"]["name"].removesuffix("-sandbox-0"), pool)
        try:
            (status,) = await client.status()
        finally:
            await client.close()
        return status.toolsets

    assert asyncio.run(toolsets()) == 1


def _owner_of(pod: dict[str, Any]) -> str:
    return str((pod["metadata"].get("annotations") or {}).get("astra.farm/owned-by"))


def _check_that_the_network_is_called_what_it_is(kube: Kube) -> None:
    """The kit's network stores policies and enforces none: the strict run says so and does not run."""
    found = _condition(kube, TRAINING_RUN, "strict", "NetworkIsolated")
    assert (found["status"], found["reason"]) == ("False", "EgressOpen")
    assert "API server" in found["message"]
    assert _status(kube, TRAINING_RUN, "strict")["phase"] == "Provisioning"
    assert kube.get(JOB, LAB, "train-strict") is None


def test_a_teacher_makes_on_a_cluster_what_it_makes_here(node: Node, kube: Kube, farm: Path, tmp_path: Path) -> None:
    """The Job, killed on its way, creates the environments that `astra synth -f` writes on this machine."""
    seeds = "".join(
        json.dumps({"domain": "harbours", "text": f"The register of Port-{number:04d}."}) + "\n" for number in range(12)
    )
    (tmp_path / "seeds.jsonl").write_text(seeds)
    out = _synthesized_here(tmp_path)
    node.inside("/bin/sh", "-c", f"cat > {farm}/seeds.jsonl", stdin=seeds)
    node.apply(*_teacher_objects(), _taught(f"http://teacher.{LAB}.svc:8123/v1"))
    try:
        eventually(lambda: _status(kube, SYNTHESIS_RUN, "harbours").get("produced"), 300, what=lambda: _state(node))
        killed = _workers_of_synthesis(kube)
        node.kubectl("delete", "pod", *killed, "-n", LAB, "--force", "--grace-period=0")
        _check_rights_of_synthesis(node)
        _wait_phase(node, kube, SYNTHESIS_RUN, "harbours", "Succeeded", 300)
        eventually(lambda: set(_phases(kube)) == {"Verified"}, 300, every=2, what=lambda: _state(node))
        assert killed
        assert _workers_of_synthesis(kube) - killed, "it was killed before it was done"
        written = [manifest.resource for manifest in load_manifests([out / "environments"])]
        made = [read(Environment, body) for body in kube.list(ENVIRONMENT, LAB)]
        assert {one.name: one.digest for one in made} == {one.name: one.digest for one in written}
        assert len(made) == TAUGHT
        for one in made:
            assert one.metadata.labels.pop("astra.farm/synthesis-run") == "harbours"
        assert {one.name: one.metadata.labels for one in made} == {one.name: one.metadata.labels for one in written}
        status, here = _status(kube, SYNTHESIS_RUN, "harbours"), json.loads((out / "status.json").read_text())
        assert status["rejectedBy"] == here["rejectedBy"] == {"CyclicTopology": 1}
        answers = node.inside("/bin/sh", "-c", f"cd {farm}/harbours/teacher && ls */*.json").split()
        kept = {str(file.relative_to(out / "teacher")) for file in (out / "teacher").glob("*/*.json")}
        assert set(answers) == kept, "the same questions, each asked once however often the Job began"
    finally:
        node.kubectl("delete", "synthesisrun", "harbours", "-n", LAB)
        node.kubectl("delete", "environment", "-l", "astra.farm/synthesis-run=harbours", "-n", LAB)
        node.kubectl("delete", "pod,service,configmap,secret", "teacher", "-n", LAB, "--grace-period=1")
    eventually(lambda: not _owned(kube), 300, every=2, what=lambda: _owned(kube))


TAUGHT = 4
_KEY, _FAULT = "of-the-teacher", "1=cyclic"


def _taught(url: str) -> dict[str, Any]:
    source = {"type": "knowledge", "path": "seeds.jsonl", "languages": ["en", "de", "zh"], "statefulShare": 0.25}
    key = {"name": "teacher", "key": "api-key"}
    spec = {
        "count": TAUGHT,
        "seed": 5,
        "teacher": {"baseUrl": url, "model": "scripted", "apiKeySecret": key, "concurrency": 2},
        "environments": {"source": source, "hops": {"min": 1, "max": 4}, "labels": {"set": "taught"}},
        "volume": {"claimName": "runs"},
    }
    metadata = {"name": "harbours", "namespace": LAB}
    return {"apiVersion": "astra.farm/v1alpha1", "kind": "SynthesisRun", "metadata": metadata, "spec": spec}


def _synthesized_here(folder: Path) -> Path:
    """The output of the run on this machine, whose teacher answers at another address."""
    script = [sys.executable, str(SCRIPT), "--port", "0", "--key", _KEY, "--fault", _FAULT]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as teacher:
        assert teacher.stdout is not None
        try:
            (folder / "run.yaml").write_text(json.dumps(_taught(teacher.stdout.readline().strip())))
            command = [ASTRA, "synth", "-f", folder / "run.yaml", "--out", folder / "out"]
            environment = {**os.environ, "ASTRA_TEACHER_API_KEY": _KEY}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        finally:
            teacher.terminate()
    assert done.returncode == 0, done.stderr
    return folder / "out"


def _teacher_objects() -> list[dict[str, Any]]:
    """The scripted teacher as a pod, its Service and the Secret with its key."""
    metadata = {"name": "teacher", "namespace": LAB}
    command = ["python", "/script/teacher.py", "--host=0.0.0.0", "--port=8123", "--latency=0.3"]
    container = {
        "name": "teacher",
        "image": f"docker.io/library/astra-farm-synth:{TAG}",
        "imagePullPolicy": "Never",
        "command": [*command, f"--key={_KEY}", f"--fault={_FAULT}"],
        "volumeMounts": [{"name": "script", "mountPath": "/script"}],
    }
    pod = {"containers": [container], "volumes": [{"name": "script", "configMap": {"name": "teacher"}}]}
    service = {"selector": {"app": "teacher"}, "ports": [{"port": 8123, "protocol": "TCP"}]}
    script = {"teacher.py": SCRIPT.read_text()}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": script},
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"api-key": _KEY}},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "labels": {"app": "teacher"}}, "spec": pod},
    ]


def _workers_of_synthesis(kube: Kube) -> set[str]:
    return {pod["metadata"]["name"] for pod in kube.list(POD, LAB, "job-name=synth-harbours")}


def _check_rights_of_synthesis(node: Node) -> None:
    def may(verb: str, what: str, *arguments: str) -> bool:
        account = f"--as=system:serviceaccount:{LAB}:synth-harbours"
        try:
            return node.kubectl("auth", "can-i", verb, what, *arguments, account, "-n", LAB).strip() == "yes"
        except AssertionError:  # exit code 1: no
            return False

    assert may("create", "environments.astra.farm")
    assert may("patch", "synthesisruns.astra.farm/harbours", "--subresource=status")
    assert not may("patch", "synthesisruns.astra.farm/other", "--subresource=status")
    for verb in ("get", "list", "update", "patch", "delete"):
        assert not may(verb, "environments.astra.farm")
    for kind in ("secrets", "configmaps", "pods", "jobs.batch"):
        assert not may("get", kind)
        assert not may("create", kind)


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


def test_many_environments_under_gvisor(node: Node, kube: Kube, farm: Path) -> None:
    count = 100
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
