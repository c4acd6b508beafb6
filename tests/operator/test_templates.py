"""Pod templates: how the farm's and the run's are merged, and that what the operator sets in a pod stays."""

import copy
import json
from pathlib import PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
from farms import (
    FARM,
    NAMESPACE,
    census,
    environment,
    environment_body,
    owner,
    plan,
    synthesis_run,
    training_run,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from astra_api.errors import BadInput
from astra_api.pod_template import PodTemplate
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_operator.admission import admit
from astra_operator.environments import dedicated_pool
from astra_operator.farm import Farm
from astra_operator.manifests import job, pool
from astra_operator.manifests.templates import OWN_FOLDER, apply_template, merged, problems
from astra_operator.settings import Monitoring, OperatorSettings
from astra_operator.synthesis import synthesis_plan
from astra_operator.training import training_plan

Object = dict[str, Any]


def clean(path: str) -> str:
    """As a container's runtime takes it, without `..`, which none of the operator's paths have."""
    parts: list[str] = []
    for part in PurePosixPath(path).parts:
        if part == "..":
            parts.pop()
        elif set(part) != {"/"}:
            parts.append(part)
    return "/" + "/".join(parts)


RICH: Object = {
    "metadata": {"labels": {"team": "lab"}, "annotations": {"example.com/scrape": "no"}},
    "spec": {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
                }
            }
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "priorityClassName": "low",
        "imagePullSecrets": [{"name": "pull"}],
        "env": [
            {"name": "NCCL_IB_HCA", "value": "mlx5"},
            {"name": "EMPTY", "value": ""},
            {"name": "HOST_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIP"}}},
        ],
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data", "readOnly": False}},
            {"name": "room", "emptyDir": {"medium": "", "sizeLimit": "1024Mi"}},
        ],
        "volumeMounts": [
            {"name": "data", "mountPath": "/data", "readOnly": True},
            {"name": "room", "mountPath": "/room", "readOnly": False},
        ],
        "schedulerName": "gang",
        "securityContext": {"runAsUser": 1000, "supplementalGroups": [2000], "seLinuxOptions": {"level": "s0:c1,c2"}},
    },
}


def _named(name: str) -> str:
    return clean(name) if name.startswith("/") else name


def template(spec: Object | None = None, **metadata: Any) -> PodTemplate:
    return PodTemplate.model_validate({"metadata": metadata, "spec": spec or {}})


def bare_pods() -> dict[str, Object]:
    """The pods of the operator, by part, with as much of its own in them as there can be."""
    own = environment_body("alone")
    own["spec"] = {**own["spec"], "sandbox": {"isolation": "pod", "replicas": 2}}
    store = {"claimName": "shared", "objectStore": {"url": "gs://bucket/x", "secret": "bucket"}}
    trainer = {"nodes": 2, "gpusPerNode": 8, "infiniband": True, "modelCacheClaim": "models"}
    ray = training_plan(
        training_run(engine="verl", trainer=trainer, checkpoint=store),
        owner(),
        FARM,
        census(own, environment_body("b")),
    )
    cluster = job.job_object(ray.work).manifest["spec"]["rayClusterSpec"]
    source = {"source": {"type": "questions", "path": "q.txt"}}
    teacher = {"baseUrl": "http://vllm:8000/v1", "model": "m", "apiKeySecret": {"name": "a", "key": "k"}}
    synthesis = plan(synthesis_run(environments=source, teacher=teacher, judge=teacher, volume={"claimName": "v"}))
    seen = Monitoring(({"podSelector": {}},), "http://10.0.0.9:4318", ({"podSelector": {}},))
    sandboxes = pool.Pool(owner(), "i", "Never", 2, {}, certificates_digest="d", monitoring=seen)
    return {
        "trainer": job.pod_template(ray.work),
        "ray head": cluster["headGroupSpec"]["template"],
        "ray worker": cluster["workerGroupSpecs"][0]["template"],
        "trainer of one node": job.pod_template(plan(training_run(trainer={"gpusPerNode": 1})).work),
        "synthesis": job.pod_template(synthesis.work),
        "sandboxes": pool.pod_template(sandboxes),
    }


