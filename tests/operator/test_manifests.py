"""What the operator makes: hardened, well-named, and as small in rights as can be."""

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest
from farms import FARM, census, environment, environment_body, owner, plan, synthesis_run, training_run
from hypothesis import given
from hypothesis import strategies as st

from astra_api.errors import BadInput
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_operator.actions import Apply
from astra_operator.admission import admit
from astra_operator.environments import dedicated_pool
from astra_operator.farm import Farm, knows_pod_failure_policy
from astra_operator.manifests.identity import OWNER_UID, Owner
from astra_operator.manifests.job import access_objects, claim_object, job_object, run_object
from astra_operator.manifests.pool import CANARY, pod_template, pool_objects
from astra_operator.manifests.quantities import canonical_quantity
from astra_operator.runs import Plan
from astra_operator.settings import Monitoring, OperatorSettings
from astra_operator.synthesis import synthesis_plan, unrunnable
from astra_operator.training import manifest_of, training_plan
from astra_operator.training import unrunnable as training_unrunnable
from astra_sandbox.command import _parser

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
    assert security["fsGroupChangePolicy"] == "OnRootMismatch", "a volume of millions of files is not walked each time"
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


def test_a_claim_that_is_made_has_the_class_and_the_size_as_servers_write_it() -> None:
    own = plan(training_run(checkpoint={"size": "1024Gi", "storageClassName": "fast"}))
    (made,) = (action.manifest for action in own.extra)
    assert made["spec"]["storageClassName"] == "fast"
    assert made["spec"]["resources"]["requests"]["storage"] == "1Ti"
    (made,) = (action.manifest for action in plan(training_run(checkpoint={"size": "1Gi"})).extra)
    assert "storageClassName" not in made["spec"], "the cluster's default"


def test_models_are_kept_on_the_cache_where_there_is_one() -> None:
    pod = _job(plan(training_run(checkpoint={"claimName": "runs"}, trainer={"modelCacheClaim": "hub"})))
    assert _variables(pod)["HF_HOME"] == "/models"
    assert _mounted(pod, "/models")["persistentVolumeClaim"] == {"claimName": "hub"}
    assert _mounted(pod, "/checkpoint")["persistentVolumeClaim"] == {"claimName": "runs"}


