"""The operator against a real API server and real controllers; a stand-in plays the kubelet."""

import random
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from clusters import Cluster
from labs import Lab, city, run_spec
from operators import RunningOperator, eventually
from standin import ended, kube_of

from astra_api.kube import ENVIRONMENT, SYNTHESIS_RUN, TRAINING_RUN, Kube, KubeError
from astra_operator.manifests.identity import MANAGED
from astra_operator.manifests.job import JOB, RBAC_ROLE
from astra_operator.manifests.pool import NETWORK_POLICY, STATEFUL_SET


def test_environments_are_verified_rejected_mended_and_changed(lab: Lab) -> None:
    lab.make(ENVIRONMENT, "good", city())
    wrong = city(1)
    wrong["steps"][0]["answer"] = 1
    lab.make(ENVIRONMENT, "wrong", wrong)
    refers = {key: value for key, value in city(3).items() if key != "source"}
    lab.make(ENVIRONMENT, "refers", refers | {"sourceRef": {"configMap": "tools", "key": "a.py"}})
    lab.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "tools", "namespace": lab.namespace},
            "data": {"a.py": city()["source"]},
        }
    )
    lab.wait_phase(ENVIRONMENT, "good", "Verified")
    lab.wait_phase(ENVIRONMENT, "refers", "Verified")
    lab.wait_phase(ENVIRONMENT, "wrong", "Rejected")
    assert lab.condition(ENVIRONMENT, "wrong", "Verified")["reason"] == "GoldMismatch"
    assert any("spec.steps[0].call" in event for event in lab.events("wrong"))
    lab.change(ENVIRONMENT, "wrong", {"steps": city(1)["steps"]})
    lab.wait_phase(ENVIRONMENT, "wrong", "Verified")
    before = lab.status(ENVIRONMENT, "good")["digest"]
    lab.change(ENVIRONMENT, "good", {"question": "How many fewer people live in the smaller of Paris and Rome?"})
    eventually(lambda: lab.status(ENVIRONMENT, "good").get("digest") != before)
    lab.wait_phase(ENVIRONMENT, "good", "Verified")
    annotations = (lab.kube.get(ENVIRONMENT, lab.namespace, "good") or {})["metadata"].get("annotations") or {}
    assert annotations == {}, "nothing is kept on the object beside its status"


def test_dedicated_replicas_come_and_go(lab: Lab) -> None:
    lab.make(ENVIRONMENT, "own", city() | {"sandbox": {"replicas": 2}})
    eventually(lambda: lab.condition(ENVIRONMENT, "own", "Ready").get("reason") == "Serving", 180)
    assert lab.status(ENVIRONMENT, "own")["endpoint"] == f"env-own-sandbox.{lab.namespace}.svc:50051"
    assert len([pod for pod in lab.kubelet.pods("sandbox") if pod["metadata"]["name"].startswith("env-own")]) == 2
    lab.change(ENVIRONMENT, "own", {"sandbox": {"replicas": 0}})
    eventually(lambda: not lab.made(), 120, what=lab.made)
    assert lab.condition(ENVIRONMENT, "own", "Ready")["reason"] == "Shared"
    assert "endpoint" not in lab.status(ENVIRONMENT, "own")


def test_a_training_run_from_beginning_to_deletion(lab: Lab) -> None:
    lab.make(TRAINING_RUN, "tiny", run_spec())
    eventually(lambda: lab.condition(TRAINING_RUN, "tiny", "EnvironmentsReady").get("reason") == "NoneVerified")
    assert lab.status(TRAINING_RUN, "tiny")["phase"] == "Pending"
    assert not lab.made(), "nothing is held while it waits"
    lab.make(ENVIRONMENT, "city", city())
    eventually(lambda: lab.kube.get(JOB, lab.namespace, "train-tiny"), 180, what=lambda: lab.operator.log[-2000:])
    eventually(lambda: lab.condition(TRAINING_RUN, "tiny", "NetworkIsolated").get("status") == "True")
    _check_rights(lab)
    lab.change(TRAINING_RUN, "tiny", {"suspend": True})
    lab.wait_phase(TRAINING_RUN, "tiny", "Suspended")
    assert lab.kube.get(JOB, lab.namespace, "train-tiny") is None
    eventually(lambda: not [p for p in lab.kubelet.pods("sandbox") if p["metadata"]["name"].startswith("train-")])
    lab.change(TRAINING_RUN, "tiny", {"suspend": False})
    eventually(lambda: lab.kube.get(JOB, lab.namespace, "train-tiny"), 180)
    # what somebody else changed is put right
    lab.kube.delete(NETWORK_POLICY, lab.namespace, "train-tiny-sandbox")
    lab.cluster.kubectl("scale", "statefulset", "train-tiny-sandbox", "--replicas=3", "-n", lab.namespace)
    eventually(lambda: _replicas(lab) == 1)
    eventually(lambda: lab.kube.get(NETWORK_POLICY, lab.namespace, "train-tiny-sandbox"))
    lab.kubelet.job_says = ended(0)
    lab.wait_phase(TRAINING_RUN, "tiny", "Succeeded")
    eventually(lambda: _replicas(lab) == 0)
    lab.kube.delete(TRAINING_RUN, lab.namespace, "tiny")
    eventually(lambda: not lab.made(), 180, what=lab.made)