PODS = bare_pods()
names = st.sampled_from(["a", "b", "c", "tls", "run", "tmp", "checkpoint", "own-tls", "object-store", "models", "shm"])
keys = st.sampled_from(["team", "a.example/x", "astra.farm/owner", "astra.farm/new", "app.kubernetes.io/managed-by"])
values = st.sampled_from(["", "one", "two"])
maps = st.dictionaries(keys, values, max_size=3)
variables = st.sampled_from(
    ["A", "B", "HOME", "HF_HOME", "GOOGLE_APPLICATION_CREDENTIALS", "OTEL_EXPORTER_OTLP_ENDPOINT"]
)
paths = st.sampled_from(
    ["/data", "/data/", "/data/x", "/etc", "/etc/astra", "/etc/astra/new", "/etc//astra/tls", "/x/../etc/astra/run",
     "/", "/tmp", "/tmp/x", "/checkpoint", "/checkpoint/x", "/models", "/dev",
     "/dev/shm", "/dev/shm/", "/volume", "//tmp"]
)  # fmt: skip


def _name(item: Object) -> str:
    return str(item["name"])


specs = st.fixed_dictionaries(
    {},
    optional={
        "nodeSelector": st.dictionaries(st.sampled_from(["pool", "zone"]), values),
        "tolerations": st.lists(st.fixed_dictionaries({"key": keys}, optional={"value": values}), max_size=3),
        "affinity": st.sampled_from([{"nodeAffinity": {}}, {"podAffinity": {}}]),
        "topologySpreadConstraints": st.lists(st.fixed_dictionaries({"topologyKey": keys}), max_size=3),
        "priorityClassName": st.sampled_from(["low", "high"]),
        "runtimeClassName": st.sampled_from(["kata", "nvidia"]),
        "schedulerName": st.sampled_from(["gang", "default-scheduler"]),
        "imagePullSecrets": st.lists(st.fixed_dictionaries({"name": names}), max_size=3, unique_by=_name),
        "env": st.lists(st.fixed_dictionaries({"name": variables, "value": values}), max_size=4, unique_by=_name),
        "envFrom": st.lists(st.fixed_dictionaries({"prefix": st.sampled_from(["P_", "Q_"])}), max_size=3),
        "volumes": st.lists(
            st.fixed_dictionaries({"name": names, "secret": st.fixed_dictionaries({"secretName": names})}),
            max_size=3,
            unique_by=_name,
        ),
        "volumeMounts": st.lists(
            st.fixed_dictionaries({"name": names, "mountPath": paths}),
            max_size=4,
            unique_by=lambda each: each["mountPath"],
        ),
        "securityContext": st.fixed_dictionaries(
            {}, optional={"runAsUser": st.integers(1, 9), "fsGroup": st.integers(1, 9), "runAsNonRoot": st.just(True)}
        ),
    },
)
templates = st.builds(lambda spec, labels, notes: template(spec, labels=labels, annotations=notes), specs, maps, maps)


# the merge


@given(farm=templates | st.none(), run=templates | st.none())
def test_maps_are_merged_key_by_key_and_the_run_counts(farm: PodTemplate | None, run: PodTemplate | None) -> None:
    below, above, made = farm or PodTemplate(), run or PodTemplate(), merged(farm, run)
    for found, under, over in (
        (made["metadata"].get("labels", {}), below.metadata.labels, above.metadata.labels),
        (made["metadata"].get("annotations", {}), below.metadata.annotations, above.metadata.annotations),
        (made["spec"].get("nodeSelector", {}), below.spec.node_selector, above.spec.node_selector),
    ):
        assert found.keys() == under.keys() | over.keys()
        for key, value in found.items():
            assert value == (over[key] if key in over else under[key])


