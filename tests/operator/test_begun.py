"""What a run began with holds, whatever an upgrade brings; what somebody else wrote does not."""

from dataclasses import replace
from typing import Any

from farms import FARM, census, owner, training_run

from astra_api.canonical import digest
from astra_api.pod_template import PodTemplate
from astra_api.training_run import TrainingRun
from astra_operator.begun import Begun, begin, objects_of_pool, read_begun, with_pool
from astra_operator.farm import Farm
from astra_operator.manifests.pool import STATEFUL_SET
from astra_operator.manifests.templates import PodDefaults
from astra_operator.runs import Plan
from astra_operator.settings import KubeRay, Monitoring, OperatorSettings
from astra_operator.training import training_plan

OLD = OperatorSettings(
    namespace="astra",
    sandbox_image="sandbox:1",
    trainer_image="trainer:1",
    canary_targets=("10.0.0.1:443",),
    pod_defaults=PodDefaults(
        trainer=PodTemplate.model_validate(
            {"metadata": {"labels": {"team": "a"}}, "spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}}
        )
    ),
    monitoring=Monitoring(metrics_from=({"podSelector": {}},), tracing_endpoint="http://collector:4318"),
    kuberay=KubeRay(namespace="rays", token=False),
)
NEW = OperatorSettings(namespace="other", sandbox_image="sandbox:2", trainer_image="trainer:2", verifier_replicas=5)


def planned(settings: OperatorSettings, run: TrainingRun | None = None, before: Any = None) -> Plan:
    farm = Farm(settings if before is None else before.settings_over(settings), FARM.policy_version)
    return replace(training_plan(run or training_run(), owner(), farm, census()), begun=before)


def kept(plan: Plan) -> Begun[TrainingRun]:
    data = begin(plan.manifest, plan.settings, plan.pool, plan.wish, plan.begun)
    found = read_begun(TrainingRun, {"data": data}, {"begun": digest(data)})
    assert found is not None
    return found


def test_settings_come_back_as_they_were_but_those_of_the_operator_itself() -> None:
    found = kept(planned(OLD)).settings_over(NEW)
    assert (found.namespace, found.verifier_replicas) == ("other", 5)
    assert replace(found, namespace=OLD.namespace, verifier_replicas=OLD.verifier_replicas) == OLD


def test_an_upgrade_changes_nothing_of_what_runs() -> None:
    begun = kept(planned(OLD))
    before, after = planned(OLD), planned(NEW, before=begun)
    assert after.pool == before.pool
    assert after.work == before.work
    assert objects_of_pool(planned(NEW).pool, begun, before.wish) == objects_of_pool(before.pool, None, ""), (
        "nor where an operator renders pods in another way"
    )


def test_the_pool_is_made_smaller_as_it_was_rendered() -> None:
    begun = kept(planned(OLD))
    objects = objects_of_pool(replace(planned(NEW).pool, replicas=0), begun, begun.wish)
    (made,) = [one.manifest for one in objects if one.kind == STATEFUL_SET]
    assert made["spec"]["replicas"] == 0
    assert made["spec"]["template"]["spec"]["containers"][0]["image"] == "sandbox:1"


def test_a_user_may_change_the_pool_and_the_images_stay() -> None:
    begun = kept(planned(OLD))
    wished = planned(NEW, training_run(sandboxes={"replicas": 4}), begun)
    assert wished.wish != begun.wish
    data = with_pool(begun, wished.pool, wished.wish)
    found = read_begun(TrainingRun, {"data": data}, {"begun": digest(data)})
    assert found is not None
    assert found.run.spec.sandboxes.replicas == 2, "what it began with, as its Job read it"
    (made,) = [one.manifest for one in wished.pool_objects if one.kind == STATEFUL_SET]
    assert made["spec"]["replicas"] == 4
    assert made["spec"]["template"]["spec"]["containers"][0]["image"] == "sandbox:1"


def test_what_the_operator_did_not_write_counts_for_nothing() -> None:
    plan = planned(OLD)
    data = begin(plan.manifest, plan.settings, plan.pool, plan.wish, None)
    forged = {**data, "run.json": data["run.json"].replace('"seed": 0', '"seed": 9')}
    assert forged != data
    assert read_begun(TrainingRun, {"data": forged}, {"begun": digest(data)}) is None
    assert read_begun(TrainingRun, {"data": data}, {}) is None
    assert read_begun(TrainingRun, None, {"begun": digest(data)}) is None
    assert read_begun(TrainingRun, {"data": {}}, {"begun": digest({})}) is None
