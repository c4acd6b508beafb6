"""Faults that mislead a controller, against a real API server: each was seen to go wrong once."""

import base64
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import Cluster
from labs import Lab, city, lab_in, run_spec
from operators import RunningOperator, eventually
from standin import ended, kube_of

from astra_api.kube import CONFIG_MAP, ENVIRONMENT, LEASE, SECRET, TRAINING_RUN, Kind, Kube, KubeError, Object
from astra_api.status_writer import StatusWriter
from astra_operator.manifests.identity import MANAGED
from astra_operator.manifests.job import CLAIM, JOB, RBAC_ROLE, ROLE_BINDING, SERVICE_ACCOUNT
from astra_operator.manifests.pool import NETWORK_POLICY, STATEFUL_SET

QUOTA = Kind("v1", "ResourceQuota", "resourcequotas")
LIMITS = Kind("v1", "LimitRange", "limitranges")


@pytest.fixture
def lab(cluster: Cluster, tmp_path: Path) -> Iterator[Lab]:
    with lab_in(cluster, tmp_path) as made:
        made.make(ENVIRONMENT, "city", city())
        made.wait_phase(ENVIRONMENT, "city", "Verified")
        yield made


def _job(lab: Lab, name: str = "train-tiny") -> Object:
    return eventually(
        lambda: lab.kube.get(JOB, lab.namespace, name), 180,
        what=lambda: f"{lab.status(TRAINING_RUN, 'tiny')}\n{lab.operator.log[-3000:]}",
    )  # fmt: skip


def _provisioned(lab: Lab, reason: str) -> Object:
    return eventually(
        lambda: (found := lab.condition(TRAINING_RUN, "tiny", "Provisioned")).get("reason") == reason and found, 180,
        what=lambda: f"{lab.status(TRAINING_RUN, 'tiny')}\n{lab.operator.log[-3000:]}",
    )  # fmt: skip


# objects of others


def _object(kind: Kind, name: str, **body: Any) -> Object:
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}, **body}