@given(farm=templates | st.none(), run=templates | st.none())
def test_named_things_are_merged_by_name_and_the_run_counts(farm: PodTemplate | None, run: PodTemplate | None) -> None:
    below, above, made = farm or PodTemplate(), run or PodTemplate(), merged(farm, run)["spec"]

    def last(items: list[Any], name: str) -> dict[str, Any]:
        return {_named(getattr(each, name)): each for each in items}

    for field, attribute, name in (
        ("env", "env", "name"),
        ("volumes", "volumes", "name"),
        ("imagePullSecrets", "image_pull_secrets", "name"),
        ("volumeMounts", "volume_mounts", "mount_path"),
    ):
        under, over = (last(getattr(each.spec, attribute), name) for each in (below, above))
        found = made.get(field, [])
        written = {"mount_path": "mountPath"}.get(name, name)
        assert sorted(_named(each[written]) for each in found) == sorted(under.keys() | over.keys()), "each once"
        for each in found:
            key = _named(each[written])
            wanted = (over[key] if key in over else under[key]).model_dump(by_alias=True, exclude_none=True)
            assert {"value": "", **each} == {"value": "", **wanted} if field == "env" else each == wanted


@given(farm=templates | st.none(), run=templates | st.none())
def test_other_lists_are_the_farm_s_and_then_the_run_s_each_once(
    farm: PodTemplate | None, run: PodTemplate | None
) -> None:
    below, above, made = farm or PodTemplate(), run or PodTemplate(), merged(farm, run)["spec"]
    for field, attribute in (
        ("topologySpreadConstraints", "topology_spread_constraints"),
        ("envFrom", "env_from"),
    ):
        every = [*getattr(below.spec, attribute), *getattr(above.spec, attribute)]
        assert made.get(field, []) == list({json.dumps(each): each for each in every}.values())
    tolerated = [(each["key"], each.get("value", "")) for each in made.get("tolerations", [])]
    every_key = [(each.key, each.value or "") for each in [*below.spec.tolerations, *above.spec.tolerations]]
    assert tolerated == list(dict.fromkeys(every_key))


@given(farm=templates | st.none(), run=templates | st.none())
def test_all_else_is_the_run_s_or_the_farm_s(farm: PodTemplate | None, run: PodTemplate | None) -> None:
    below, above, made = farm or PodTemplate(), run or PodTemplate(), merged(farm, run)["spec"]
    for field, attribute in (
        ("affinity", "affinity"), ("priorityClassName", "priority_class_name"), ("schedulerName", "scheduler_name"),
        ("runtimeClassName", "runtime_class_name"),
    ):  # fmt: skip
        over, under = getattr(above.spec, attribute), getattr(below.spec, attribute)
        assert made.get(field) == (under if over is None else over)
    for field in ("run_as_user", "fs_group"):
        over, under = (getattr(each.spec.security_context, field, None) for each in (above, below))
        written = {"run_as_user": "runAsUser", "fs_group": "fsGroup"}[field]
        assert made.get("securityContext", {}).get(written) == (under if over is None else over)


@given(farm=templates, run=templates)
def test_merging_with_nothing_changes_nothing(farm: PodTemplate, run: PodTemplate) -> None:
    assert merged(None, None) == {"metadata": {}, "spec": {}}
    assert merged(farm, None) == merged(None, farm)
    assert merged(run, run) == merged(run, None)


# what is the operator's


