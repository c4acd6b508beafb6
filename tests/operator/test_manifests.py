"""What the operator makes: hardened, well-named, and as small in rights as can be."""

import re
from typing import Any

import pytest
from farms import FARM, census, environment, environment_body, owner, plan, synthesis_run, training_run
from hypothesis import given
from hypothesis import strategies as st

from astra_api.synthesis_run import SynthesisRun
from astra_operator.actions import Apply
from astra_operator.admission import admit
from astra_operator.environments import dedicated_pool
from astra_operator.manifests.identity import OWNER_UID, Owner
from astra_operator.manifests.job import access_objects, claim_object, job_object, run_object
from astra_operator.manifests.pool import CANARY, pool_objects
from astra_operator.synthesis import unrunnable
from astra_operator.training import manifest_of

TRAINING, SYNTHESIS = plan(training_run()), plan(synthesis_run())
RAY = plan(training_run("ray", engine="verl", trainer={"nodes": 2, "gpusPerNode": 8}, checkpoint={"size": "1Ti"}))


def manifests() -> list[dict[str, Any]]:
    made: list[Apply] = []
    for asked in (TRAINING, SYNTHESIS, RAY):
        made += [*access_objects(asked.work), *asked.extra, *pool_objects(asked.pool), job_object(asked.work)]
        made.append(run_object(asked.work, asked.manifest))
    made += pool_objects(dedicated_pool(environment(sandbox={"replicas": 2}), owner("Environment"), FARM, 2))
    return [action.manifest for action in made]


def pod_specs() -> list[dict[str, Any]]:
    specs = [made["spec"]["template"]["spec"] for made in manifests() if "template" in made.get("spec", {})]
    cluster = job_object(RAY.work).manifest["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return specs + [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("spec", pod_specs())
def test_pods_are_restricted(spec: dict[str, Any]) -> None:
    """Pod Security's level restricted, and a read-only root with limits besides."""
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "secret", "configMap", "persistentVolumeClaim"}
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


