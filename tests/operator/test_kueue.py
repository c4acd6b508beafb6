"""A run in a queue of Kueue's: its Job waits suspended, its pool comes after admission, preemption suspends it."""

from pathlib import Path
from typing import Any

import pytest
from farms import FARM, NAMESPACE, census, environment_body, owner, training_run
from farms import plan as planned
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import World

from astra_api.manifests import load_manifests
from astra_api.training_run import TrainingRun
from astra_operator.manifests.job import GATE, JOB, QUEUE, RAY_JOB
from astra_operator.manifests.pool import STATEFUL_SET
from astra_operator.training import training_plan, unrunnable

KUEUE = {
    QUEUE: "team-a",
    "kueue.x-k8s.io/priority-class": "high",
    "kueue.x-k8s.io/max-exec-time-seconds": "3600",
}
TOPOLOGY = {"kueue.x-k8s.io/podset-required-topology": "cloud.provider.com/rack"}
VERL = {"engine": "verl", "trainer": {"nodes": 3, "gpusPerNode": 8}, "checkpoint": {"size": "1Ti"}}


def run(suspend: bool = False, **changes: Any) -> Any:
    made = training_run(labels={**KUEUE, "team": "a"}, suspend=suspend, **changes)
    return made.model_copy(update={"metadata": made.metadata.model_copy(update={"annotations": TOPOLOGY})})


def queued(**changes: Any) -> World:
    world = World(planned(run(**changes)))
    world.reconcile()
    world.reconcile()
    return world


def admit(world: World, admitted: bool = True) -> None:
    """What Kueue does."""
    assert world.job is not None
    world.job["spec"]["suspend"] = not admitted


def admitted(**changes: Any) -> World:
    world = queued(**changes)
    admit(world)
    world.reconcile()
    return world


@pytest.mark.parametrize("changes", [{}, VERL], ids=["Job", "RayJob"])
def test_the_job_is_made_suspended_and_nothing_else_runs(changes: Any) -> None:
    world = queued(**changes)
    assert world.job is not None
    assert world.job["spec"]["suspend"] is True
    assert world.replicas == 0
    assert world.status["phase"] == "Pending"
    assert (world.condition("Queued")["status"], world.condition("Queued")["reason"]) == ("True", "WaitingForAdmission")
    assert world.condition("QuotaReserved")["status"] == "False"
    assert world.condition("Ready")["status"] == "False"
    assert world.condition("Suspended")["status"] == "False", "it waits; nobody paused it"
    assert [event.reason for event in world.events] == ["WaitingForAdmission"]
    rights = {kind for kind, _ in world.objects} & {"serviceaccounts", "roles", "rolebindings", "configmaps"}
    assert len(rights) == 4, "what its pods need is there when Kueue lets it go"


@pytest.mark.parametrize("changes", [{}, VERL], ids=["Job", "RayJob"])
def test_all_that_is_kueues_travels(changes: Any) -> None:
    world = admitted(**changes)
    job = world.job
    assert job is not None
    assert KUEUE.items() <= job["metadata"]["labels"].items()
    assert TOPOLOGY.items() <= job["metadata"]["annotations"].items()
    assert "team" not in job["metadata"]["labels"]
    cluster = job["spec"].get("rayClusterSpec")
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]] if cluster else [job["spec"]]
    for group in groups:
        assert TOPOLOGY.items() <= group["template"]["metadata"]["annotations"].items()
        assert group["template"]["spec"]["schedulingGates"] == [{"name": GATE}]
    pool = world.objects[STATEFUL_SET.plural, "train-tiny-sandbox"]["metadata"]["labels"]
    assert (pool[QUEUE], pool["kueue.x-k8s.io/priority-class"]) == ("team-a", "high")
    assert "kueue.x-k8s.io/max-exec-time-seconds" not in pool, "that is the Job's"


def test_nothing_of_kueue_without_a_queue() -> None:
    labels = {key: value for key, value in KUEUE.items() if key != QUEUE}
    world = World(planned(training_run(labels=labels)))
    world.reconcile()
    world.settle_sandboxes()
    world.reconcile()
    assert world.job is not None
    assert "suspend" not in world.job["spec"]
    assert "schedulingGates" not in world.job["spec"]["template"]["spec"]
    assert not [label for label in world.job["metadata"]["labels"] if label.startswith("kueue")]
    assert not [one for one in world.status["conditions"] if one["type"] in ("Queued", "QuotaReserved")]


def test_pods_wait_at_the_gate_until_their_sandboxes_serve_and_are_isolated() -> None:
    world = admitted()
    assert world.replicas == 2
    assert world.condition("QuotaReserved")["status"] == "True"
    assert world.condition("Queued")["status"] == "False"
    world.run_job("Pending")
    (pod,) = [name for name in world.pods if name.startswith("worker")]
    world.reconcile()
    assert world.pods[pod]["spec"]["schedulingGates"] == [{"name": GATE}]
    assert world.status["phase"] == "Provisioning"
    world.enforced = False
    world.settle_sandboxes()
    world.reconcile()
    assert world.pods[pod]["spec"]["schedulingGates"] == [{"name": GATE}], "the network is open"
    world.enforced = True
    world.settle_sandboxes()
    world.pods[pod]["spec"]["schedulingGates"].append({"name": "of.others/gate"})
    world.reconcile()
    assert world.pods[pod]["spec"]["schedulingGates"] == [{"name": "of.others/gate"}]