@pytest.mark.parametrize("part", PODS)
@given(farm=templates, run=templates)
@settings(deadline=None, max_examples=40)
def test_nothing_of_the_operator_s_is_ever_replaced(part: str, farm: PodTemplate, run: PodTemplate) -> None:
    """Whatever templates say, also where nobody has refused them: an admin's default can clash in one run of many."""
    pod = PODS[part]
    made = apply_template(copy.deepcopy(pod), merged(farm, run))
    for field in ("labels", "annotations"):
        assert pod["metadata"][field].items() <= made["metadata"][field].items()
    container, *others = made["spec"]["containers"]
    own, *_ = pod["spec"]["containers"]
    for field, name in (("env", "name"), ("volumeMounts", "mountPath")):
        found = [_named(each[name]) for each in container[field]]
        assert container[field][: len(own[field])] == own[field]
        assert len(found) == len(set(found)), "the last of two would count"
    assert {key: value for key, value in container.items() if key not in ("env", "envFrom", "volumeMounts")} == {
        key: value for key, value in own.items() if key not in ("env", "envFrom", "volumeMounts")
    }
    added = container["volumeMounts"][len(own["volumeMounts"]) :]
    for path in (f"{clean(each['mountPath'])}/".replace("//", "/") for each in added):
        assert not path.startswith(f"{OWN_FOLDER}/")
        for each in own["volumeMounts"]:
            assert not f"{each['mountPath']}/".startswith(path), "it would hide what is mounted within"
    assert made["spec"]["volumes"][: len(pod["spec"]["volumes"])] == pod["spec"]["volumes"]
    assert len({each["name"] for each in made["spec"]["volumes"]}) == len(made["spec"]["volumes"])
    assert others == []
    for field in pod["spec"].keys() - {"containers", "volumes", "securityContext"}:
        assert made["spec"][field] == pod["spec"][field]
    security = made["spec"]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert not {"hostNetwork", "hostPID", "hostIPC"} & made["spec"].keys()


@pytest.mark.parametrize("part", PODS)
@given(farm=templates, run=templates)
@settings(deadline=None, max_examples=40)
def test_what_is_not_refused_is_there(part: str, farm: PodTemplate, run: PodTemplate) -> None:
    pod, volumes = PODS[part], [each.name for each in farm.spec.volumes]
    refused = problems(run, pod, volumes)
    made = apply_template(copy.deepcopy(pod), merged(farm, run))
    container = made["spec"]["containers"][0]
    there = {
        "env": [each["name"] for each in container["env"]],
        "volumes": [each["name"] for each in made["spec"]["volumes"]],
        "volumeMounts": [clean(each["mountPath"]) for each in container["volumeMounts"]],
    }
    if not refused and not problems(farm, pod):
        assert run.metadata.labels.items() <= made["metadata"]["labels"].items()
        assert run.metadata.annotations.items() <= made["metadata"]["annotations"].items()
        assert {each.name for each in run.spec.env} <= set(there["env"])
        assert {each.name for each in run.spec.volumes} <= set(there["volumes"])
        assert {clean(each.mount_path) for each in run.spec.volume_mounts} <= set(there["volumeMounts"])
        assert {each["name"] for each in container["volumeMounts"]} <= set(there["volumes"]), "else no pod starts"
    written = run.model_dump(by_alias=True, exclude_none=True)
    for place, message in refused:
        assert _at(written, place) is not None, f"{place} is no field of {written}"
        assert message


def _at(value: Any, place: str) -> Any:
    for part in ("labels.", "annotations."):
        if place.startswith(f"metadata.{part}"):
            return value["metadata"][part[:-1]][place.removeprefix(f"metadata.{part}")]
    for step in place.replace("[", ".[").split("."):
        value = value[int(step[1:-1])] if step.startswith("[") else value[step]
    return value


def _mounted(name: str, *paths: str) -> Object:
    mounts = [{"name": name, "mountPath": path} for path in paths]
    return {"volumes": [{"name": "a", "emptyDir": {}}], "volumeMounts": mounts}


def _confined(**options: str) -> Object:
    return {"securityContext": {"seLinuxOptions": options}}


