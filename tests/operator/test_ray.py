"""Engine verl: Ray in one pod of a Job, and on many nodes as a RayJob, as KubeRay takes it."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
import yaml
from farms import FARM, NAMESPACE, census, environment_body, owner, plan, training_run
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import NOW, World

from astra_api.manifests import load_manifests
from astra_api.training_run import TrainingRun
from astra_operator.actions import Action, Again, Apply, Delete, PatchStatus
from astra_operator.admission import admit
from astra_operator.farm import Farm
from astra_operator.job_end import job_end
from astra_operator.manifests.identity import Owner
from astra_operator.manifests.job import QUEUE, RAY_JOB, job_object
from astra_operator.manifests.pool import pool_objects
from astra_operator.runs import Plan, Seen, reconcile_run
from astra_operator.settings import OperatorSettings
from astra_operator.training import training_plan, unrunnable

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "qwen3-32b-rayjob.yaml"
Object = dict[str, Any]

STRINGS: Object = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT: Object = {"type": "integer", "minimum": 0}


def _object(required: list[str], properties: Object) -> Object:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


# Of what KubeRay 1.2 to 1.6 have in ray.io/v1. The templates of pods are held against Kubernetes' own schemas.
WORKERS = _object(
    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    {
        "groupName": {"type": "string"}, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT,
        "rayStartParams": STRINGS, "template": {"type": "object"}, "numOfHosts": COUNT, "idleTimeoutSeconds": COUNT,
    },
)  # fmt: skip
HEAD = _object(
    ["rayStartParams", "template"],
    {"rayStartParams": STRINGS, "template": {"type": "object"}, "serviceType": {"type": "string"}},
)
CLUSTER = _object(
    ["headGroupSpec"],
    {
        "headGroupSpec": HEAD, "workerGroupSpecs": {"type": "array", "items": WORKERS},
        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"}, "enableInTreeAutoscaling": {"type": "boolean"},
        "authOptions": _object(["mode"], {"mode": {"enum": ["token", "disabled"]}}),  # since 1.5.1
    },
)  # fmt: skip
RAY_JOB_SPEC = _object(
    ["entrypoint", "rayClusterSpec"],
    {
        "entrypoint": {"type": "string"}, "runtimeEnvYAML": {"type": "string"}, "rayClusterSpec": CLUSTER,
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]}, "backoffLimit": COUNT,
        "shutdownAfterJobFinishes": {"type": "boolean"}, "ttlSecondsAfterFinished": COUNT,
        "suspend": {"type": "boolean"}, "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
        "entrypointNumCpus": {"type": "number"}, "entrypointNumGpus": {"type": "number"}, "metadata": STRINGS,
        "entrypointResources": {"type": "string"}, "jobId": {"type": "string"}, "clusterSelector": STRINGS,
    },
)  # fmt: skip
KNOWN = jsonschema_rs.validator_for(RAY_JOB_SPEC)


def verl(name: str = "large", labels: dict[str, str] | None = None, **changes: Any) -> TrainingRun:
    base: Object = {"engine": "verl", "trainer": {"nodes": 3, "gpusPerNode": 8}, "checkpoint": {"claimName": "shared"}}
    return training_run(name, labels, **base | changes)


def claim(*modes: str) -> Object:
    return {"metadata": {"name": "shared"}, "spec": {"accessModes": list(modes)}}


def planned(run: TrainingRun, found: Object | None = None) -> Plan:
    return training_plan(run, owner(name=run.metadata.name), Farm(OperatorSettings(namespace="astra")), census(), found)


def ready(run: TrainingRun) -> Plan:
    return planned(run, claim("ReadWriteMany"))


def ray_job(run: TrainingRun) -> Object:
    manifest = job_object(ready(run).work).manifest
    assert manifest["kind"] == "RayJob"
    return manifest


def templates(manifest: Object) -> tuple[Object, Object]:
    """Of the head, of a worker."""
    cluster = manifest["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    return cluster["headGroupSpec"]["template"], workers["template"]


def variables(template: Object) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in template["spec"]["containers"][0]["env"]}


def mounts(template: Object) -> dict[str, Object]:
    """The volume at each path."""
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    return {each["mountPath"]: volumes[each["name"]] for each in template["spec"]["containers"][0]["volumeMounts"]}


# the RayJob


@given(
    nodes=st.integers(2, 64),
    gpus=st.integers(1, 16),
    retries=st.integers(0, 100),
    deadline=st.none() | st.integers(1, 10**6),
    resources=st.sampled_from([{}, {"limits": {"memory": "512Gi"}}, {"requests": {"cpu": "3", "memory": "9Gi"}}]),
    queue=st.none() | st.just("team-a"),
)
@settings(deadline=None)
def test_a_ray_job_is_what_kuberay_knows(
    nodes: int, gpus: int, retries: int, deadline: int | None, resources: Object, queue: str | None
) -> None:
    trainer = {"nodes": nodes, "gpusPerNode": gpus, "retries": retries, "resources": resources}
    limited = {"activeDeadlineSeconds": deadline} if deadline else {}
    manifest = ray_job(verl(trainer=trainer, labels={QUEUE: queue} if queue else {}, **limited))
    spec = manifest["spec"]
    KNOWN.validate(spec)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert len(manifest["metadata"]["name"]) <= 47, "KubeRay makes longer names of it"
    assert manifest["metadata"]["labels"].get(QUEUE) == queue
    assert spec["shutdownAfterJobFinishes"] is True, "Kueue takes no other"
    assert spec.get("suspend", False) is (queue is not None), "Kueue lets it go"
    assert spec["backoffLimit"] == retries
    assert spec.get("activeDeadlineSeconds") == deadline
    assert "ttlSecondsAfterFinished" not in spec
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] == nodes - 1, (
        "the head is a node too"
    )
    for group in (cluster["headGroupSpec"], workers):
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == group["rayStartParams"]["num-gpus"] == str(gpus)
        assert int(group["rayStartParams"]["num-cpus"]) >= 10 * gpus + 8, "verl reserves ten beside each GPU"


@pytest.mark.parametrize("version", ["1.32", "1.35", "1.37"])
@pytest.mark.parametrize("which", [0, 1], ids=["head", "worker"])
def test_templates_are_pods(which: int, version: str) -> None:
    template = templates(ray_job(verl()))[which]
    body = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "node"}, "template": template}
    kubernetes_validate.validate(copy.deepcopy(body), version, strict=True)


def test_ray_is_started_by_kuberay_and_the_trainer_by_the_entrypoint_on_the_head() -> None:
    """KubeRay runs a container's command before `ray start`, in the first container; Ray runs an entrypoint that
    reserves nothing on the head, with RAY_ADDRESS set. Whatever else is set for the job, verl's workers could not."""
    manifest = ray_job(verl())
    assert manifest["spec"]["entrypoint"] == "python -m astra_trainer.cluster_run"
    assert manifest["spec"]["submissionMode"] == "HTTPMode", "no further pod, which would be neither small nor hardened"
    assert not {"entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "runtimeEnvYAML"} & set(
        manifest["spec"]
    )
    for template in templates(manifest):
        (container,) = template["spec"]["containers"]
        assert not {"command", "args"} & set(container)
        assert "RAY_ADDRESS" not in variables(template)


