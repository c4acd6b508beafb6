"""From the first look at a run to its end, whatever happens in between."""

from dataclasses import replace
from typing import Any

import pytest
from farms import census, environment_body, plan, synthesis_run, training_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import World

from astra_operator.accepting import Problem
from astra_operator.actions import Apply, Delete, Emit
from astra_operator.manifests.job import JOB, QUEUE
from astra_operator.runs import is_over


def started(world: World) -> World:
    """As far as its Job."""
    world.reconcile()
    world.settle_sandboxes()
    world.reconcile()
    world.reconcile()
    return world


def test_a_training_run_from_beginning_to_end() -> None:
    world = World(plan(training_run()))
    world.reconcile()
    assert world.status["phase"] == "Provisioning"
    assert world.job is None, "no Job before its sandboxes serve"
    world.settle_sandboxes()
    world.reconcile()
    assert world.job is not None
    assert world.condition("NetworkIsolated")["reason"] == "EgressRefused"
    world.run_job()
    world.status["phase"] = "Training"  # the trainer says so
    world.reconcile()
    assert world.status["phase"] == "Training"
    world.finish_job()
    world.reconcile()
    assert world.status["phase"] == "Succeeded"
    assert world.condition("Complete")["status"] == "True"
    assert world.replicas == 0, "a finished run keeps no sandboxes"
    world.settle_sandboxes()
    world.reconcile()
    assert is_over({"metadata": {"generation": 1}, "status": world.status})
    assert world.wanted() == []


def test_rights_and_walls_stand_before_the_first_pod() -> None:
    kinds = [action.kind.kind for action in World(plan(training_run())).wanted() if isinstance(action, Apply)]
    assert kinds[-1] == "StatefulSet"
    assert {"ServiceAccount", "Role", "RoleBinding", "NetworkPolicy", "PodDisruptionBudget"} <= set(kinds[:-1])


def test_an_open_network_stops_a_run_that_does_not_accept_it() -> None:
    world = started(World(plan(training_run()), enforced=False))
    assert world.job is None
    assert world.condition("NetworkIsolated")["reason"] == "EgressOpen"
    assert "API server" in world.condition("NetworkIsolated")["message"]
    assert [event.reason for event in world.events if event.type == "Warning"] == ["EgressOpen"]


def test_a_run_may_accept_an_open_network() -> None:
    accepting = training_run(sandboxes={"replicas": 1, "requireNetworkIsolation": False})
    world = started(World(plan(accepting), enforced=False))
    assert world.job is not None
    assert world.condition("NetworkIsolated")["status"] == "False", "and it is said all the same"


def test_no_job_before_a_canary_has_spoken() -> None:
    world = World(plan(training_run(sandboxes={"replicas": 1, "requireNetworkIsolation": False})))
    world.reconcile()
    world.settle_sandboxes()
    for pod in world.pods.values():
        pod["status"]["initContainerStatuses"] = []
    world.reconcile()
    assert world.job is None
    assert world.condition("NetworkIsolated")["status"] == "Unknown"


@pytest.mark.parametrize(
    ("bodies", "reason"),
    [
        ([environment_body("a"), environment_body("b", "Pending")], "Verifying"),
        ([environment_body("a", "Rejected")], "NoneVerified"),
    ],
)
def test_a_run_waits_for_its_environments(bodies: list[dict[str, Any]], reason: str) -> None:
    world = started(World(plan(training_run(), census(*bodies))))
    assert world.job is None
    assert world.status["phase"] == "Pending"
    assert world.condition("EnvironmentsReady")["reason"] == reason
    assert world.objects == {}, "nothing is held while it waits"


def test_suspending_ends_the_job_then_releases_the_pool_and_resuming_begins_again() -> None:
    world = started(World(plan(training_run())))
    world.run_job()
    running, suspended = world.plan, plan(training_run(suspend=True))
    world.plan = suspended
    actions = world.reconcile()
    assert [action.kind for action in actions if isinstance(action, Delete)] == [JOB]
    assert world.replicas == 2, "the trainer ends its step first"
    world.drop_workers()
    world.reconcile()
    assert world.status["phase"] == "Suspended"
    assert world.condition("Suspended")["status"] == "True"
    assert world.replicas == 0
    world.settle_sandboxes()
    world.reconcile()
    assert world.wanted() == []
    world.plan = running
    world.reconcile()
    world.settle_sandboxes()
    world.reconcile()
    assert world.job is not None
    assert world.jobs_made == 2
    world.reconcile()
    assert world.condition("Suspended")["status"] == "False"


def test_no_second_trainer_while_the_first_still_ends() -> None:
    world = started(World(plan(training_run())))
    world.run_job()
    del world.objects["jobs", world.job["metadata"]["name"] if world.job else ""]
    world.reconcile()
    assert world.job is None
    world.drop_workers()
    world.reconcile()
    assert world.job is not None


def test_a_job_that_used_up_its_tries_fails_the_run_with_its_last_words() -> None:
    world = started(World(plan(training_run())))
    world.fail_job("SandboxUnavailable: no server answered")
    world.reconcile()
    assert world.status["phase"] == "Failed"
    assert world.condition("Failed")["reason"] == "RetriesExhausted"
    assert "no server answered" in world.condition("Failed")["message"]
    del world.objects["jobs", world.job["metadata"]["name"] if world.job else ""]
    world.drop_workers()
    world.reconcile()
    assert world.status["phase"] == "Failed", "the end is remembered without the Job"
    assert world.job is None