def test_an_object_store_s_key_is_read_by_the_trainer_alone() -> None:
    def made(url: str, secret: str | None = "bucket") -> Plan:
        return plan(training_run(checkpoint={"objectStore": {"url": url} | ({"secret": secret} if secret else {})}))

    pod = _job(made("s3://bucket/runs"))
    (container,) = pod["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert _mounted(pod, "/etc/astra/object-store")["secret"]["secretName"] == "bucket"
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in _variables(pod)
    pod = _job(made("gs://bucket/runs"))
    assert _variables(pod)["GOOGLE_APPLICATION_CREDENTIALS"] == "/etc/astra/object-store/credentials.json"
    for none in (_job(made("gs://bucket/runs", None)), _job(TRAINING)):
        assert not {"envFrom"} & none["containers"][0].keys()
        assert "GOOGLE_APPLICATION_CREDENTIALS" not in _variables(none), "the node's own identity, then"
    sandbox = pod_template(made("gs://bucket/runs").pool)["spec"]
    assert "bucket" not in str(sandbox)


@pytest.mark.parametrize(("path", "found"), [("/out", True), ("/out/deep", True), ("/ou", False), ("/outer", False)])
def test_a_store_that_is_a_folder_must_be_on_a_volume(path: str, found: bool) -> None:
    spec = {"volumes": [{"name": "out", "emptyDir": {}}], "volumeMounts": [{"name": "out", "mountPath": "/out/"}]}
    run = training_run(checkpoint={"objectStore": {"url": f"file://{path}"}}, trainer={"podTemplate": {"spec": spec}})
    problems = training_unrunnable(run, FARM)
    assert [problem.field for problem in problems] == ([] if found else ["spec.checkpoint.objectStore.url"])


def test_gpus_are_of_the_accelerator_that_the_run_names() -> None:
    asked = {
        "gpusPerNode": 4,
        "accelerator": "amd.com/gpu",
        "image": "mine",
        "resources": {"limits": {"memory": "1Ti"}},
    }
    (container,) = _job(plan(training_run(trainer=asked)))["containers"]
    assert container["resources"]["limits"] == {"memory": "1Ti", "amd.com/gpu": "4"}
    shared = asked | {"resources": {"limits": {"amd.com/gpu": "2"}}}
    (problem,) = training_unrunnable(training_run(trainer=shared), FARM)
    assert problem.field == "spec.trainer.resources.limits"
    assert "amd.com/gpu is what gpusPerNode says, 4" in problem.message
    del asked["image"]
    (problem,) = training_unrunnable(training_run(trainer=asked), FARM)
    assert problem.field == "spec.trainer.accelerator"
    assert "trainer.image" in problem.message, "the farm's images hold CUDA"
    slices = {"gpusPerNode": 1, "accelerator": "nvidia.com/mig-3g.40gb"}
    assert training_unrunnable(training_run(trainer=slices), FARM) == []


def test_infiniband_is_a_trainer_s_alone() -> None:
    made = plan(training_run(trainer={"infiniband": True}))
    (container,) = _job(made)["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert "IPC_LOCK" not in str(pod_template(made.pool))


def test_resources_are_written_as_servers_write_them() -> None:
    asked = {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"memory": "2048Mi"}}
    made = plan(training_run(trainer={"resources": asked}, sandboxes={"resources": asked}))
    for spec in (_job(made), pod_template(made.pool)["spec"]):
        wanted = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
        assert spec["containers"][0]["resources"] == wanted
    for body in manifests():
        for amount in _quantities(body):
            assert canonical_quantity(amount) == amount


def _quantities(body: Any) -> Iterator[str]:
    for key, value in body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ():
        if key in ("requests", "limits"):
            yield from value.values()
        elif key == "sizeLimit":
            yield value
        else:
            yield from _quantities(value)


@pytest.mark.parametrize("kind", ["trainer", "synth"])
def test_a_job_has_the_run_s_deadline_and_lives_until_the_run_is_deleted(kind: str) -> None:
    def spec(**changes: Any) -> dict[str, Any]:
        run = training_run(**changes) if kind == "trainer" else synthesis_run(**changes)
        return dict(job_object(plan(run).work).manifest["spec"])

    made = spec(activeDeadlineSeconds=3600, ttlSecondsAfterFinished=60)
    assert made["activeDeadlineSeconds"] == 3600
    assert "ttlSecondsAfterFinished" not in made, "how it ended is read from it"
    assert "activeDeadlineSeconds" not in spec()


@pytest.mark.parametrize("kind", ["trainer", "synth"])
def test_what_the_cluster_took_away_is_no_failure_and_bad_input_ends_the_job(kind: str) -> None:
    run: TrainingRun | SynthesisRun = training_run() if kind == "trainer" else synthesis_run()
    knowing = replace(FARM, pod_failure_policy=True)
    whose = owner(run.kind)
    work = (
        training_plan(run, whose, knowing, census())
        if isinstance(run, TrainingRun)
        else synthesis_plan(run, whose, knowing)
    ).work
    manifest = job_object(work).manifest
    kubernetes_validate.validate(copy.deepcopy(manifest), "1.32", strict=True)
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    assert manifest["spec"]["template"]["spec"]["restartPolicy"] == "Never", "the server takes no other"
    fail, ignore = manifest["spec"]["podFailurePolicy"]["rules"]
    assert fail == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [2]},
    }
    assert ignore == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert "podFailurePolicy" not in job_object(plan(run).work).manifest["spec"], "an old server refuses it"


@pytest.mark.parametrize(
    ("version", "knows"),
    [
        ({"major": "1", "minor": "26"}, True),
        ({"major": "1", "minor": "27+"}, True),
        ({"major": "1", "minor": "36", "gitVersion": "v1.36.4"}, True),
        ({"major": "2", "minor": "0"}, True),
        ({"major": "1", "minor": "25"}, False),
        ({"major": "1", "minor": "20+"}, False),
        ({"major": "1", "minor": "9"}, False),
        ({"major": "", "minor": ""}, False),
        ({"major": "1"}, False),
        ({}, False),
    ],
)
def test_which_servers_know_a_failure_policy(version: dict[str, str], knows: bool) -> None:
    assert knows_pod_failure_policy(version) is knows


# who sees into sandbox pods