def _replicas(lab: Lab) -> int:
    return int((lab.kube.get(STATEFUL_SET, lab.namespace, "train-tiny-sandbox") or {})["spec"]["replicas"])


def _check_rights(lab: Lab) -> None:
    def may(verb: str, what: str, *arguments: str) -> bool:
        account = f"system:serviceaccount:{lab.namespace}:train-tiny"
        with suppress(AssertionError):
            return "yes" in lab.cluster.kubectl(
                "auth", "can-i", verb, what, *arguments, f"--as={account}", "-n", lab.namespace
            )
        return False

    assert may("list", "environments.astra.farm")
    assert may("patch", "trainingruns.astra.farm/tiny", "--subresource=status")
    assert not may("patch", "trainingruns.astra.farm/other", "--subresource=status")
    assert not may("patch", "environments.astra.farm")
    for secret in ("secrets", "configmaps", "pods"):
        assert not may("get", secret)


def test_a_trainer_that_fails_is_tried_again_then_the_run_fails_with_its_words(lab: Lab) -> None:
    lab.make(ENVIRONMENT, "city", city())
    lab.kubelet.job_says = ended(1, "SandboxUnavailable: no server answered")
    lab.make(TRAINING_RUN, "tiny", run_spec(trainer={"retries": 1}))
    lab.wait_phase(TRAINING_RUN, "tiny", "Failed", 300)
    failed = lab.condition(TRAINING_RUN, "tiny", "Failed")
    assert failed["reason"] == "RetriesExhausted"
    assert "no server answered" in failed["message"]
    assert len(lab.kubelet.pods("trainer")) == 2, "the first try and one more; they stay, to be read"


def test_bad_input_fails_at_once(lab: Lab) -> None:
    lab.make(ENVIRONMENT, "city", city())
    lab.kubelet.job_says = ended(2, "error: spec.model: no such folder")
    lab.make(TRAINING_RUN, "tiny", run_spec())
    lab.wait_phase(TRAINING_RUN, "tiny", "Failed")
    assert lab.condition(TRAINING_RUN, "tiny", "Failed")["reason"] == "BadInput"
    tried = len(lab.kubelet.pods("trainer"))
    assert tried <= 2, "a second try may begin where a busy operator takes ten seconds to notice"
    time.sleep(15)  # a Job's first try again comes after 10 s
    assert len(lab.kubelet.pods("trainer")) == tried
    assert (lab.kube.get(JOB, lab.namespace, "train-tiny") or {})["spec"]["parallelism"] == 0


def test_a_network_that_enforces_nothing_stops_the_run(lab: Lab) -> None:
    lab.kubelet.isolated = False
    lab.make(ENVIRONMENT, "city", city())
    lab.make(TRAINING_RUN, "strict", run_spec())
    lab.make(TRAINING_RUN, "lax", run_spec(sandboxes={"replicas": 1, "requireNetworkIsolation": False}))
    eventually(lambda: lab.kube.get(JOB, lab.namespace, "train-lax"), 180)
    eventually(lambda: lab.condition(TRAINING_RUN, "strict", "NetworkIsolated").get("reason") == "EgressOpen")
    assert lab.condition(TRAINING_RUN, "lax", "NetworkIsolated")["reason"] == "EgressOpen"
    time.sleep(3)
    assert lab.kube.get(JOB, lab.namespace, "train-strict") is None
    assert any("EgressOpen" in event for event in lab.events("strict"))


def test_a_synthesis_run_has_a_job_that_may_create_environments_and_nothing_else(lab: Lab) -> None:
    spec = {"count": 2, "environments": {"source": {"type": "tables", "pack": "geography"}}}
    lab.make(SYNTHESIS_RUN, "geo", spec)
    eventually(lambda: lab.kube.get(JOB, lab.namespace, "synth-geo"), 180)
    (role,) = [role for role in lab.kube.list(RBAC_ROLE, lab.namespace, MANAGED)]
    assert [rule["verbs"] for rule in role["rules"]] == [["create"], ["patch"]]
    lab.wait_phase(SYNTHESIS_RUN, "geo", "Running")
    lab.kubelet.job_says = ended(0)
    lab.wait_phase(SYNTHESIS_RUN, "geo", "Succeeded")