def test_preemption_suspends_the_run_and_it_goes_on_when_it_is_admitted_again() -> None:
    world = admitted()
    world.settle_sandboxes()
    world.run_job()
    world.status["phase"] = "Training"
    world.reconcile()
    assert world.status["phase"] == "Training"
    admit(world, False)
    world.reconcile()
    assert world.replicas == 2, "the trainer ends its step first"
    world.drop_workers()
    world.reconcile()
    assert world.replicas == 0, "the pool gives its share back"
    assert world.status["phase"] == "Suspended"
    assert world.condition("Suspended")["reason"] == "Preempted"
    assert world.condition("Queued")["status"] == "True"
    assert world.condition("QuotaReserved")["reason"] == "Preempted"
    world.settle_sandboxes()
    world.reconcile()
    assert world.condition("Suspended")["reason"] == "Preempted", "also when it is looked at again"
    assert world.wanted() == []
    admit(world)
    world.reconcile()
    assert world.replicas == 2
    assert world.condition("Suspended")["status"] == "False"
    assert world.jobs_made == 1, "it is the same Job, and the same volume"
    world.settle_sandboxes()
    world.finish_job()
    world.reconcile()
    assert world.status["phase"] == "Succeeded"


def test_a_user_who_suspends_gives_the_place_in_the_queue_back() -> None:
    world = admitted()
    world.settle_sandboxes()
    going, world.plan = world.plan, planned(run(suspend=True))
    world.reconcile()
    world.reconcile()
    assert world.job is None
    assert world.status["phase"] == "Suspended"
    assert world.condition("Suspended")["reason"] == "Suspended"
    assert world.condition("Queued")["reason"] == "NotQueued"
    world.settle_sandboxes()
    world.plan = going
    world.reconcile()
    assert world.job is not None
    assert world.job["spec"]["suspend"] is True, "it waits anew"
    assert world.status["phase"] == "Pending"


def test_the_example_goes_through_its_queue_with_what_it_says_of_its_pods() -> None:
    example = load_manifests([Path(__file__).parents[2] / "examples" / "train-in-a-queue.yaml"])[0].resource
    assert isinstance(example, TrainingRun)
    here = example.model_copy(update={"metadata": example.metadata.model_copy(update={"namespace": NAMESPACE})})
    assert unrunnable(here, FARM) == []
    world = World(training_plan(here, owner(name="queued"), FARM, census()))
    world.reconcile()
    world.reconcile()
    assert world.condition("Queued")["status"] == "True"
    admit(world)
    world.reconcile()
    world.settle_sandboxes()
    world.run_job("Pending")
    world.reconcile()
    assert world.job is not None
    spec = world.job["spec"]
    pod = spec["template"]["spec"]
    assert spec["activeDeadlineSeconds"] == 86400
    assert pod["nodeSelector"] == {"node-pool": "training"}
    assert spec["template"]["metadata"]["labels"]["team"] == "a"
    assert {"secretRef": {"name": "snapshots"}} in pod["containers"][0]["envFrom"]
    pool = world.objects[STATEFUL_SET.plural, "train-queued-sandbox"]["spec"]
    assert (pool["replicas"], pool["template"]["spec"]["nodeSelector"]) == (4, {"node-pool": "sandboxes"})
    assert world.objects["persistentvolumeclaims", "train-queued"]["spec"]["storageClassName"] == "fast"
    assert not [one for name, one in world.pods.items() if name.startswith("worker") and one["spec"]["schedulingGates"]]


def test_a_run_waits_for_its_environments_before_it_waits_in_the_queue() -> None:
    world = World(training_plan(run(), owner(), FARM, census(environment_body("a", "Pending"))))
    world.reconcile()
    assert world.job is None
    assert world.objects == {}
    assert world.condition("Queued")["reason"] == "NotQueued"


@given(
    happenings=st.lists(
        st.tuples(
            st.sampled_from(["sandboxes", "admit", "preempt", "work", "drop", "suspend", "resume"]), st.integers(0, 12)
        ),
        max_size=25,
    )
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_no_pod_of_ours_runs_that_kueue_did_not_admit(happenings: list[tuple[str, int]]) -> None:
    going = planned(run())
    world = World(going)
    for happening, killed_after in happenings:
        match happening:
            case "sandboxes":
                world.settle_sandboxes()
            case "admit" if world.job is not None:
                admit(world)
            case "preempt" if world.job is not None:
                admit(world, False)
                world.drop_workers()
            case "work" if world.job is not None and not world.job["spec"]["suspend"]:
                world.run_job("Pending")
            case "drop":
                world.drop_workers()
            case "suspend":
                world.plan = planned(run(suspend=True))
            case "resume":
                world.plan = going
        world.reconcile(killed_after)
        open_gates = [
            pod for name, pod in world.pods.items() if name.startswith("worker") and not pod["spec"]["schedulingGates"]
        ]
        assert world.replicas or not open_gates or world.plan is not going
    world.plan = going
    for _ in range(4):
        if world.job is not None:
            admit(world)
        else:
            world.drop_workers()
        world.settle_sandboxes()
        world.reconcile()
    world.finish_job()
    world.reconcile()
    assert world.status["phase"] == "Succeeded"
    assert {JOB.plural, RAY_JOB.plural} & {kind for kind, _ in world.objects} == {JOB.plural}