def test_bad_input_is_not_tried_again() -> None:
    world = started(World(plan(training_run())))
    world.run_job("Failed", 2, "error: spec.model: no such folder")
    world.reconcile()
    assert world.condition("Failed")["reason"] == "BadInput"
    assert "spec.model" in world.condition("Failed")["message"]
    assert world.job is not None
    assert world.job["spec"]["parallelism"] == 0


def test_a_refused_spec_names_the_field_and_is_mended_by_a_better_one() -> None:
    problem = Problem("spec.rl.batchSize", "must be a multiple of groupSize")
    world = World(None, problems=(problem,))
    world.reconcile()
    assert world.status["phase"] == "Failed"
    assert world.condition("Accepted")["reason"] == "InvalidSpec"
    assert [event for event in world.events if "spec.rl.batchSize" in event.message]
    assert world.objects == {}
    world.plan, world.problems = plan(training_run()), ()
    started(world)
    assert world.job is not None
    assert world.condition("Failed")["status"] == "False"


def test_a_changed_immutable_field_is_refused_and_the_run_goes_on() -> None:
    world = started(World(plan(training_run())))
    world.problems = (Problem("spec.seed", "cannot change once the run has begun"),)
    world.reconcile()
    assert world.condition("Accepted")["reason"] == "ImmutableField"
    assert "spec.seed" in world.condition("Accepted")["message"]
    world.finish_job()
    world.reconcile()
    assert world.status["phase"] == "Succeeded"


def test_a_queue_label_goes_to_the_job() -> None:
    world = started(World(plan(training_run(labels={QUEUE: "team-a"}))))
    assert world.job is not None
    assert world.job["metadata"]["labels"][QUEUE] == "team-a"


def test_a_synthesis_run_from_beginning_to_end() -> None:
    world = started(World(plan(synthesis_run()), enforced=False))
    assert world.job is not None, "made environments are checked, not trusted: an open network is no hindrance"
    world.run_job()
    world.reconcile()
    assert world.status["phase"] == "Running"
    world.finish_job()
    world.reconcile()
    assert world.status["phase"] == "Succeeded"


Happening = st.sampled_from(
    [
        "sandboxes",
        "work",
        "trainer speaks",
        "lose a pod",
        "lose an object",
        "edit an object",
        "suspend",
        "resume",
        "nodes",
    ]
)


@given(
    happenings=st.lists(st.tuples(Happening, st.integers(0, 12), st.integers(0, 99)), max_size=25),
    required=st.booleans(),
    enforced=st.booleans(),
    nodes=st.sampled_from([0, 1, 3]),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_a_run_completes_whatever_happens_and_whenever_the_operator_is_killed(
    happenings: list[tuple[str, int, int]], required: bool, enforced: bool, nodes: int
) -> None:
    """`nodes`: of engine verl; 0 is engine embedded."""
    verl = {"engine": "verl", "trainer": {"nodes": nodes, "gpusPerNode": 8}, "checkpoint": {"size": "1Ti"}}
    run = training_run(sandboxes={"replicas": 2, "requireNetworkIsolation": required}, **(verl if nodes else {}))
    going = plan(run)
    world = World(going, enforced=enforced)
    for happening, killed_after, choice in happenings:
        _happen(world, happening, choice)
        world.reconcile(killed_after)
        assert sum(key[0] in ("jobs", "rayjobs") for key in world.objects) <= 1
        assert enforced or not required or world.job is None, "a Job without the isolation that the run requires"
    world.plan = going
    for _ in range(4):
        world.settle_sandboxes()
        world.reconcile()
        if not world.job:
            world.drop_workers()
    if required and not enforced:
        assert world.job is None
        assert world.status["phase"] == "Provisioning"
        return
    assert world.job is not None
    world.finish_job()
    for _ in range(3):
        world.reconcile()
        world.settle_sandboxes()
    assert world.status["phase"] == "Succeeded"
    assert world.replicas == 0
    assert world.wanted() == [], "nothing is left to do"


def _happen(world: World, happening: str, choice: int) -> None:
    assert world.plan is not None
    match happening:
        case "sandboxes":
            world.settle_sandboxes()
        case "work" if world.job is not None:
            world.run_job()
        case "trainer speaks" if world.job is not None:
            world.status["phase"] = "Training"
        case "lose a pod" if world.pods:
            del world.pods[sorted(world.pods)[choice % len(world.pods)]]
        case "lose an object" if world.objects:
            del world.objects[sorted(world.objects)[choice % len(world.objects)]]
        case "edit an object" if world.objects:
            body = world.objects[sorted(world.objects)[choice % len(world.objects)]]
            body["metadata"]["labels"] = {}
        case "suspend":
            world.plan = replace(world.plan, suspend=True)
        case "resume":
            world.plan = replace(world.plan, suspend=False)
        case "nodes" if world.plan.work.ray:
            world.plan = replace(world.plan, work=replace(world.plan.work, nodes=choice % 3 + 1))


def test_what_is_told_once_is_not_told_again() -> None:
    world = started(World(plan(training_run()), enforced=False))
    for _ in range(3):
        assert not [action for action in world.reconcile() if isinstance(action, Emit)]