@pytest.mark.parametrize(
    ("spec", "place", "words"),
    [
        ({"env": [{"name": "A"}, {"name": "HOME"}]}, "spec.env[1].name", "HOME is the operator's"),
        ({"env": [{"name": "HF_HOME"}]}, "spec.env[0].name", "HF_HOME is the operator's"),
        (_mounted("a", "/b", "/b/"), "spec.volumeMounts[1].mountPath", "/b is given twice"),
        ({"volumes": [{"name": "tls", "emptyDir": {}}]}, "spec.volumes[0].name", "tls is the operator's"),
        ({"volumes": [{"name": "own-tls", "emptyDir": {}}]}, "spec.volumes[0].name", "own-tls is the operator's"),
        (_mounted("a", "/etc/astra"), "spec.volumeMounts[0].mountPath", "/etc/astra is the operator's"),
        (_mounted("a", "//etc/astra/new"), "spec.volumeMounts[0].mountPath", "/etc/astra is the operator's"),
        (_mounted("a", "/etc"), "spec.volumeMounts[0].mountPath", "/etc/astra"),
        (_mounted("a", "/x/../checkpoint/"), "spec.volumeMounts[0].mountPath", "/checkpoint is the operator's"),
        (_mounted("b", "/b"), "spec.volumeMounts[0].name", "no volume b"),
        (_mounted("tls", "/b"), "spec.volumeMounts[0].name", "no volume tls"),
        (_confined(type="spc_t"), "spec.securityContext.seLinuxOptions.type", "container_t"),
        (_confined(user="root"), "spec.securityContext.seLinuxOptions.user", "remove it"),
    ],
)  # fmt: skip
def test_a_clash_is_a_condition_that_names_the_field(spec: Object, place: str, words: str) -> None:
    run = training_run(trainer={"podTemplate": {"spec": spec}})
    found = admit(TrainingRun, _body(run), None, FARM)
    assert found.run is None
    (problem,) = found.problems
    assert problem.field == f"spec.trainer.podTemplate.{place}"
    assert words in problem.message


@pytest.mark.parametrize("key", ["astra.farm/owner", "astra.farm/anything", "app.kubernetes.io/managed-by"])
def test_labels_of_the_operator_are_refused_in_every_part(key: str) -> None:
    """They decide who may reach whom."""
    given = {"podTemplate": {"metadata": {"labels": {key: "x"}}}}
    for part in ("trainer", "sandboxes"):
        problems_found = admit(TrainingRun, _body(training_run(**{part: given})), None, FARM).problems
        assert [problem.field for problem in problems_found] == [f"spec.{part}.podTemplate.metadata.labels.{key}"]
    problems_found = admit(SynthesisRun, _body(synthesis_run(**given)), None, FARM).problems
    assert [problem.field for problem in problems_found] == [f"spec.podTemplate.metadata.labels.{key}"]


def test_a_mount_of_the_farm_s_volume_is_no_clash() -> None:
    defaults = {"trainer": {"spec": {"volumes": [{"name": "shared", "nfs": {"server": "s", "path": "/"}}]}}}
    run = training_run(
        trainer={"podTemplate": {"spec": {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}}}
    )
    assert admit(TrainingRun, _body(run), None, _farm(defaults)).problems == []
    assert [problem.field for problem in admit(TrainingRun, _body(run), None, FARM).problems] == [
        "spec.trainer.podTemplate.spec.volumeMounts[0].name"
    ]


def test_what_changes_of_a_run_s_pods_is_refused_while_the_run_goes_on() -> None:
    begun = training_run(sandboxes={"replicas": 2})
    changed = training_run(sandboxes={"replicas": 3, "podTemplate": {"metadata": {"labels": {"astra.farm/role": "x"}}}})
    found = admit(TrainingRun, _body(changed), begun, FARM)
    assert [problem.field for problem in found.problems] == [
        "spec.sandboxes.podTemplate.metadata.labels.astra.farm/role"
    ]
    assert isinstance(found.run, TrainingRun)
    assert found.run.spec.sandboxes == begun.spec.sandboxes


@pytest.mark.parametrize(
    "spec",
    [
        {"hostNetwork": True},
        {"securityContext": {"runAsUser": 0}},
        {"securityContext": {"runAsNonRoot": False}},
        {"securityContext": {"supplementalGroups": [0]}},
        {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
        {"securityContext": {"fsGroup": 0}},
        {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]},
        {"containers": [{"name": "other"}]},
        {"serviceAccountName": "admin"},
        {"env": [{"name": "ASTRA_OUT", "value": "/elsewhere"}]},
    ],
)
def test_nothing_laxer_can_be_written(spec: Object) -> None:
    with pytest.raises(ValidationError):
        template(spec)