def test_all_nodes_have_what_a_rollout_needs() -> None:
    for template in templates(ray_job(verl())):
        told = variables(template)
        assert told["ASTRA_SANDBOXES"].count(":50051") == 2
        assert {item["key"] for item in mounts(template)[told["ASTRA_TLS_DIR"]]["secret"]["items"]} == {
            "ca.crt", "client.crt", "client.key",
        }  # fmt: skip
        volumes = mounts(template)
        assert volumes["/checkpoint"]["persistentVolumeClaim"] == {"claimName": "shared"}
        assert told["ASTRA_OUT"] == "/checkpoint/large"
        assert told["HF_HOME"].startswith("/checkpoint/."), "a model is fetched by the head and read by all"
        assert "emptyDir" in volumes[told["HOME"]], "the root is read-only; Ray writes ~/.ray and /tmp/ray"
        assert "emptyDir" in volumes["/tmp"]
        assert volumes["/dev/shm"]["emptyDir"]["medium"] == "Memory"


def test_only_the_head_may_use_the_api() -> None:
    head, worker = (template["spec"] for template in templates(ray_job(verl())))
    assert (head["serviceAccountName"], head["automountServiceAccountToken"]) == ("train-large", True)
    assert worker["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in worker


def test_nodes_reach_the_sandboxes_and_each_other_and_kuberay_the_head() -> None:
    """KubeRay keeps the labels of a template, and adds its own."""
    run = ready(verl())
    labels = [template["metadata"]["labels"] for template in templates(job_object(run.work).manifest)]
    added = {"ray.io/cluster": "train-large-x2x4z", "ray.io/node-type": "worker", "app.kubernetes.io/name": "kuberay"}
    assert not any(added.keys() & each for each in labels)
    (pool,) = (made.manifest["spec"] for made in pool_objects(run.pool) if made.kind.kind == "NetworkPolicy")
    (own,) = (made.manifest["spec"] for made in run.extra if made.kind.kind == "NetworkPolicy")
    for own_labels in labels:
        assert _admits(pool, {**own_labels, **added}, 50051)
        assert own["podSelector"]["matchLabels"].items() <= own_labels.items()
        assert all(_admits(own, {**own_labels, **added}, port) for port in (6379, 8265, 40000))
    other = Owner("TrainingRun", "other", NAMESPACE, "u").labels("trainer")
    kuberay = {"app.kubernetes.io/component": "kuberay-operator", "app.kubernetes.io/name": "kuberay-operator"}
    assert _admits(own, kuberay, 8265, "ray-system")
    assert not _admits(own, kuberay, 6379, "ray-system")
    assert not _admits(own, kuberay, 8265, "stranger"), (
        "anyone can give a pod KubeRay's labels in a namespace of theirs"
    )
    assert not _admits(own, kuberay, 8265)
    for stranger in (other, run.work.owner.labels("sandbox"), {}):
        assert not _admits(own, stranger, 8265), "a Ray head obeys whoever reaches it"
    assert own["policyTypes"] == ["Ingress"]


def test_a_kuberay_that_knows_no_token_is_asked_for_none_and_has_its_own_namespace() -> None:
    told = {"ASTRA_KUBERAY_AUTH_TOKEN": "false", "ASTRA_KUBERAY_NAMESPACE": "kuberay"}
    farm = Farm(OperatorSettings.of_environment({"ASTRA_NAMESPACE": "astra", **told}))
    run = training_plan(verl(), owner(name="large"), farm, census(), claim("ReadWriteMany"))
    assert "authOptions" not in job_object(run.work).manifest["spec"]["rayClusterSpec"]
    (own,) = (made.manifest["spec"] for made in run.extra if made.kind.kind == "NetworkPolicy")
    kuberay = {"app.kubernetes.io/component": "kuberay-operator"}
    assert _admits(own, kuberay, 8265, "kuberay")
    assert not _admits(own, kuberay, 8265, "ray-system")


def test_all_nodes_have_the_accelerator_and_the_models_and_the_head_alone_the_object_store() -> None:
    trainer = {
        "nodes": 2, "gpusPerNode": 4, "accelerator": "amd.com/gpu", "image": "mine", "infiniband": True,
        "modelCacheClaim": "hub",
    }  # fmt: skip
    store = {"claimName": "shared", "objectStore": {"url": "gs://bucket/runs", "secret": "bucket"}}
    manifest = ray_job(verl(trainer=trainer, checkpoint=store))
    cluster = manifest["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["amd.com/gpu"] == group["rayStartParams"]["num-gpus"] == "4"
        assert "nvidia.com/gpu" not in container["resources"]["limits"]
        assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
        assert mounts(group["template"])["/models"]["persistentVolumeClaim"] == {"claimName": "hub"}
        assert variables(group["template"])["HF_HOME"] == "/models"
    head, worker = templates(manifest)
    assert head["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert mounts(head)["/etc/astra/object-store"]["secret"]["secretName"] == "bucket"
    assert variables(head)["GOOGLE_APPLICATION_CREDENTIALS"] == "/etc/astra/object-store/credentials.json"
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in variables(worker), "there is no such file"
    assert "envFrom" not in worker["spec"]["containers"][0]
    assert "/etc/astra/object-store" not in mounts(worker)


def _admits(policy: Object, labels: dict[str, str], port: int, namespace: str = NAMESPACE) -> bool:
    """As a network that enforces policies decides for a pod with these labels; the policy is of `lab`."""
    names = {"kubernetes.io/metadata.name": namespace}
    return any(
        peer["podSelector"]["matchLabels"].items() <= labels.items()
        and (
            peer["namespaceSelector"].get("matchLabels", {}).items() <= names.items()
            if "namespaceSelector" in peer
            else namespace == NAMESPACE
        )
        for rule in policy["ingress"]
        if port in [each["port"] for each in rule.get("ports", [])] or "ports" not in rule
        for peer in rule["from"]
    )


def test_the_ray_job_of_the_example() -> None:
    """Qwen3-32B on four nodes. To write it anew: delete the file, and run this test twice."""
    run = load_manifests([ROOT / "examples" / "train-qwen3-32b.yaml"])[0].resource
    assert isinstance(run, TrainingRun)
    assert unrunnable(run, FARM) == []
    made = yaml.safe_dump(json.loads(json.dumps(ray_job(run))), sort_keys=False, width=120)  # without YAML's anchors
    if not GOLDEN.exists():
        GOLDEN.write_text(made)
        pytest.fail(f"{GOLDEN} was missing and is written; look at it")
    assert made == GOLDEN.read_text()


# one pod


def test_one_node_is_a_job_with_shared_memory_and_room_to_spill() -> None:
    manifest = job_object(planned(verl(trainer={"gpusPerNode": 8})).work).manifest
    assert manifest["kind"] == "Job"
    template = manifest["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert container["command"] == ["python", "-m", "astra_trainer.cluster_run"]
    assert container["resources"]["limits"] == {"memory": "1Ti", "nvidia.com/gpu": "8"}
    shared = mounts(template)["/dev/shm"]["emptyDir"]
    assert shared == {"medium": "Memory", "sizeLimit": "1Ti"}, "it counts as the container's memory"
    assert mounts(template)["/tmp"]["emptyDir"]["sizeLimit"] == "64Gi"
    (policy,) = (made.manifest for made in planned(verl(trainer={"gpusPerNode": 8})).extra)
    assert len(policy["spec"]["ingress"]) == 1, "no KubeRay has business there"


def test_shared_memory_is_as_large_as_the_run_lets_its_pods_be() -> None:
    def shared(resources: Object) -> Object:
        trainer = {"gpusPerNode": 1, "resources": resources}
        template = job_object(planned(verl(trainer=trainer)).work).manifest["spec"]["template"]
        return dict(mounts(template)["/dev/shm"]["emptyDir"])

    assert shared({"limits": {"memory": "200Gi"}, "requests": {"memory": "100Gi"}})["sizeLimit"] == "200Gi"
    assert shared({"requests": {"memory": "100Gi"}})["sizeLimit"] == "100Gi"
    assert "sizeLimit" not in shared({"limits": {"cpu": "4"}})


def test_engine_embedded_has_no_ray() -> None:
    made = plan(training_run(trainer={"gpusPerNode": 1}))
    assert made.extra == ()
    template = job_object(made.work).manifest["spec"]["template"]
    assert "/dev/shm" not in mounts(template)
    assert mounts(template)["/tmp"]["emptyDir"]["sizeLimit"] == "1Gi"


@pytest.mark.parametrize(
    ("changes", "image"),
    [
        ({}, "cpu"),
        ({"trainer": {"gpusPerNode": 1}}, "gpu"),
        ({"engine": "verl", "trainer": {"gpusPerNode": 1}}, "verl"),
        ({"engine": "verl", "trainer": {"gpusPerNode": 8, "nodes": 2}}, "verl"),
        ({"engine": "verl", "trainer": {"image": "mine"}}, "mine"),
        ({"trainer": {"gpusPerNode": 1, "image": "mine"}}, "mine"),
    ],
)
def test_the_image_is_chosen_by_engine_and_gpus(changes: Object, image: str) -> None:
    told = {"ASTRA_TRAINER_IMAGE": "cpu", "ASTRA_TRAINER_GPU_IMAGE": "gpu", "ASTRA_TRAINER_VERL_IMAGE": "verl"}
    farm = Farm(OperatorSettings.of_environment({"ASTRA_NAMESPACE": "astra", **told}))
    assert training_plan(training_run(**changes), owner(), farm, census()).work.image == image


# what cannot run


@pytest.mark.parametrize(
    ("changes", "field", "fix"),
    [
        ({"engine": "verl"}, "spec.trainer.gpusPerNode", "trainer.image"),
        (
            {"engine": "verl", "trainer": {"nodes": 2, "image": "mine"}, "checkpoint": {"size": "1Ti"}},
            "spec.trainer.gpusPerNode",
            "at least 1",
        ),
        ({"engine": "verl", "trainer": {"nodes": 2, "gpusPerNode": 8}}, "spec.checkpoint", "claimName"),
        (
            {"trainer": {"gpusPerNode": 2, "resources": {"limits": {"nvidia.com/gpu": "4"}}}},
            "spec.trainer.resources.limits",
            "gpusPerNode",
        ),
    ],
)
def test_what_cannot_run_here_is_refused_by_field(changes: Object, field: str, fix: str) -> None:
    body = _body(training_run(**changes))
    admitted = admit(TrainingRun, body, None, FARM)
    assert admitted.run is None
    assert not admitted.begun
    (problem,) = admitted.problems
    assert problem.field == field
    assert fix in problem.message
    world = World(None, problems=tuple(admitted.problems))
    world.reconcile()
    assert world.status["phase"] == "Failed"
    assert field in world.condition("Accepted")["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trainer": {"gpusPerNode": 2, "resources": {"limits": {"nvidia.com/gpu": "2"}}}},
        {"engine": "verl", "trainer": {"image": "mine"}},
        {"engine": "verl", "trainer": {"gpusPerNode": 8}},
        {"engine": "verl", "trainer": {"nodes": 2, "gpusPerNode": 8}, "checkpoint": {"size": "1Ti"}},
    ],
)
def test_what_can_run_is_admitted(changes: Object) -> None:
    run = training_run(**changes)
    admitted = admit(TrainingRun, _body(run), None, FARM)
    assert (admitted.run, admitted.problems, admitted.begun) == (run, [], False)


def test_a_run_that_has_begun_does_not_change_to_what_cannot_run() -> None:
    begun = verl(trainer={"gpusPerNode": 8}, checkpoint={})
    larger = verl(trainer={"nodes": 4, "gpusPerNode": 8}, checkpoint={}, suspend=True)
    admitted = admit(TrainingRun, _body(larger), begun, FARM)
    assert admitted.begun
    assert [problem.field for problem in admitted.problems] == ["spec.checkpoint"]
    assert isinstance(admitted.run, TrainingRun)
    assert admitted.run.spec == begun.spec.model_copy(update={"suspend": True})
    mended = verl(trainer={"nodes": 4, "gpusPerNode": 8}, checkpoint={"size": "1Ti"})
    admitted = admit(TrainingRun, _body(mended), begun, FARM)
    assert admitted.problems == []
    assert isinstance(admitted.run, TrainingRun)
    assert admitted.run.spec == mended.spec


def _body(run: TrainingRun) -> Object:
    return run.model_dump(mode="json", by_alias=True, exclude_none=True)


# the claim


@given(
    modes=st.lists(st.sampled_from(["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]), min_size=1)
)
@settings(deadline=None)
def test_a_claim_that_nodes_cannot_share_stops_the_run(modes: list[str]) -> None:
    world = World(planned(verl(), claim(*modes)))
    actions = _until_the_job(world)
    shared = "ReadWriteMany" in modes
    assert (world.job is not None) == shared
    said = world.condition("VolumeShared")
    assert (said["status"] == "True") == shared
    if not shared:
        assert "spec.checkpoint.claimName: claim shared is" in said["message"]
        assert world.status["phase"] == "Pending"
        assert any(isinstance(action, Again) for action in actions), "nothing tells of a change of the claim"
        assert world.objects == {}, "nothing is held while it waits"
        assert [event.reason for event in world.events] == ["ClaimNotShared"]


def test_a_claim_that_is_not_there_is_named() -> None:
    world = World(planned(verl(), None))
    _until_the_job(world)
    assert world.job is None
    assert "there is no PersistentVolumeClaim shared" in world.condition("VolumeShared")["message"]
    world.plan = ready(verl())
    _until_the_job(world)
    assert world.job is not None


@pytest.mark.parametrize(("nodes", "mode"), [(1, "ReadWriteOnce"), (2, "ReadWriteMany")])
def test_a_claim_is_made_for_the_nodes_there_are(nodes: int, mode: str) -> None:
    run = verl(trainer={"nodes": nodes, "gpusPerNode": 8}, checkpoint={"size": "1Ti"})
    (made,) = (each.manifest for each in planned(run).extra if each.kind.kind == "PersistentVolumeClaim")
    assert made["spec"] == {"accessModes": [mode], "resources": {"requests": {"storage": "1Ti"}}}
    assert all(gate.status == "True" for gate in planned(run).gates)


def test_a_claim_that_was_made_for_one_node_is_not_asked_to_become_another() -> None:
    run = verl(trainer={"nodes": 2, "gpusPerNode": 8}, checkpoint={"size": "1Ti"})
    made = planned(run, claim("ReadWriteOnce"))
    assert [gate.message.partition(":")[0] for gate in made.gates if gate.status == "False"] == ["spec.trainer.nodes"]
    assert "PersistentVolumeClaim" not in {each.kind.kind for each in made.extra}, "its mode cannot change"


def test_claims_of_one_node_are_not_looked_at() -> None:
    gates = planned(verl(trainer={"gpusPerNode": 8}), claim("ReadWriteOnce")).gates
    assert [gate.type for gate in gates] == ["EnvironmentsReady"]


# a run's life


def _until_the_job(world: World) -> list[Action]:
    world.reconcile()
    world.settle_sandboxes()
    world.reconcile()
    return world.reconcile()


def test_many_nodes_from_beginning_to_end() -> None:
    world = World(ready(verl()))
    actions = _until_the_job(world)
    assert world.job is not None
    assert world.job["kind"] == "RayJob"
    assert any(isinstance(action, Again) for action in actions), "nothing watches RayJobs"
    world.run_job()
    world.reconcile()
    assert world.status["phase"] == "Provisioning"
    world.finish_job()
    world.reconcile()
    assert world.status["phase"] == "Succeeded"
    assert world.replicas == 0


def test_suspending_deletes_the_ray_job_and_resuming_makes_another() -> None:
    """KubeRay stops the entrypoint of a RayJob that is deleted; of one that is suspended it just drops the pods."""
    world = World(ready(verl()))
    _until_the_job(world)
    world.run_job()
    world.plan = ready(verl(suspend=True))
    assert [action.kind for action in world.reconcile() if isinstance(action, Delete)] == [RAY_JOB]
    world.reconcile()
    assert world.status["phase"] != "Suspended", "its pods still end"
    world.drop_workers()
    world.reconcile()
    assert world.status["phase"] == "Suspended"
    world.plan = ready(verl())
    _until_the_job(world)
    assert world.jobs_made == 2


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
def test_nodes_count_from_the_next_start(before: int, after: int) -> None:
    def of(nodes: int, suspend: bool = False) -> Plan:
        return ready(verl(trainer={"nodes": nodes, "gpusPerNode": 8}, suspend=suspend))

    world = World(of(before))
    _until_the_job(world)
    world.run_job()
    world.plan = of(after)
    world.reconcile()
    assert world.jobs_made == 1
    world.plan = of(after, suspend=True)
    world.reconcile()
    assert world.job is None, "the one there is, not the one there would be"
    world.drop_workers()
    world.plan = of(after)
    _until_the_job(world)
    assert world.job is not None
    assert world.job["kind"] == ("RayJob" if after > 1 else "Job")


def test_without_kuberay_many_nodes_fail_with_that_reason() -> None:
    actions = reconcile_run(ready(verl()), Seen(generation=1, kuberay=False), NOW)
    status = next(action.status for action in actions if isinstance(action, PatchStatus))
    assert status["phase"] == "Failed"
    (failed,) = (condition for condition in status["conditions"] if condition["type"] == "Failed")
    assert failed["reason"] == "KubeRayMissing"
    assert "trainer.nodes" in failed["message"]
    assert not any(isinstance(action, Apply) and action.kind == RAY_JOB for action in actions)


SAID = (
    "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\n" + "x\n" * 900
)


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        ({"jobDeploymentStatus": "Initializing"}, None, ""),
        ({"jobStatus": "RUNNING", "jobDeploymentStatus": "Running"}, None, ""),
        ({"jobStatus": "FAILED", "jobDeploymentStatus": "Retrying"}, None, ""),
        ({"jobDeploymentStatus": "Suspended"}, None, ""),
        ({"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}, "Completed", "succeeded"),
        (
            {
                "jobStatus": "FAILED",
                "jobDeploymentStatus": "Failed",
                "reason": "AppFailed",
                "message": SAID.format(1) + "OOM",
            },
            "RetriesExhausted",
            "OOM",
        ),
        (
            {
                "jobStatus": "FAILED",
                "jobDeploymentStatus": "Failed",
                "message": SAID.format(2) + "error: spec.model: no",
            },
            "BadInput",
            "error: spec.model: no",
        ),
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, "DeadlineExceeded", "DeadlineExceeded"),
        ({"jobStatus": "STOPPED", "jobDeploymentStatus": "Complete"}, "JobFailed", "STOPPED"),
        ({"jobDeploymentStatus": "ValidationFailed", "message": "name too long"}, "JobFailed", "name too long"),
    ],
)
def test_how_a_ray_job_ended(status: Object, reason: str | None, words: str) -> None:
    work = ready(verl()).work
    end = job_end(work, RAY_JOB, {"metadata": {"uid": "u"}, "spec": {}, "status": status}, [], True)
    assert (end and end.reason) == reason
    if end is not None:
        assert words in end.message, "what it said last"
        assert len(end.message) < 1200
        assert end.succeeded == (reason == "Completed")


def test_bad_input_on_many_nodes_asks_nothing_more_of_kuberay() -> None:
    world = World(ready(verl()))
    _until_the_job(world)
    assert world.job is not None
    world.job["status"] = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "message": SAID.format(2)}
    actions = world.reconcile()
    assert world.condition("Failed")["reason"] == "BadInput"
    assert not [action for action in actions if isinstance(action, Apply) and action.kind == RAY_JOB]


def test_a_run_waits_for_environments_and_for_its_volume() -> None:
    waiting = training_plan(
        verl(), owner(), Farm(OperatorSettings(namespace="astra")), census(environment_body("a", "Pending")), claim()
    )
    world = World(replace(waiting, suspend=False))
    _until_the_job(world)
    assert world.job is None
    assert world.condition("EnvironmentsReady")["status"] == world.condition("VolumeShared")["status"] == "False"