def test_sandbox_pods_have_no_token_and_gvisor() -> None:
    pool = next(made for made in manifests() if made["kind"] == "StatefulSet")
    spec = pool["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec
    assert spec["runtimeClassName"] == "gvisor"
    command = spec["containers"][0]["command"]
    assert command[command.index("--contain") + 1] == "namespaces", "it starts contained, or not at all"
    assert [container["name"] for container in spec["initContainers"]] == [CANARY]


def test_servers_and_clients_get_their_own_keys_only() -> None:
    def files(spec: dict[str, Any]) -> set[str]:
        return {item["key"] for volume in spec["volumes"] if "secret" in volume for item in volume["secret"]["items"]}

    assert files(_of("StatefulSet")) == {"ca.crt", "server.crt", "server.key"}
    assert files(_of("Job")) == {"ca.crt", "client.crt", "client.key"}


def test_a_pool_admits_its_own_trainer_and_lets_nothing_out() -> None:
    policy = next(made for made in manifests() if made["kind"] == "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    (rule,) = policy["ingress"]
    labels = rule["from"][0]["podSelector"]["matchLabels"]
    job = job_object(TRAINING.work).manifest["spec"]["template"]["metadata"]["labels"]
    assert labels.items() <= job.items()
    other = Owner("TrainingRun", "other", "lab", "u").labels("trainer")
    assert not labels.items() <= other.items()


def test_rights() -> None:
    def rules(made: list[Apply]) -> list[dict[str, Any]]:
        return next(action.manifest for action in made if action.manifest["kind"] == "Role")["rules"]

    assert rules(access_objects(SYNTHESIS.work)) == [
        {"apiGroups": ["astra.farm"], "resources": ["environments"], "verbs": ["create"]},
        {
            "apiGroups": ["astra.farm"],
            "resources": ["synthesisruns/status"],
            "resourceNames": ["tables"],
            "verbs": ["patch"],
        },
    ]
    reads, writes = rules(access_objects(TRAINING.work))
    assert reads["verbs"] == ["get", "list"]
    assert reads["resources"] == ["environments"]
    assert writes["resourceNames"] == ["tiny"]
    assert writes["verbs"] == ["patch"]


def test_a_trainer_may_read_the_sources_it_needs_and_no_other() -> None:
    body = environment_body("big", labels={"set": "a"})
    body["spec"] = {**body["spec"], "source": None, "sourceRef": {"configMap": "big-source", "key": "tool.py"}}
    found = census(body, environment_body("small"))
    selecting = plan(training_run(environments={"selector": {"matchLabels": {"set": "a"}}}), found)
    (rule,) = [rule for rule in selecting.work.rules if "configmaps" in rule["resources"]]
    assert rule["resourceNames"] == ["big-source"]
    assert not [rule for rule in plan(training_run()).work.rules if "configmaps" in rule["resources"]]


def test_environments_with_pods_of_their_own_bring_their_certificates() -> None:
    body = environment_body("alone")
    body["spec"] = {**body["spec"], "sandbox": {"isolation": "pod", "replicas": 2}}
    starting = plan(training_run(), census(body, environment_body("usual")))
    assert starting.gates[0].status == "False", "until its pods are there"
    body["status"]["conditions"].append({"type": "Ready", "status": "True", "reason": "Serving"})
    ready = plan(training_run(), census(body, environment_body("usual")))
    assert ready.gates[0].status == "True"
    (volume,) = [one for one in ready.work.volumes if "projected" in one]
    (source,) = volume["projected"]["sources"]
    assert source["secret"]["name"] == "env-alone-tls"
    paths = {item["key"]: item["path"] for item in source["secret"]["items"]}
    assert paths == {name: f"alone/{name}" for name in ("client.crt", "client.key", "ca.crt")}
    (mount,) = [one for one in ready.work.mounts if one["name"] == volume["name"]]
    assert ready.work.variables["ASTRA_OWN_TLS_DIR"] == mount["mountPath"]
    usual = plan(training_run(), census(environment_body("usual")))
    assert not [one for one in usual.work.volumes if "projected" in one]


def test_a_volume_is_asked_for_only_where_none_is_named() -> None:
    own = plan(training_run(checkpoint={"size": "10Gi"}))
    assert own.extra == (claim_object(own.work.owner, "10Gi", retain=True),)
    assert _claim(own.work) == "train-tiny"
    given_one = plan(training_run(checkpoint={"claimName": "mine", "size": "10Gi"}))
    assert given_one.extra == ()
    assert _claim(given_one.work) == "mine"


def test_the_run_is_handed_over_whole() -> None:
    run = training_run(seed=3, suspend=True)
    handed = type(run).model_validate_json(manifest_of(run))
    assert handed.spec == run.spec.model_copy(update={"suspend": False})


def test_all_is_owned_and_labelled() -> None:
    for made in manifests():
        if made["kind"] == "PersistentVolumeClaim":  # it outlives the run, and says whose it was
            assert "ownerReferences" not in made["metadata"]
            assert made["metadata"]["annotations"][OWNER_UID] == "uid-1"
        else:
            (reference,) = made["metadata"]["ownerReferences"]
            assert reference["uid"] == "uid-1"
        assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "astra-farm-operator"


names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?(\.[a-z0-9]{1,20}){0,4}", fullmatch=True)


def test_keys_of_teacher_and_judge_come_by_reference() -> None:
    endpoints = {
        part: {
            "type": "openai",
            "baseUrl": "http://vllm:8000/v1",
            "model": part,
            "apiKeySecret": {"name": part, "key": "k"},
        }
        for part in ("teacher", "judge")
    }
    source = {"source": {"type": "knowledge", "domains": ["rivers"]}, "hops": {"min": 1, "max": 2}}
    job = job_object(plan(synthesis_run(environments=source, **endpoints)).work).manifest
    (container,) = job["spec"]["template"]["spec"]["containers"]
    found = {each["name"]: each["valueFrom"] for each in container["env"] if "valueFrom" in each}
    for part in endpoints:
        wanted = {"secretKeyRef": {"name": part, "key": "k"}}
        assert found[f"ASTRA_{part.upper()}_API_KEY"] == wanted


def test_a_synthesis_reads_and_keeps_on_its_volume() -> None:
    source = {"source": {"type": "questions", "path": "questions.txt"}}
    teacher = {"baseUrl": "http://vllm:8000/v1", "model": "m"}
    volume = {"claimName": "runs"}
    run = synthesis_run(environments=source, teacher=teacher, volume=volume)
    pod = job_object(plan(run).work).manifest["spec"]["template"]["spec"]
    assert {"name": "volume", "persistentVolumeClaim": volume} in pod["volumes"]
    (container,) = pod["containers"]
    assert {"name": "volume", "mountPath": "/volume"} in container["volumeMounts"]
    told = {each["name"]: each.get("value") for each in container["env"]}
    assert (told["ASTRA_FILES"], told["ASTRA_OUT"]) == ("/volume", "/volume/tables")
    assert unrunnable(run, FARM) == []


def test_a_path_that_no_job_could_read_is_refused_by_its_field() -> None:
    body = synthesis_run(environments={"source": {"type": "tables", "path": "pack.yaml"}}).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    refused = admit(SynthesisRun, body, None, FARM)
    assert refused.run is None
    assert [problem.field for problem in refused.problems] == ["spec.environments.source.path"]
    body["spec"]["volume"] = {"claimName": "runs"}
    assert admit(SynthesisRun, body, None, FARM).problems == []


kinds = st.sampled_from(["Environment", "SynthesisRun", "TrainingRun"])


@given(one=st.tuples(kinds, names), other=st.tuples(kinds, names))
def test_names_are_valid_and_never_meet(one: tuple[str, str], other: tuple[str, str]) -> None:
    first, second = (Owner(kind, name, "lab", "u").base for kind, name in (one, other))
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", first)
    assert len(f"{first}-sandbox") <= 52, "a StatefulSet's pods carry its name and a hash in a label"
    assert (first == second) == (one == other)


def _of(kind: str) -> dict[str, Any]:
    return next(made for made in manifests() if made["kind"] == kind)["spec"]["template"]["spec"]


def _claim(work: Any) -> str:
    volumes = job_object(work).manifest["spec"]["template"]["spec"]["volumes"]
    return next(v["persistentVolumeClaim"]["claimName"] for v in volumes if v["name"] == "checkpoint")