# where it is applied


def _farm(defaults: Object, **changes: str) -> Farm:
    told = {"ASTRA_NAMESPACE": "astra", "ASTRA_POD_DEFAULTS": json.dumps(defaults), **changes}
    return Farm(OperatorSettings.of_environment(told))


def _body(run: TrainingRun | SynthesisRun) -> Object:
    return run.model_dump(mode="json", by_alias=True, exclude_none=True)


def test_each_part_of_the_farm_gets_its_own_defaults_and_each_run_its_own_over_them() -> None:
    def labelled(value: str) -> Object:
        return {"metadata": {"labels": {"of": value, f"farm-{value}": "yes"}}}

    farm = _farm({part: labelled(part) for part in ("trainer", "sandboxes", "synthesis", "verification")})
    own = {"podTemplate": {"metadata": {"labels": {"of": "run"}}}}
    training = training_plan(training_run(trainer=own, sandboxes=own), owner(), farm, census())
    plain = training_plan(training_run(), owner(), farm, census())
    synthesis = synthesis_plan(synthesis_run(**own), owner("SynthesisRun"), farm)
    dedicated = dedicated_pool(environment(sandbox={"replicas": 1}), owner("Environment"), farm, 1)
    for made, part, said in (
        (job.pod_template(training.work), "trainer", "run"),
        (pool.pod_template(training.pool), "sandboxes", "run"),
        (job.pod_template(plain.work), "trainer", "trainer"),
        (pool.pod_template(plain.pool), "sandboxes", "sandboxes"),
        (job.pod_template(synthesis.work), "synthesis", "run"),
        (pool.pod_template(synthesis.pool), "sandboxes", "sandboxes"),
        (pool.pod_template(dedicated), "sandboxes", "sandboxes"),
    ):
        labels = made["metadata"]["labels"]
        assert (labels["of"], labels[f"farm-{part}"]) == (said, "yes")
        assert len([key for key in labels if key.startswith("farm-")]) == 1


def test_all_nodes_of_a_ray_job_get_the_template() -> None:
    trainer = {"nodes": 2, "gpusPerNode": 8, "podTemplate": RICH}
    run = training_run(engine="verl", trainer=trainer, checkpoint={"claimName": "shared"})
    cluster = job.job_object(plan(run).work).manifest["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        made = group["template"]
        assert made["metadata"]["labels"]["team"] == "lab"
        assert made["spec"]["nodeSelector"] == {"pool": "gpu"}
        assert {"name": "NCCL_IB_HCA", "value": "mlx5"} in made["spec"]["containers"][0]["env"]


def test_the_canary_is_left_alone() -> None:
    made = pool.pod_template(plan(training_run(sandboxes={"podTemplate": RICH})).pool)
    (canary,) = made["spec"]["initContainers"]
    assert {each["name"] for each in canary["env"]} == {"HOME"}
    assert "volumeMounts" not in canary
    assert "envFrom" not in canary


def test_a_spread_without_a_selector_is_about_the_pods_of_its_owner() -> None:
    made = pool.pod_template(plan(training_run(sandboxes={"podTemplate": RICH})).pool)
    (constraint,) = made["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"]["matchLabels"] == owner().labels("sandbox")
    chosen = {"labelSelector": {"matchLabels": {"team": "lab"}}, "topologyKey": "zone", "maxSkew": 1}
    given = {"spec": {"topologySpreadConstraints": [chosen]}}
    made = pool.pod_template(plan(training_run(sandboxes={"podTemplate": given})).pool)
    assert made["spec"]["topologySpreadConstraints"] == [chosen]


@pytest.mark.parametrize("version", ["1.32", "1.35", "1.37"])
@pytest.mark.parametrize("part", PODS)
def test_pods_with_templates_are_pods(part: str, version: str) -> None:
    made = apply_template(copy.deepcopy(PODS[part]), merged(None, PodTemplate.model_validate(RICH)))
    body = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "made"}, "template": made}
    kubernetes_validate.validate(body, version, strict=True)