def _watched(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the container, the NetworkPolicy's spec) of a pool."""
    farm = Farm(replace(FARM.settings, monitoring=Monitoring(**changes)))
    made = training_plan(training_run(), owner(), farm, census()).pool
    policy = next(
        action.manifest["spec"] for action in pool_objects(made) if action.manifest["kind"] == "NetworkPolicy"
    )
    (container,) = pod_template(made)["spec"]["containers"]
    return container, policy


def test_nobody_reads_metrics_unless_the_farm_says_who() -> None:
    container, policy = _watched()
    assert "--metrics-port" not in container["command"]
    assert [port["name"] for port in container["ports"]] == ["grpc"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == [50051]
    prometheus = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
    container, policy = _watched(metrics_from=(prometheus,))
    port = next(each["containerPort"] for each in container["ports"] if each["name"] == "metrics")
    parsed = _parser().parse_args(container["command"][3:])
    assert parsed.metrics_port == port
    clients, scrapers = policy["ingress"]
    assert scrapers == {"from": [prometheus], "ports": [{"port": port, "protocol": "TCP"}]}
    assert [each["port"] for each in clients["ports"]] == [50051], (
        "who scrapes opens no sessions, and the other way round"
    )
    assert "egress" not in policy


def test_traces_leave_for_the_collector_and_for_nothing_else() -> None:
    collector = {"podSelector": {"matchLabels": {"app": "otel"}}}
    container, policy = _watched(tracing_endpoint="http://10.0.0.9:4318", tracing_peers=(collector,))
    assert {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://10.0.0.9:4318"} in container["env"]
    assert policy["egress"] == [{"to": [collector], "ports": [{"port": 4318, "protocol": "TCP"}]}]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    container, policy = _watched()
    assert not [each for each in container["env"] if each["name"].startswith("OTEL")]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"ASTRA_TRACING_ENDPOINT": "http://10.0.0.9:4318"}, "ASTRA_TRACING_PEERS"),
        ({"ASTRA_TRACING_PEERS": '[{"podSelector": {}}]'}, "ASTRA_TRACING_ENDPOINT"),
        ({"ASTRA_TRACING_ENDPOINT": "http://otel.lab.svc:4318", "ASTRA_TRACING_PEERS": '[{"a": {}}]'}, "no DNS"),
        ({"ASTRA_TRACING_ENDPOINT": "http://10.0.0.9", "ASTRA_TRACING_PEERS": '[{"a": {}}]'}, "IP:PORT"),
        ({"ASTRA_TRACING_ENDPOINT": "10.0.0.9:4318", "ASTRA_TRACING_PEERS": '[{"a": {}}]'}, "IP:PORT"),
        ({"ASTRA_TRACING_ENDPOINT": "http://10.0.0.9:99999", "ASTRA_TRACING_PEERS": '[{"a": {}}]'}, "IP:PORT"),
        ({"ASTRA_TRACING_PEERS": "[{}]"}, "ASTRA_TRACING_PEERS: must be a list"),
        ({"ASTRA_SANDBOX_METRICS_FROM": "{}"}, "ASTRA_SANDBOX_METRICS_FROM: must be a list"),
        ({"ASTRA_SANDBOX_METRICS_FROM": "["}, "ASTRA_SANDBOX_METRICS_FROM: not JSON"),
        ({"ASTRA_VERIFIER_RESOURCES": '{"request": {}}'}, "ASTRA_VERIFIER_RESOURCES: resources.request: unknown field"),
        (
            {"ASTRA_VERIFIER_RESOURCES": '{"requests": {"cpu": "x"}}'},
            "ASTRA_VERIFIER_RESOURCES: resources.requests.cpu",
        ),
        ({"ASTRA_KUBERAY_AUTH_TOKEN": "yes"}, "ASTRA_KUBERAY_AUTH_TOKEN"),
    ],
)
def test_settings_that_cannot_be_used_are_named(told: dict[str, str], words: str) -> None:
    with pytest.raises(BadInput) as error:
        OperatorSettings.of_environment({"ASTRA_NAMESPACE": "astra", **told})
    assert words in str(error.value)


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


def _job(made: Plan) -> dict[str, Any]:
    """The pod of a plan's Job."""
    return dict(job_object(made.work).manifest["spec"]["template"]["spec"])


def _variables(pod: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in pod["containers"][0]["env"]}


def _mounted(pod: dict[str, Any], path: str) -> dict[str, Any]:
    """The volume at a path."""
    name = next(each["name"] for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == path)
    return next(each for each in pod["volumes"] if each["name"] == name)


def _claim(work: Any) -> str:
    volumes = job_object(work).manifest["spec"]["template"]["spec"]["volumes"]
    return next(v["persistentVolumeClaim"]["claimName"] for v in volumes if v["name"] == "checkpoint")
