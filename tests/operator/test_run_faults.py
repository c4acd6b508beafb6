"""What goes wrong around a run: refusals, objects of others, an end that is none, time that is up."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from farms import plan, synthesis_run, training_run
from test_runs import started
from worlds import NOW, World

from astra_operator.actions import Again, Apply, Delete, Emit
from astra_operator.manifests.job import JOB
from astra_operator.manifests.pool import STATEFUL_SET
from astra_operator.ownership import Foreign
from astra_operator.runs import is_over

# refusals


def test_a_refusal_is_a_condition_and_an_event_with_the_servers_words() -> None:
    world = World(plan(training_run()))
    world.refused = {"StatefulSet": "Forbidden: exceeded quota: pods=2"}
    actions = world.reconcile()
    provisioned = world.condition("Provisioned")
    assert (provisioned["status"], provisioned["reason"]) == ("False", "Refused")
    assert "exceeded quota: pods=2" in provisioned["message"]
    assert [event.message for event in world.events if event.reason == "Refused"] == [provisioned["message"]]
    assert any(isinstance(action, Again) for action in actions), "nothing tells when the quota grows"
    assert {kind for kind, _ in world.objects} >= {"networkpolicies", "roles", "secrets"}, "the rest is made"
    world.reconcile()
    assert len([event for event in world.events if event.reason == "Refused"]) == 1, "told once"
    world.refused = {}
    world.reconcile()
    assert world.condition("Provisioned")["status"] == "True"


def test_nothing_is_called_provisioned_while_an_object_could_not_be_made_yet() -> None:
    world = World(plan(training_run()))
    world.unavailable = {"NetworkPolicy"}
    world.reconcile()
    assert all(one["type"] != "Provisioned" for one in world.status["conditions"])
    world.unavailable = set()
    world.reconcile()
    assert world.condition("Provisioned")["status"] == "True"


def test_what_controllers_could_not_create_is_told_too() -> None:
    world = World(plan(training_run()))
    world.reconcile()
    world.not_created = ("StatefulSet train-tiny-sandbox: pods forbidden: maximum memory usage is 1Gi",)
    world.reconcile()
    assert "maximum memory usage" in world.condition("Provisioned")["message"]


def test_a_claim_that_cannot_shrink_blocks_no_suspension() -> None:
    world = started(World(plan(training_run(checkpoint={"size": "2Gi"}))))
    world.run_job()
    world.plan = plan(training_run(checkpoint={"size": "1Gi"}, suspend=True))
    world.refused = {"PersistentVolumeClaim": "Invalid: field can not be less than previous value"}
    actions = world.reconcile()
    kinds = [type(action) for action in actions]
    assert kinds.index(Delete) < kinds.index(Apply), "pausing comes before what may be refused"
    assert world.job is None
    world.drop_workers()
    world.reconcile()
    assert world.status["phase"] == "Suspended"
    assert "can not be less" in world.condition("Provisioned")["message"]


# objects of others


@pytest.mark.parametrize(
    "other",
    [
        Foreign("ServiceAccount", "serviceaccounts", "train-tiny"),
        Foreign("RoleBinding", "rolebindings", "train-tiny"),
        Foreign("ConfigMap", "configmaps", "train-tiny"),
        Foreign("Secret", "secrets", "train-tiny-tls"),
        Foreign("PersistentVolumeClaim", "persistentvolumeclaims", "train-tiny"),
        Foreign("Job", "jobs", "train-tiny"),
        Foreign("StatefulSet", "statefulsets", "train-tiny-sandbox"),
        Foreign("NetworkPolicy", "networkpolicies", "train-tiny-sandbox"),
    ],
    ids=lambda other: other.kind,
)
def test_an_object_of_somebody_else_is_named_and_left_alone(other: Foreign) -> None:
    world = World(plan(training_run(checkpoint={"size": "1Gi"})), foreign=(other,))
    for _ in range(3):
        actions = world.reconcile()
        touched = [action.key for action in actions if isinstance(action, Apply)]
        assert (other.plural, other.name) not in touched
        world.settle_sandboxes()
    assert world.job is None
    assert world.replicas == 0, "no pod starts beside it"
    found = world.condition("Provisioned")
    assert (found["status"], found["reason"]) == ("False", "ForeignObject")
    assert f"{other.kind} {other.name}" in found["message"]
    assert [event.reason for event in world.events] == ["ForeignObject"]
    world.foreign = ()
    started(world)
    assert world.job is not None
    assert world.condition("Provisioned")["status"] == "True"


def test_objects_of_an_earlier_run_are_waited_for_without_an_alarm() -> None:
    world = World(plan(training_run()), foreign=(Foreign("Job", "jobs", "train-tiny", earlier=True),))
    actions = world.reconcile()
    assert world.condition("Provisioned")["reason"] == "Collecting"
    assert not world.events
    assert min(action.seconds for action in actions if isinstance(action, Again)) < 5


# an end that is none


def failed(**trainer: Any) -> World:
    world = started(World(plan(training_run(trainer={"retries": 1, **trainer}))))
    world.fail_job("out of memory")
    world.reconcile()
    world.settle_sandboxes()
    world.reconcile()
    assert world.status["phase"] == "Failed"
    assert (world.condition("Ready")["status"], world.condition("Stalled")["status"]) == ("False", "True")
    assert "out of memory" in world.condition("Stalled")["message"]
    return world


def _goes_on(world: World) -> None:
    for _ in range(3):
        world.reconcile()
        world.settle_sandboxes()
        if world.job is None:
            world.drop_workers()
    world.reconcile()
    assert world.job is not None
    assert world.jobs_made == 2
    assert world.condition("Failed")["status"] == "False"
    assert world.condition("Stalled")["status"] == "False"
    world.finish_job()
    world.reconcile()
    assert world.status["phase"] == "Succeeded"


def test_more_retries_let_a_failed_run_go_on() -> None:
    world = failed()
    world.plan = plan(training_run(trainer={"retries": 1}))
    assert world.wanted() == [], "the same number does not"
    world.plan = plan(training_run(trainer={"retries": 5}))
    _goes_on(world)


def test_suspending_and_resuming_lets_a_failed_run_go_on() -> None:
    world = failed()
    going, world.plan = world.plan, plan(training_run(trainer={"retries": 1}, suspend=True))
    for _ in range(2):
        world.reconcile()
        world.drop_workers()
    assert world.status["phase"] == "Suspended"
    assert world.condition("Failed")["reason"] == "NotFailed"
    world.plan = going
    _goes_on(world)


def test_a_run_that_goes_on_fails_again_when_its_new_tries_are_used_up() -> None:
    world = failed()
    world.plan = plan(training_run(trainer={"retries": 5}))
    for _ in range(3):
        world.reconcile()
        world.settle_sandboxes()
        if world.job is None:
            world.drop_workers()
    world.fail_job("again")
    world.reconcile()
    world.reconcile()
    assert world.status["phase"] == "Failed"
    assert "again" in world.condition("Failed")["message"]
    assert world.jobs_made == 2


def test_a_completed_run_stays_so() -> None:
    world = started(World(plan(training_run())))
    world.finish_job()
    world.reconcile()
    world.settle_sandboxes()
    world.reconcile()
    world.plan = plan(training_run(suspend=True, trainer={"retries": 9}))
    world.generation = 2
    world.reconcile()
    assert world.status["phase"] == "Succeeded"
    assert world.jobs_made == 1
    assert world.status["observedGeneration"] == 2


def test_only_a_completed_run_with_nothing_new_is_over() -> None:
    def body(kind: str, generation: int = 1, ttl: int | None = None) -> dict[str, Any]:
        status = {"conditions": [{"type": kind, "status": "True", "reason": "R"}], "observedGeneration": 1}
        return {"metadata": {"generation": generation}, "spec": {"ttlSecondsAfterFinished": ttl}, "status": status}

    assert is_over(body("Complete"))
    assert not is_over(body("Complete", generation=2))
    assert not is_over(body("Complete", ttl=60))
    assert not is_over(body("Failed"))


# what others read


def test_ready_says_that_it_does_its_work_or_has_done_it() -> None:
    world = World(plan(training_run()))
    world.reconcile()
    assert world.condition("Ready")["status"] == "False"
    assert world.status["observedGeneration"] == 1
    world.settle_sandboxes()
    world.reconcile()
    world.run_job()
    world.status["phase"] = "Training"
    world.reconcile()
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("True", "Training")
    world.finish_job()
    world.reconcile()
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("True", "Succeeded")
    assert all(one["observedGeneration"] == 1 for one in world.status["conditions"])


# time that is up


@pytest.mark.parametrize("kind", ["TrainingRun", "SynthesisRun"])
def test_a_run_is_deleted_when_its_time_after_the_end_is_up(kind: str) -> None:
    make = training_run if kind == "TrainingRun" else synthesis_run
    world = started(World(plan(make(ttlSecondsAfterFinished=60))))
    world.finish_job()
    world.reconcile()
    world.settle_sandboxes()
    (again,) = [action for action in world.reconcile() if isinstance(action, Again)]
    assert 60 <= again.seconds <= 62
    world.now = NOW + timedelta(seconds=59)
    world.reconcile()
    assert not world.deleted
    world.now = NOW + timedelta(seconds=61)
    world.reconcile()
    assert world.deleted


def test_a_run_that_has_not_ended_is_never_deleted() -> None:
    world = started(World(plan(training_run(ttlSecondsAfterFinished=0))))
    world.run_job()
    world.now = NOW + timedelta(days=900)
    world.reconcile()
    assert not world.deleted


@pytest.mark.parametrize("retain", [True, False])
def test_a_claim_outlives_its_run_unless_it_shall_not(retain: bool) -> None:
    world = World(plan(training_run(checkpoint={"size": "1Gi", "retain": retain})))
    world.reconcile()
    metadata = world.objects["persistentvolumeclaims", "train-tiny"]["metadata"]
    assert bool(metadata.get("ownerReferences")) is not retain
    assert metadata["annotations"]["astra.farm/owner-uid"] == "uid-1"


@pytest.mark.parametrize("happening", ["deleted", "changed", "not in the status"])
def test_what_a_run_began_with_is_written_anew_where_it_was_lost(happening: str) -> None:
    world = started(World(plan(training_run())))
    world.run_job()
    world.reconcile()
    kept = world.objects["configmaps", "train-tiny"]
    match happening:
        case "deleted":
            del world.objects["configmaps", "train-tiny"]
        case "changed":
            kept["data"] = {**kept["data"], "run.json": "{}"}
        case _:
            del world.status["begun"]
    assert world.begun is None
    world.reconcile()
    assert world.begun is not None
    assert world.begun.run.spec == training_run().spec
    assert world.jobs_made == 1


def test_an_upgrade_of_the_farm_changes_nothing_of_a_run_that_has_begun() -> None:
    world = started(World(plan(training_run())))
    world.run_job()
    world.reconcile()
    assert world.begun is not None
    assert world.plan is not None
    newer = replace(world.plan, pool=replace(world.plan.pool, image="sandbox:2", capacity=7))
    world.plan = newer
    assert not [action for action in world.wanted() if isinstance(action, Apply | Emit)]
    (pool,) = [one for (kind, _), one in world.objects.items() if kind == STATEFUL_SET.plural]
    assert pool["spec"]["template"]["spec"]["containers"][0]["image"] != "sandbox:2"
    assert JOB.plural in {kind for kind, _ in world.objects}