def test_what_the_server_drops_is_not_asked_for() -> None:
    """An empty value, a false and a quantity written otherwise would differ from what is stored, for ever."""
    made = merged(None, PodTemplate.model_validate(RICH))["spec"]
    assert made["env"][1] == {"name": "EMPTY"}
    assert made["volumes"][0] == {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    assert made["volumes"][1] == {"name": "room", "emptyDir": {"sizeLimit": "1Gi"}}
    assert made["volumeMounts"][1] == {"name": "room", "mountPath": "/room"}


# the farm's defaults


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ("{", "ASTRA_POD_DEFAULTS: not JSON"),
        ("[]", "ASTRA_POD_DEFAULTS: must be a JSON object"),
        ({"trainers": {}}, "ASTRA_POD_DEFAULTS: trainers: unknown field"),
        ({"trainer": {"spec": {"nodeselector": {}}}}, "ASTRA_POD_DEFAULTS: trainer.spec.nodeselector: unknown field"),
        ({"trainer": {"spec": {"hostNetwork": True}}}, "ASTRA_POD_DEFAULTS: trainer.spec.hostNetwork"),
        ({"synthesis": {"spec": {"env": [{"name": "HOME"}]}}}, "podDefaults.synthesis.spec.env[0].name: HOME is"),
        ({"trainer": {"spec": {"env": [{"name": "HF_HOME"}]}}}, "podDefaults.trainer.spec.env[0].name: HF_HOME is"),
        (
            {"verification": {"metadata": {"labels": {"astra.farm/role": "trainer"}}}},
            "podDefaults.verification.metadata.labels.astra.farm/role",
        ),
        (
            {"sandboxes": {"spec": {"volumeMounts": [{"name": "a", "mountPath": "/a"}]}}},
            "podDefaults.sandboxes.spec.volumeMounts[0].name: there is no volume a",
        ),
        (
            {"verification": {"spec": {"runtimeClassName": "kata"}}},
            "podDefaults.verification.spec.runtimeClassName: runtimeClass.name",
        ),
        ({"sandboxes": {"spec": {"runtimeClassName": ""}}}, "podDefaults.sandboxes.spec.runtimeClassName: "),
    ],
)
def test_bad_defaults_stop_the_operator_and_name_the_field(defaults: Any, words: str) -> None:
    text = defaults if isinstance(defaults, str) else json.dumps(defaults)
    with pytest.raises(BadInput) as error:
        OperatorSettings.of_environment({"ASTRA_NAMESPACE": NAMESPACE, "ASTRA_POD_DEFAULTS": text})
    assert words in str(error.value)


@pytest.mark.parametrize("part", PODS)
def test_defaults_are_checked_for_all_that_every_pod_of_the_operator_has(part: str) -> None:
    """What only some pods have (shared memory, an object store's key, traces) is theirs there, and free elsewhere."""
    pod = PODS[part]
    for volume in pod["spec"]["volumes"]:
        found = problems(template({"volumes": [{"name": volume["name"], "emptyDir": {}}]}))
        assert bool(found) == (volume["name"] != "shm")
    for mount in pod["spec"]["containers"][0]["volumeMounts"]:
        given = {
            "volumes": [{"name": "x", "emptyDir": {}}],
            "volumeMounts": [{"name": "x", "mountPath": mount["mountPath"]}],
        }
        assert bool(problems(template(given))) == (mount["mountPath"] != "/dev/shm")
    free = {"GOOGLE_APPLICATION_CREDENTIALS", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    for variable in pod["spec"]["containers"][0]["env"]:
        if variable["name"].startswith("ASTRA_"):
            continue  # no template can name it
        assert bool(problems(template({"env": [{"name": variable["name"]}]}))) == (variable["name"] not in free)
    for key in pod["metadata"]["labels"]:
        assert problems(template(labels={key: "x"}))
    for key in pod["metadata"]["annotations"]:
        assert problems(template(annotations={key: "x"}))