def test_an_operator_killed_at_random_moments_loses_and_doubles_nothing(lab: Lab) -> None:
    rng = random.Random(3)
    lab.make(ENVIRONMENT, "city", city())
    lab.make(TRAINING_RUN, "tiny", run_spec(sandboxes={"replicas": 2}))
    jobs = set()
    for _ in range(5):
        time.sleep(rng.uniform(0.5, 9.0))
        lab.operator.kill()
        jobs |= {job["metadata"]["uid"] for job in lab.kube.list(JOB, lab.namespace, MANAGED)}
        lab.operator.start()
    eventually(lambda: lab.kube.get(JOB, lab.namespace, "train-tiny"), 240, what=lambda: lab.operator.log[-2000:])
    lab.operator.kill()
    lab.kubelet.job_says = ended(0)
    time.sleep(2)
    lab.operator.start()
    lab.wait_phase(TRAINING_RUN, "tiny", "Succeeded", 240)
    jobs |= {job["metadata"]["uid"] for job in lab.kube.list(JOB, lab.namespace, MANAGED)}
    assert len(jobs) == 1
    assert len(lab.kubelet.pods("trainer")) == 1
    lab.kube.delete(TRAINING_RUN, lab.namespace, "tiny")
    eventually(lambda: not lab.made(), 180, what=lab.made)


def test_one_operator_is_active_and_the_other_takes_over(lab: Lab, tmp_path: Path) -> None:
    eventually(lambda: lab.operator.metric("astra_operator_leader") == 1, what=lambda: lab.operator.log[-2000:])
    with RunningOperator(lab.cluster, lab.namespace, tmp_path / "second.log") as second:
        eventually(lambda: "waiting for the Lease" in second.log)
        assert second.page("healthz") == "ok", "one that waits is healthy"
        assert second.metric("astra_operator_leader") == 0
        with RunningOperator(lab.cluster, lab.namespace, tmp_path / "third.log") as third:
            eventually(lambda: "waiting for the Lease" in third.log)
            assert third.process is not None
            third.process.terminate()
            assert third.process.wait(20) == 0, "one that waits can be stopped"
        lab.operator.kill()
        lab.make(ENVIRONMENT, "city", city())
        eventually(lambda: second.metric("astra_operator_leader") == 1, 90)
        lab.wait_phase(ENVIRONMENT, "city", "Verified")


def test_cut_connections_and_a_lease_that_another_took(lab: Lab, tmp_path: Path) -> None:
    """Every watch and request of the operator is broken again and again; then its Lease is given to another."""
    lab.operator.kill()
    with (
        _CuttingProxy(lab.cluster, tmp_path) as proxied,
        RunningOperator(proxied, lab.namespace, tmp_path / "cut.log") as cut,
    ):
        for number in range(6):
            lab.make(ENVIRONMENT, f"city-{number}", city(number))
            time.sleep(1)
        for number in range(6):
            lab.wait_phase(ENVIRONMENT, f"city-{number}", "Verified", 240)
        assert cut.process is not None
        assert cut.process.poll() is None
        taken = '{"spec": {"holderIdentity": "somebody else"}}'
        lab.cluster.kubectl("patch", "lease", "astra-farm-operator", "-n", lab.namespace, "--type=merge", "-p", taken)
        assert cut.process.wait(60) == 70, "an operator without its Lease ends at once"


class _CuttingProxy:
    """A way to the API server that cuts all its connections every two seconds."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        server = config["clusters"][0]["cluster"]["server"]
        self._target = ("127.0.0.1", int(server.rsplit(":", 1)[1]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._kubeconfig = folder / "proxied.kubeconfig"
        self._kubeconfig.write_text(yaml.safe_dump(config))
        self._tools = cluster.tools
        self._open: list[socket.socket] = []
        self._ended = threading.Event()

    def __enter__(self) -> Cluster:
        for work in (self._accept, self._cut):
            threading.Thread(target=work, daemon=True).start()
        return Cluster(self._kubeconfig, self._tools)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _cut(self) -> None:
        while not self._ended.wait(2.0):
            self._open, cut = [], self._open
            for one in cut:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)


def test_kube_errors_are_told_apart(cluster: Cluster) -> None:
    kube: Kube = kube_of(cluster)
    with pytest.raises(KubeError) as caught:
        kube.create(ENVIRONMENT, "no-such-namespace", {"kind": "Environment", "metadata": {"name": "x"}})
    assert not caught.value.passing
    assert kube.get(ENVIRONMENT, "default", "none") is None