FOREIGN: list[tuple[Kind, str, dict[str, Any]]] = [
    (
        CLAIM, "train-tiny",
        {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}},
    ),
    (SERVICE_ACCOUNT, "train-tiny", {}),
    (ROLE_BINDING, "train-tiny",
     {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}}),
    (CONFIG_MAP, "train-tiny", {"data": {"run.json": "{}"}}),
    (SECRET, "train-tiny-tls", {"stringData": {"a": "b"}}),
    (JOB, "train-tiny",
     {"spec": {"parallelism": 0, "template": {"spec": {
         "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}),
    (NETWORK_POLICY, "train-tiny-sandbox", {"spec": {"podSelector": {}}}),
]  # fmt: skip


def test_objects_of_somebody_else_are_named_and_never_touched(lab: Lab) -> None:
    """All of them stand in the way of one run; when it is deleted, they are as they were."""
    before = [lab.kube.create(kind, lab.namespace, _object(kind, name, **body)) for kind, name, body in FOREIGN]
    lab.make(TRAINING_RUN, "tiny", run_spec(checkpoint={"size": "1Gi"}))
    found = _provisioned(lab, "ForeignObject")
    for kind, name, _ in FOREIGN:
        assert f"{kind.kind} {name}" in found["message"]
    assert any(event.startswith("Warning ForeignObject") for event in lab.events("tiny"))
    time.sleep(5)
    assert not [pod for pod in lab.kubelet.pods("sandbox") if pod["metadata"]["name"].startswith("train-")]
    assert not lab.kubelet.pods("trainer")
    lab.kube.delete(TRAINING_RUN, lab.namespace, "tiny")
    eventually(lambda: not lab.made(), 180, what=lab.made)
    for (kind, name, _), old in zip(FOREIGN, before, strict=True):
        now = lab.kube.get(kind, lab.namespace, name)
        assert now is not None, f"{kind.kind} {name} was deleted with the run"
        assert now["metadata"]["uid"] == old["metadata"]["uid"]
        assert not now["metadata"].get("ownerReferences")
        assert now["metadata"].get("labels") == old["metadata"].get("labels")
        for part in ("data", "roleRef"):
            assert now.get(part) == old.get(part)


def test_an_object_made_between_a_look_and_a_write_is_not_adopted(lab: Lab) -> None:
    """The operator creates only where there is nothing, and changes only the object that it saw."""
    kube = lab.kube
    body = _object(CONFIG_MAP, "taken", data={"a": "ours"})
    kube.create(CONFIG_MAP, lab.namespace, _object(CONFIG_MAP, "taken", data={"a": "theirs"}))
    for uid in (None, "00000000-0000-0000-0000-000000000000"):
        with pytest.raises(KubeError) as caught:
            kube.apply(CONFIG_MAP, lab.namespace, "taken", body, "test", uid=uid)
        assert caught.value.conflict
    made = kube.apply(CONFIG_MAP, lab.namespace, "free", _object(CONFIG_MAP, "free", data={"a": "1"}), "test", uid=None)
    kube.apply(
        CONFIG_MAP, lab.namespace, "free", _object(CONFIG_MAP, "free", data={"b": "2"}), "test",
        uid=made["metadata"]["uid"],
    )  # fmt: skip
    assert (kube.get(CONFIG_MAP, lab.namespace, "free") or {})["data"] == {"b": "2"}, "what is set no more goes"
    assert (kube.get(CONFIG_MAP, lab.namespace, "taken") or {})["data"] == {"a": "theirs"}


def test_a_foreign_object_of_an_environments_pool_is_left_alone(lab: Lab) -> None:
    lab.kube.create(SECRET, lab.namespace, _object(SECRET, "env-own-tls", stringData={"a": "b"}))
    lab.make(ENVIRONMENT, "own", city(3) | {"sandbox": {"replicas": 1}})
    eventually(lambda: lab.condition(ENVIRONMENT, "own", "Provisioned").get("reason") == "ForeignObject", 180)
    assert "Secret env-own-tls" in lab.condition(ENVIRONMENT, "own", "Provisioned")["message"]
    assert lab.condition(ENVIRONMENT, "own", "Ready")["status"] == "False"
    lab.change(ENVIRONMENT, "own", {"sandbox": {"replicas": 0}})
    eventually(lambda: lab.condition(ENVIRONMENT, "own", "Ready").get("reason") == "Shared", 180)
    assert lab.kube.get(SECRET, lab.namespace, "env-own-tls") is not None


# refusals


def test_a_quota_is_told_and_the_rest_goes_on(lab: Lab) -> None:
    quota = {"spec": {"hard": {"count/jobs.batch": "0", "pods": "10"}}}
    lab.kube.create(QUOTA, lab.namespace, _object(QUOTA, "small", **quota))
    lab.make(TRAINING_RUN, "tiny", run_spec())
    found = _provisioned(lab, "Refused")
    assert "Job train-tiny" in found["message"]
    assert "exceeded quota: small" in found["message"]
    assert any(event.startswith("Warning Refused") and "exceeded quota" in event for event in lab.events("tiny"))
    assert lab.condition(TRAINING_RUN, "tiny", "SandboxesReady")["status"] == "True", "the rest is there"
    lab.change(TRAINING_RUN, "tiny", {"suspend": True})
    lab.wait_phase(TRAINING_RUN, "tiny", "Suspended")
    lab.change(TRAINING_RUN, "tiny", {"suspend": False})
    lab.kube.delete(QUOTA, lab.namespace, "small")
    _job(lab)
    assert _provisioned(lab, "Provisioned")["status"] == "True"


def test_pods_that_a_limit_range_refuses_are_told(lab: Lab) -> None:
    limits = {"spec": {"limits": [{"type": "Container", "max": {"memory": "16Mi"}}]}}
    lab.kube.create(LIMITS, lab.namespace, _object(LIMITS, "tight", **limits))
    lab.make(TRAINING_RUN, "tiny", run_spec())
    found = _provisioned(lab, "Refused")
    assert "StatefulSet train-tiny-sandbox" in found["message"]
    assert "maximum memory usage per Container is 16Mi" in found["message"]


def test_a_claim_that_cannot_shrink_is_told_and_blocks_no_suspension(lab: Lab) -> None:
    lab.make(TRAINING_RUN, "tiny", run_spec(checkpoint={"size": "2Gi"}))
    _job(lab)
    lab.change(TRAINING_RUN, "tiny", {"checkpoint": {"size": "1Gi"}, "suspend": True})
    lab.wait_phase(TRAINING_RUN, "tiny", "Suspended")
    assert lab.kube.get(JOB, lab.namespace, "train-tiny") is None
    assert "PersistentVolumeClaim train-tiny" in _provisioned(lab, "Refused")["message"]


# another object under the same name


def test_a_status_goes_to_the_object_it_was_meant_for(lab: Lab) -> None:
    old = lab.make(TRAINING_RUN, "other", run_spec(suspend=True))["metadata"]["uid"]
    lab.kube.delete(TRAINING_RUN, lab.namespace, "other")
    eventually(lambda: lab.kube.get(TRAINING_RUN, lab.namespace, "other") is None)
    new = lab.make(TRAINING_RUN, "other", run_spec(suspend=True))["metadata"]["uid"]
    with pytest.raises(KubeError) as caught:
        lab.kube.patch_status(TRAINING_RUN, lab.namespace, "other", {"phase": "Failed"}, uid=old)
    assert caught.value.conflict
    with StatusWriter(lab.kube, TRAINING_RUN, lab.namespace, "other", old) as writer:  # a trainer of the old one
        writer.say(step=17)
    assert "step" not in lab.status(TRAINING_RUN, "other")
    lab.kube.patch_status(TRAINING_RUN, lab.namespace, "other", {"step": 18, "eta": "soon"}, uid=new)
    lab.kube.patch_status(TRAINING_RUN, lab.namespace, "other", {"eta": None}, uid=new)
    assert lab.status(TRAINING_RUN, "other")["step"] == 18
    assert "eta" not in lab.status(TRAINING_RUN, "other")


def test_a_run_made_again_under_its_name_begins_anew(lab: Lab) -> None:
    lab.kubelet.job_says = ended(2, "error: spec.model: no such folder")
    lab.make(TRAINING_RUN, "tiny", run_spec())
    lab.wait_phase(TRAINING_RUN, "tiny", "Failed")
    lab.kubelet.job_says = {"phase": "Running"}
    lab.kube.delete(TRAINING_RUN, lab.namespace, "tiny")
    eventually(lambda: lab.kube.get(TRAINING_RUN, lab.namespace, "tiny") is None)
    uid = lab.make(TRAINING_RUN, "tiny", run_spec())["metadata"]["uid"]
    job = eventually(
        lambda: (found := lab.kube.get(JOB, lab.namespace, "train-tiny"))
        and found["metadata"]["ownerReferences"][0]["uid"] == uid and found, 180,
        what=lambda: lab.operator.log[-3000:],
    )  # fmt: skip
    assert lab.condition(TRAINING_RUN, "tiny", "Failed")["status"] == "False"
    variables = {one["name"]: one.get("value") for one in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert variables["ASTRA_RUN_UID"] == uid, "its trainer writes to no other's status"


# an end that is none


def test_a_failed_run_goes_on_with_more_retries_or_after_a_pause(lab: Lab) -> None:
    lab.kubelet.job_says = ended(1, "SandboxUnavailable: no server answered")
    lab.make(TRAINING_RUN, "tiny", run_spec(trainer={"retries": 0}, checkpoint={"size": "1Gi"}))
    lab.wait_phase(TRAINING_RUN, "tiny", "Failed", 300)
    first = _job(lab)["metadata"]["uid"]
    lab.kubelet.job_says = {"phase": "Running"}
    lab.change(TRAINING_RUN, "tiny", {"trainer": {"retries": 1}})
    second = eventually(lambda: (uid := _job(lab)["metadata"]["uid"]) != first and uid, 180)
    eventually(lambda: lab.condition(TRAINING_RUN, "tiny", "Failed").get("status") == "False")
    lab.kubelet.job_says = ended(2, "error: bad input")
    lab.wait_phase(TRAINING_RUN, "tiny", "Failed", 300)
    lab.kubelet.job_says = {"phase": "Running"}
    lab.change(TRAINING_RUN, "tiny", {"suspend": True})
    lab.wait_phase(TRAINING_RUN, "tiny", "Suspended")
    lab.change(TRAINING_RUN, "tiny", {"suspend": False})
    eventually(lambda: _job(lab)["metadata"]["uid"] not in (first, second), 180)
    lab.kubelet.job_says = ended(0)
    lab.wait_phase(TRAINING_RUN, "tiny", "Succeeded", 240)
    lab.kube.delete(TRAINING_RUN, lab.namespace, "tiny")
    eventually(lambda: lab.made() == {("PersistentVolumeClaim", "train-tiny")}, 180, what=lab.made)
    time.sleep(3)
    assert lab.kube.get(CLAIM, lab.namespace, "train-tiny") is not None, "the checkpoints outlive the run"


def test_a_claim_that_is_not_retained_goes_with_its_run(lab: Lab) -> None:
    lab.make(TRAINING_RUN, "tiny", run_spec(checkpoint={"size": "1Gi", "retain": False}))
    _job(lab)
    lab.kube.delete(TRAINING_RUN, lab.namespace, "tiny")
    eventually(lambda: not lab.made(), 180, what=lab.made)


def test_a_finished_run_is_deleted_when_its_time_is_up(lab: Lab) -> None:
    lab.kubelet.job_says = ended(0)
    lab.make(TRAINING_RUN, "tiny", run_spec(ttlSecondsAfterFinished=5))
    lab.wait_phase(TRAINING_RUN, "tiny", "Succeeded", 240)
    eventually(lambda: lab.kube.get(TRAINING_RUN, lab.namespace, "tiny") is None, 60)
    eventually(lambda: not lab.made(), 180, what=lab.made)


# upgrades


def test_an_upgrade_changes_nothing_of_a_run_that_has_begun(cluster: Cluster, tmp_path: Path) -> None:
    with lab_in(cluster, tmp_path) as lab:
        lab.make(ENVIRONMENT, "city", city())
        lab.make(TRAINING_RUN, "tiny", run_spec())
        _job(lab)
        eventually(lambda: lab.status(TRAINING_RUN, "tiny").get("begun"))

        def standing() -> dict[str, Any]:
            kinds = (STATEFUL_SET, NETWORK_POLICY, CONFIG_MAP, JOB, SECRET, RBAC_ROLE, SERVICE_ACCOUNT)
            objects = [one for kind in kinds for one in lab.kube.list(kind, lab.namespace, MANAGED)]
            mine = [one for one in objects if one["metadata"]["name"].startswith("train-tiny")]
            return {
                f"{one['kind']} {one['metadata']['name']}": (one["metadata"].get("generation"), one.get("spec"),
                                                             one.get("data"), one["metadata"]["uid"])
                for one in mine
            }  # fmt: skip

        before = standing()
        lab.operator.kill()
        settings = {
            "ASTRA_SANDBOX_IMAGE": "sandbox:next", "ASTRA_TRAINER_IMAGE": "trainer:next",
            "ASTRA_POD_DEFAULTS": json.dumps({"sandboxes": {"spec": {"nodeSelector": {"pool": "new"}}}}),
        }  # fmt: skip
        with RunningOperator(cluster, lab.namespace, tmp_path / "next.log", **settings) as upgraded:
            eventually(lambda: upgraded.metric("astra_operator_leader") == 1, 90)
            eventually(lambda: upgraded.metric("astra_operator_reconciles_total", kind="TrainingRun") > 0, 60)
            time.sleep(5)
            assert standing() == before
            lab.change(TRAINING_RUN, "tiny", {"sandboxes": {"replicas": 2}})
            eventually(lambda: (lab.kube.get(STATEFUL_SET, lab.namespace, "train-tiny-sandbox") or {})["spec"]
                       ["replicas"] == 2)  # fmt: skip
            pool = lab.kube.get(STATEFUL_SET, lab.namespace, "train-tiny-sandbox") or {}
            pod = pool["spec"]["template"]["spec"]
            assert pod["containers"][0]["image"] == "astra-farm-sandbox"
            assert "nodeSelector" not in pod, "what the user changed is changed, and nothing else"


def test_a_wall_that_was_taken_away_is_put_up_again_at_once(lab: Lab) -> None:
    """Nothing else of the run changes: what tells is the deletion itself."""
    lab.make(TRAINING_RUN, "tiny", run_spec())
    _job(lab)
    time.sleep(5)  # what followed from the Job's creation is through
    before = lab.kube.get(NETWORK_POLICY, lab.namespace, "train-tiny-sandbox")
    assert before is not None
    lab.kube.delete(NETWORK_POLICY, lab.namespace, "train-tiny-sandbox")
    again = eventually(lambda: lab.kube.get(NETWORK_POLICY, lab.namespace, "train-tiny-sandbox"), 20)
    assert again["metadata"]["uid"] != before["metadata"]["uid"]
    assert again["spec"] == before["spec"]


# split brain


def test_an_operator_that_was_paused_ends_when_it_wakes_and_writes_nothing(lab: Lab, tmp_path: Path) -> None:
    eventually(lambda: lab.operator.metric("astra_operator_leader") == 1, 90)
    lab.make(TRAINING_RUN, "tiny", run_spec())
    _job(lab)
    with RunningOperator(lab.cluster, lab.namespace, tmp_path / "second.log") as second:
        eventually(lambda: "waiting for the Lease" in second.log, 60)
        assert lab.operator.process is not None
        os.kill(lab.operator.process.pid, signal.SIGSTOP)
        eventually(lambda: second.metric("astra_operator_leader") == 1, 90)
        # something that the paused one would mend at once
        lab.kube.delete(NETWORK_POLICY, lab.namespace, "train-tiny-sandbox")
        eventually(lambda: lab.kube.get(NETWORK_POLICY, lab.namespace, "train-tiny-sandbox"))
        held = (lab.kube.get(LEASE, lab.namespace, "astra-farm-operator") or {})["spec"]["holderIdentity"]
        os.kill(lab.operator.process.pid, signal.SIGCONT)
        assert lab.operator.process.wait(30) == 70
        after = (lab.kube.get(LEASE, lab.namespace, "astra-farm-operator") or {})["spec"]["holderIdentity"]
        assert after == held
        assert second.process is not None
        assert second.process.poll() is None


def test_an_operator_that_may_not_renew_its_lease_ends_before_another_takes_over(
    cluster: Cluster, tmp_path: Path
) -> None:
    """One refusal is survived; a role that is gone ends the process within the deadline."""
    with cluster.namespace("lease") as namespace:
        kube = kube_of(cluster)
        account = _limited_account(cluster, kube, namespace)
        with RunningOperator(account(tmp_path), namespace, tmp_path / "one.log") as one:
            eventually(lambda: one.metric("astra_operator_leader") == 1, 90, what=lambda: one.log[-2000:])
            cluster.kubectl("delete", "rolebinding", "leases", "-n", namespace)
            time.sleep(4)
            _bind(cluster, namespace)
            time.sleep(12)
            assert one.process is not None
            assert one.process.poll() is None, "a refusal that passes costs nothing"
            cluster.kubectl("delete", "rolebinding", "leases", "-n", namespace)
            began = time.monotonic()
            assert one.process.wait(30) == 70
            assert time.monotonic() - began < 20


def _bind(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl(
        "create", "rolebinding", "leases", "--role=leases", f"--serviceaccount={namespace}:op", "-n", namespace
    )


def _limited_account(cluster: Cluster, kube: Kube, namespace: str) -> Callable[[Path], Cluster]:
    """A service account that may do everything but hold Leases, and one role more that lets it."""
    cluster.kubectl("create", "serviceaccount", "op", "-n", namespace)
    rules = [
        {"apiGroups": [group], "resources": ["*"], "verbs": ["*"]}
        for group in ("", "apps", "batch", "networking.k8s.io", "policy", "astra.farm", "rbac.authorization.k8s.io")
    ]
    cluster.apply({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "work"},
                   "rules": rules}, namespace=namespace)  # fmt: skip
    cluster.kubectl("create", "rolebinding", "work", "--role=work", f"--serviceaccount={namespace}:op", "-n", namespace)
    cluster.kubectl("create", "role", "leases", "--verb=*", "--resource=leases.coordination.k8s.io", "-n", namespace)
    _bind(cluster, namespace)
    secret = eventually(
        lambda: next((one for one in kube.list(SECRET, namespace) if (one["metadata"].get("annotations") or {}).get(
            "kubernetes.io/service-account.name") == "op"), None))  # fmt: skip
    token = base64.b64decode(secret["data"]["token"]).decode()

    def write(folder: Path) -> Cluster:
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        file = folder / "limited.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(config))
        return Cluster(file, cluster.tools)

    return write


# normalised quantities


def test_quantities_that_a_server_writes_otherwise_are_applied_once(lab: Lab) -> None:
    resources = {"requests": {"memory": "1024Mi", "cpu": "0.5"}, "limits": {"memory": "2048Mi", "cpu": "1000m"}}
    lab.make(TRAINING_RUN, "tiny", run_spec(sandboxes={"replicas": 1, "resources": resources}))
    _job(lab)
    time.sleep(3)
    before = lab.operator.metric("astra_operator_writes_total", kind="StatefulSet")
    for number in range(3):
        lab.cluster.kubectl("annotate", "trainingrun", "tiny", f"touch={number}", "--overwrite", "-n", lab.namespace)
        time.sleep(2)
    assert lab.operator.metric("astra_operator_writes_total", kind="StatefulSet") == before
