"""Custom resources, good and bad, that models, definitions and servers must agree on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from astra_api.manifests import KINDS

ROOT = Path(__file__).parents[1]
Body = dict[str, Any]


def training_run(**spec: Any) -> Body:
    metadata = {"name": "run"}
    return {"apiVersion": "astra.farm/v1alpha1", "kind": "TrainingRun", "metadata": metadata, "spec": spec}


def synthesis_run(**spec: Any) -> Body:
    return training_run(**spec) | {"kind": "SynthesisRun"}


def environment(**changes: Any) -> Body:
    body = yaml.safe_load((ROOT / "examples/environments/city-trip.yaml").read_text())
    body["spec"] = {name: value for name, value in (body["spec"] | changes).items() if value is not None}
    return body


def _run(**spec: Any) -> Body:
    return training_run(**{"model": TINY, "rl": {}} | spec)


def _verl(division: Body) -> Body:
    return _run(engine="verl", trainer={"nodes": 2, "gpusPerNode": 8}, verl=division)


def _pods(**spec: Any) -> Body:
    return _run(trainer={"podTemplate": {"spec": spec}})


def _resources(**resources: Any) -> Body:
    return _run(trainer={"resources": resources})


def _step(**step: Any) -> Body:
    return environment(steps=[*environment()["spec"]["steps"], {"id": "last", "question": "?", "answer": 1} | step])


TINY = {"preset": "tiny"}
TABLES = {"source": {"type": "tables", "pack": "geography"}}
_KNOWLEDGE = {"source": {"type": "knowledge", "domains": ["travel"]}}
_TEACHER = {"baseUrl": "http://teacher/v1", "model": "m"}
_TEMPLATE = {
    "metadata": {"labels": {"team": "agents"}, "annotations": {"example.com/note": "any words"}},
    "spec": {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [
            {"operator": "Exists"},
            {"key": "gpu", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 30},
        ],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "registry"}],
        "env": [
            {"name": "NCCL_IB_HCA", "value": "mlx5"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
        "envFrom": [{"secretRef": {"name": "s"}}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "shm", "emptyDir": {}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}, {"name": "shm", "mountPath": "/s"}],
        "schedulerName": "volcano",
        "hostNetwork": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "fsGroup": 1000,
            "supplementalGroups": [2000],
            "seccompProfile": {"type": "Localhost", "localhostProfile": "profiles/a.json"},
            "seLinuxOptions": {"level": "s0:c123,c456"},
        },
    },
}
GOOD = [
    environment(),
    environment(sandbox={"isolation": "pod", "replicas": 1, "memory": 1000000}),
    environment(source=None, sourceRef={"configMap": "c", "key": "k"}),
    synthesis_run(count=1, environments=TABLES),
    synthesis_run(count=1, environments=_KNOWLEDGE, teacher=_TEACHER),
    synthesis_run(count=1, environments=TABLES | {"hops": {"min": 2, "max": 2}}, podTemplate=_TEMPLATE),
    training_run(model=TINY, sft={"dataset": {"type": "gold", "limit": 3}}),
    _run(),
    training_run(
        model={"gguf": {"package": "p"}}, engine="verl", trainer={"nodes": 2}, rl={}, sandboxes={"runtimeClassName": ""}
    ),
    _run(engine="verl", verl={}),
    _verl({"rollout": "separate", "maxStaleness": 2, "rolloutGpus": 8, "tensorParallel": 4, "sequenceParallel": 2}),
    _run(rl={"batchSize": 12, "groupSize": 4}, environments={"holdout": {"selector": {"matchLabels": {}}}}),
    _run(trainer={"podTemplate": _TEMPLATE}, sandboxes={"podTemplate": _TEMPLATE}),
    _pods(runtimeClassName="kata", securityContext={"seccompProfile": {}}),
    _run(checkpoint={"size": "1e3", "storageClassName": "fast", "objectStore": {"url": "s3://my-bucket/runs"}}),
    _resources(
        limits={"cpu": 2, "memory": "1Gi", "nvidia.com/gpu": "0"}, requests={"cpu": "2000m", "memory": "1024Mi"}
    ),
    _resources(requests={"cpu": ".5", "memory": "+1.5e9", "ephemeral-storage": "1Ei"}),
    _run(activeDeadlineSeconds=3600, ttlSecondsAfterFinished=0),
]
BAD = [  # the object, a word of the refusal
    (environment(sourceRef={"configMap": "c", "key": "k"}), "spec: give exactly one of source and sourceRef"),
    (environment(source=None), "spec: give exactly one of source and sourceRef"),
    (environment(sandbox={"isolation": "pod"}), "spec.sandbox: isolation: pod needs replicas"),
    (environment(scenario="hop"), "spec.scenario"),
    (environment(sandbox={"replicas": 1001}), "spec.sandbox.replicas"),
    (environment(sandbox={"memory": "lots"}), "spec.sandbox.memory"),
    (environment(sandbox={"memory": "0Mi"}), "spec.sandbox.memory"),
    (environment(sandbox={"memory": "256m"}), "spec.sandbox: memory must be at least 1M"),
    (environment(steps=[]), "spec.steps"),
    (_step(tolerance=0.5), "tolerance needs match: numeric"),
    (synthesis_run(count=0, environments=TABLES), "spec.count"),
    (synthesis_run(count=1), "spec: kind: environments needs the field environments"),
    (synthesis_run(count=1, kind="trajectories", trajectories={}), "not built yet"),
    (synthesis_run(count=1, environments=_KNOWLEDGE), "needs a teacher"),
    (
        synthesis_run(count=1, environments=TABLES | {"source": TABLES["source"] | {"toolset": {"tools": {"min": 9}}}}),
        "tools: min must not be more than max",
    ),
    (
        synthesis_run(count=1, environments=TABLES | {"hops": {"min": 3, "max": 2}}),
        "spec.environments.hops: min must not be more than max",
    ),
    (synthesis_run(count=1, environments={"source": {"type": "tables"}}), "exactly one of pack and path"),
    (
        synthesis_run(count=1, environments={"source": {"type": "knowledge"}}, teacher=_TEACHER),
        "exactly one of path and domains",
    ),
    (
        synthesis_run(count=1, environments={"source": {"type": "questions"}}, teacher=_TEACHER),
        "type: questions needs path",
    ),
    (
        synthesis_run(count=1, environments={"source": {"type": "tables", "pack": "p", "domains": ["d"]}}),
        "domains goes with type: knowledge",
    ),
    (
        synthesis_run(count=1, environments={"source": {"type": "tables", "pack": "p", "languages": ["en"]}}),
        "languages goes with type: knowledge",
    ),
    (
        synthesis_run(count=1, environments={"source": {"type": "tables", "pack": "p", "statefulShare": 0}}),
        "statefulShare goes with type: knowledge",
    ),
    (
        synthesis_run(
            count=1, environments={"source": {"type": "questions", "path": "p", "pack": "p"}}, teacher=_TEACHER
        ),
        "pack goes with type: tables",
    ),
    (
        synthesis_run(
            count=1, environments={"source": {"type": "questions", "path": "p", "toolset": {}}}, teacher=_TEACHER
        ),
        "toolset goes with type: tables",
    ),
    (training_run(model=TINY), "nothing to train"),
    (_run(model=TINY | {"name": "n"}), "spec.model: give exactly one of name, path, gguf and preset"),
    (_run(model={}), "spec.model: give exactly one of"),
    (_run(model=TINY | {"context": 4096}), "spec.model: context belongs to name or path"),
    (_run(model={"gguf": {}}), "spec.model.gguf: give exactly one of package and path"),
    (_run(trainer={"nodes": 2}), "engine: embedded needs trainer.nodes: 1"),
    (_run(trainer={"nodes": 1025}), "spec.trainer.nodes"),
    (_run(trainer={"gpusPerNode": 65}), "spec.trainer.gpusPerNode"),
    (_run(trainer={"accelerator": "gpu"}), "spec.trainer.accelerator"),
    (_run(trainer={"retries": -1}), "spec.trainer.retries"),
    (_run(sandboxes={"replicas": 1001}), "spec.sandboxes.replicas"),
    (_run(rl={"batchSize": 9, "groupSize": 2}), "spec.rl: batchSize must be a multiple"),
    (_run(rl={"groupSize": 1}), "spec.rl.groupSize"),
    (_run(verl={}), "verl belongs to engine: verl"),
    (_run(engine="verl", verl={"rollout": "separate", "rolloutGpus": 1}), "needs maxStaleness"),
    (_run(engine="verl", verl={"rolloutGpus": 1}), "rolloutGpus is required by"),
    (_verl({"rollout": "separate", "maxStaleness": 1, "rolloutGpus": 16}), "leaves no GPU to train"),
    (_verl({"rollout": "separate", "maxStaleness": 1, "rolloutGpus": 4}), "must be whole nodes"),
    (_verl({"tensorParallel": 3}), "verl.tensorParallel must divide"),
    (_verl({"sequenceParallel": 3}), "verl.sequenceParallel must divide"),
    (_run(rl={"irrelevantTools": {"bands": {"medium": 0.9}}}), "bands: medium must be less"),
    (_run(environments={"holdout": {}}), "exactly one of fraction and selector"),
    (_run(environments={"holdout": {"fraction": 1}}), "spec.environments.holdout.fraction"),
    (training_run(model=TINY, sft={"dataset": {"type": "files"}}), "type: files needs path"),
    *(
        (
            training_run(model=TINY, sft={"dataset": {"type": "files", "path": "p", field: 1}}),
            f"{field} goes with type: gold",
        )
        for field in ("limit", "samples", "recoveries", "detours")
    ),
    (
        training_run(model=TINY, sft={"dataset": {"type": "gold", "path": "p"}}),
        "path goes with type: files",
    ),
    (_resources(limits={"cpu": "x"}), "spec.trainer.resources.limits"),
    (_resources(limits={"cpu": "-1"}), "spec.trainer.resources.limits"),
    (_resources(limits={"cpu": -1}), "spec.trainer.resources.limits"),
    (
        _resources(limits={"memory": "1Gi"}, requests={"memory": "1025Mi"}),
        "spec.trainer.resources: requests must not be more than limits",
    ),
    (
        _run(sandboxes={"resources": {"limits": {"cpu": 1}, "requests": {"cpu": "1000000001n"}}}),
        "spec.sandboxes.resources: requests must not be more than limits",
    ),
    (_run(checkpoint={"size": "0Gi"}), "spec.checkpoint.size"),
    (_run(checkpoint={"size": "0.00"}), "spec.checkpoint.size"),
    (_run(checkpoint={"size": 0}), "spec.checkpoint.size"),
    (_run(checkpoint={"size": "-1Gi"}), "spec.checkpoint.size"),
    (_run(checkpoint={"storageClassName": "fast"}), "spec.checkpoint: storageClassName belongs to size"),
    *(
        (_run(checkpoint={"objectStore": {"url": url}}), "spec.checkpoint.objectStore.url")
        for url in ("s3://", "http://bucket/a", "s3://key:secret@bucket/a", "file://a", "s3://bucket/a?b=c", "bucket")
    ),
    (_run(activeDeadlineSeconds=0), "spec.activeDeadlineSeconds"),
    (_run(activeDeadlineSeconds=2**31), "spec.activeDeadlineSeconds"),
    (_run(ttlSecondsAfterFinished=-1), "spec.ttlSecondsAfterFinished"),
    (_run(ttlSecondsAfterFinished=2**31), "spec.ttlSecondsAfterFinished"),
    (_pods(hostNetwork=True), "hostNetwork must stay false: network policies"),
    (_pods(securityContext={"runAsNonRoot": False}), "runAsNonRoot must stay true"),
    (_pods(securityContext={"runAsUser": 0}), "securityContext.runAsUser"),
    (_pods(securityContext={"supplementalGroups": [0]}), "securityContext.supplementalGroups"),
    (_pods(securityContext={"seccompProfile": {"type": "Unconfined"}}), "seccompProfile.type"),
    (_pods(securityContext={"seccompProfile": {"type": "Localhost"}}), "localhostProfile is required by"),
    (_pods(securityContext={"seccompProfile": {"localhostProfile": "p"}}), "localhostProfile is required by"),
    (_pods(env=[{"name": "A", "value": "1", "valueFrom": {}}]), "env[0]: give value or valueFrom, not both"),
    (_pods(env=[{"name": "ASTRA_OUT", "value": "1"}]), "env[0]: name must not begin with ASTRA_"),
    (_pods(env=[{"name": "A"}, {"name": "A"}]), "spec.trainer.podTemplate.spec.env"),
    (_pods(imagePullSecrets=[{"name": "a"}, {"name": "a"}]), "spec.trainer.podTemplate.spec.imagePullSecrets"),
    (_pods(volumes=[{"name": "a"}]), "volumes[0]: give exactly one of configMap, secret"),
    (_pods(volumes=[{"name": "a", "emptyDir": {}, "secret": {}}]), "volumes[0]: give exactly one of"),
    (_pods(volumes=[{"name": "a", "emptyDir": {}}] * 2), "spec.trainer.podTemplate.spec.volumes"),
    (_pods(volumeMounts=[{"name": "a", "mountPath": "relative"}]), "volumeMounts[0].mountPath"),
    (
        _pods(volumeMounts=[{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/a"}]),
        "spec.trainer.podTemplate.spec.volumeMounts",
    ),
    (_pods(tolerations=[{"effect": "NoSchedule"}]), "tolerations[0]: key is required, unless operator is Exists"),
    (_pods(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]), "tolerations[0]: value needs operator"),
    (_pods(tolerations=[{"key": "a", "tolerationSeconds": 3}]), "tolerations[0]: tolerationSeconds needs effect"),
    (
        _run(sandboxes={"podTemplate": {"spec": {"runtimeClassName": "runc"}}}),
        "spec.sandboxes: podTemplate.spec.runtimeClassName is refused on sandboxes",
    ),
]
_SYNTHESIS = synthesis_run(count=1, environments=TABLES)
ALLOWED_CHANGES = [  # from one good object to another
    (_run(), _run(suspend=True)),
    (_run(), _run(sandboxes={"replicas": 3}, trainer={"retries": 9, "podTemplate": _TEMPLATE})),
    (_run(), _run(checkpoint={"size": "1Gi"}, activeDeadlineSeconds=60, ttlSecondsAfterFinished=60)),
    (_SYNTHESIS, _SYNTHESIS),
    (_SYNTHESIS, synthesis_run(count=1, environments=TABLES, podTemplate=_TEMPLATE)),
    (_SYNTHESIS, synthesis_run(count=1, environments=TABLES, activeDeadlineSeconds=60, ttlSecondsAfterFinished=60)),
    (environment(), environment(question="Another question?")),
]
REFUSED_CHANGES = [  # from one good object to another, and the field that may not change
    (_run(), _run(seed=1), "seed"),
    (_run(), _run(model={"name": "n"}), "model"),
    (_run(), _run(engine="verl"), "engine"),
    (_run(engine="verl"), _run(engine="verl", verl={}), "verl"),
    (_run(), _run(environments={"selector": {"matchLabels": {"a": "b"}}}), "environments"),
    (_run(), _run(sft={"dataset": {"type": "gold"}}), "sft"),
    (_run(), _run(rl={"steps": 3}), "rl"),
    (_run(), _run(evaluation={"samples": 2}), "evaluation"),
    (_SYNTHESIS, synthesis_run(count=2, environments=TABLES), "count"),
    (_SYNTHESIS, synthesis_run(count=1, environments=TABLES, seed=1), "seed"),
    (_SYNTHESIS, synthesis_run(count=1, environments=TABLES | {"repairs": 1}), "environments"),
    (_SYNTHESIS, synthesis_run(count=1, environments=TABLES, teacher=_TEACHER), "teacher"),
    (_SYNTHESIS, synthesis_run(count=1, environments=TABLES, judge=_TEACHER), "judge"),
    (_SYNTHESIS, synthesis_run(count=1, environments=TABLES, volume={"claimName": "c"}), "volume"),
]


def default_differences(body: Body, stored: Body) -> Iterator[str]:
    """Where a server filled in another default than the model has: `body` as it was applied, `stored` as it was read
    back. Only in a union (a part with `type`) may a default of the model stay out, since it is that of one variant."""
    model = KINDS[body["kind"]].model_validate(body)
    expected = model.model_dump(mode="json", by_alias=True, exclude_none=True)["spec"]
    yield from _differences(expected, stored["spec"], "spec")


def _differences(expected: Any, actual: Any, field: str) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(actual, dict):
        union = field.endswith((".dataset", ".source"))
        for name in sorted(expected.keys() | actual.keys()):
            if name in actual and name in expected:
                yield from _differences(expected[name], actual[name], f"{field}.{name}")
            elif name in actual or not union:
                yield f"{field}.{name}: the model has {expected.get(name)!r}, the server {actual.get(name)!r}"
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
            yield from _differences(one, other, f"{field}[{index}]")
    elif not _same(expected, actual):
        yield f"{field}: the model has {expected!r}, the server {actual!r}"


def _same(expected: Any, actual: Any) -> bool:
    """A quantity may be a whole number, which the model reads as a string."""
    return bool(expected == actual) or (isinstance(actual, int) and expected == str(actual))
