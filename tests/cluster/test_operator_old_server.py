"""The operator where the server drops the rules of definitions: it makes the checks itself."""

import pytest
from clusters import Cluster
from labs import Lab, city, run_spec, with_kinds
from operators import eventually

from astra_api.kube import ENVIRONMENT, TRAINING_RUN
from astra_operator.manifests.job import JOB


@pytest.fixture(scope="module")
def cluster(old_api_server: Cluster) -> Cluster:
    assert not old_api_server.has_cel
    return with_kinds(old_api_server)


def test_bad_environments_name_the_field(lab: Lab) -> None:
    both = city(2) | {"sourceRef": {"configMap": "tools", "key": "a.py"}}
    lab.make(ENVIRONMENT, "both", both)
    lab.wait_phase(ENVIRONMENT, "both", "Rejected")
    assert lab.condition(ENVIRONMENT, "both", "Accepted")["reason"] == "InvalidSpec"
    assert any("exactly one of source and sourceRef" in event for event in lab.events("both"))
    lab.change(ENVIRONMENT, "both", {"sourceRef": None})
    lab.wait_phase(ENVIRONMENT, "both", "Verified")


def test_a_field_that_may_not_change_is_named_until_it_is_as_it_was(lab: Lab) -> None:
    lab.make(ENVIRONMENT, "city", city())
    lab.make(TRAINING_RUN, "tiny", run_spec())
    eventually(lambda: lab.kube.get(JOB, lab.namespace, "train-tiny"), 180, what=lambda: lab.operator.log[-2000:])
    lab.change(TRAINING_RUN, "tiny", {"seed": 5})
    eventually(lambda: lab.condition(TRAINING_RUN, "tiny", "Accepted").get("reason") == "ImmutableField")
    assert any("spec.seed" in event for event in lab.events("tiny"))
    lab.change(TRAINING_RUN, "tiny", {"seed": 0})
    eventually(lambda: lab.condition(TRAINING_RUN, "tiny", "Accepted").get("status") == "True")


def test_bad_runs_name_the_field(lab: Lab) -> None:
    lab.make(TRAINING_RUN, "odd", run_spec(rl={"groupSize": 3, "batchSize": 4}))
    lab.wait_phase(TRAINING_RUN, "odd", "Failed")
    assert "spec.rl" in lab.condition(TRAINING_RUN, "odd", "Accepted")["message"]
    assert any("multiple of groupSize" in event for event in lab.events("odd"))
    lab.make(ENVIRONMENT, "city", city())
    lab.change(TRAINING_RUN, "odd", {"rl": {"batchSize": 6}})
    eventually(lambda: lab.kube.get(JOB, lab.namespace, "train-odd"), 180)
