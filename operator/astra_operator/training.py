"""What a TrainingRun asks for. Pure."""

import json
from dataclasses import replace
from typing import Any

from astra_api.canonical import digest
from astra_api.resource import GROUP, ResourceRequirements
from astra_api.training_run import Trainer, TrainingRun
from astra_operator.accepting import Problem
from astra_operator.census import Census
from astra_operator.conditions import Condition
from astra_operator.farm import Farm
from astra_operator.manifests.identity import OWNER, ROLE, Owner
from astra_operator.manifests.job import (
    KUEUE,
    QUEUE,
    SHARED,
    Work,
    claim_object,
    pod_template,
    ray_policy,
)
from astra_operator.manifests.pool import Pool, own_certificates_volume
from astra_operator.manifests.pool import pod_template as sandbox_template
from astra_operator.manifests.templates import OWN_FOLDER, Template, clean_path, merged
from astra_operator.permits import image_problems, secret_problems, template_problems
from astra_operator.policy import SecretUse
from astra_operator.runs import TRAINING_PHASES, Plan

PLACE = ("trainer", "checkpoint", "sandboxes")  # fields of spec that `unrunnable` looks at, and that may change
_VOLUME = "/checkpoint"
_MODELS = "/models"  # where the claim of a model cache is mounted
_OWN_CERTIFICATES = f"{OWN_FOLDER}/own"  # of environments with pods of their own, a folder each
_ALONE = "ClaimNotShared"
_SHARED_LABELS = (QUEUE, f"{KUEUE}priority-class")  # Kueue's, that a pool has in common with the run's Job
_RESOURCES: ResourceRequirements = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "16Gi"}}


def unrunnable(run: TrainingRun, farm: Farm) -> list[Problem]:
    """What is wrong with a run on a cluster that is right with it elsewhere, and what its farm does not allow."""
    return [*_of_nodes(run), *_of_accelerator(run.spec.trainer), *_of_store(run, farm), *_of_pods(run, farm)]


def _of_nodes(run: TrainingRun) -> list[Problem]:
    trainer, checkpoint, problems = run.spec.trainer, run.spec.checkpoint, []
    if run.spec.engine == "verl" and not trainer.gpus_per_node:
        if trainer.nodes > 1:
            problems.append(Problem("spec.trainer.gpusPerNode", "several nodes need GPUs; give each at least 1"))
        elif trainer.image is None:
            message = "the farm's image of engine verl needs GPUs; give at least 1, another engine, or trainer.image"
            problems.append(Problem("spec.trainer.gpusPerNode", message))
    if trainer.nodes > 1 and checkpoint.claim_name is None and checkpoint.size is None:
        message = (
            f"trainer.nodes is {trainer.nodes}, and all nodes share the checkpoints: give claimName of a {SHARED} "
            "claim, or size to have one made"
        )
        problems.append(Problem("spec.checkpoint", message))
    return problems


def _of_accelerator(trainer: Trainer) -> list[Problem]:
    problems, accelerator = [], trainer.accelerator
    if trainer.gpus_per_node and trainer.image is None and not accelerator.startswith("nvidia.com/"):
        message = (
            f"the farm's images are built for NVIDIA's GPUs; give trainer.image, one that is built for {accelerator}"
        )
        problems.append(Problem("spec.trainer.accelerator", message))
    for part, amounts in trainer.resources.items():
        given = amounts.get(accelerator) if isinstance(amounts, dict) else None
        if given is not None and given != str(trainer.gpus_per_node):
            message = f"{accelerator} is what gpusPerNode says, {trainer.gpus_per_node}; remove it"
            problems.append(Problem(f"spec.trainer.resources.{part}", message))
    return problems


def _of_store(run: TrainingRun, farm: Farm) -> list[Problem]:
    """A folder of the object store must be on a volume: the rest of the pod cannot be written to, or ends with it."""
    store = run.spec.checkpoint.object_store
    if store is None or not store.url.startswith("file://"):
        return []
    folder = clean_path(store.url.removeprefix("file://"))
    mounts = _added(run, farm)["spec"].get("volumeMounts", [])
    if any(f"{folder}/".startswith(f"{clean_path(each['mountPath']).rstrip('/')}/") for each in mounts):
        return []
    message = f"nothing is mounted at {folder} or above it; add a volume and a volumeMount to trainer.podTemplate"
    return [Problem("spec.checkpoint.objectStore.url", message)]


def _of_pods(run: TrainingRun, farm: Farm) -> list[Problem]:
    """Pod templates that clash with the operator's own pods, and images and Secrets that the farm does not allow."""
    spec, settings = run.spec, farm.settings
    owner = Owner(run.kind, run.metadata.name, run.metadata.namespace or "")
    pool = _pool(run, owner, farm)
    work = _work(run, owner, farm, pool, (), [owner])
    problems = image_problems(spec.trainer.image, "spec.trainer.image", settings)
    problems += template_problems(
        spec.trainer.pod_template,
        "spec.trainer.podTemplate",
        pod_template(replace(work, template={})),
        settings,
        settings.pod_defaults.trainer,
    )
    problems += template_problems(
        spec.sandboxes.pod_template,
        "spec.sandboxes.podTemplate",
        sandbox_template(replace(pool, template={})),
        settings,
        settings.pod_defaults.sandboxes,
    )
    store = spec.checkpoint.object_store
    secret = store.secret if store is not None else None
    return problems + secret_problems(
        [SecretUse("spec.checkpoint.objectStore.secret", secret)] if secret else [], settings
    )


def claim_of(run: TrainingRun, owner: Owner) -> str | None:
    """The name of the claim that holds the checkpoints; None where they end with the pod."""
    return run.spec.checkpoint.claim_name or (owner.base if run.spec.checkpoint.size else None)


def training_plan(
    run: TrainingRun, owner: Owner, farm: Farm, census: Census, claim: dict[str, Any] | None = None
) -> Plan:
    """`run` as it was accepted. `claim`: the PersistentVolumeClaim of a run with several nodes, if there is one."""
    spec = run.spec
    pool = _pool(run, owner, farm)
    gates = [environments_gate(run, census)]
    if spec.trainer.nodes > 1:
        gates.append(volume_gate(run, owner, claim))
    own_pods = census.with_own_pods(owner.namespace, spec.environments.selectors)
    own_owners = [Owner("Environment", name, owner.namespace) for name in own_pods]
    work = _work(run, owner, farm, pool, _rules(run, census), own_owners)
    extra = [ray_policy(work)] if work.ray else []
    if spec.checkpoint.size and spec.checkpoint.claim_name is None and all(gate.reason != _ALONE for gate in gates):
        storage_class = spec.checkpoint.storage_class_name
        retain = spec.checkpoint.retain
        extra.append(claim_object(owner, spec.checkpoint.size, spec.trainer.nodes, storage_class, retain=retain))
    return Plan(
        pool=pool,
        work=work,
        manifest=manifest_of(run),
        settings=farm.settings,
        ttl_seconds=spec.ttl_seconds_after_finished,
        wish=digest(spec.sandboxes.model_dump(mode="json", by_alias=True, exclude_defaults=True)),
        extra=tuple(extra),
        gates=tuple(gates),
        suspend=spec.suspend,
        require_isolation=spec.sandboxes.require_network_isolation,
        phases=TRAINING_PHASES,
    )


def _of_kueue(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.startswith(KUEUE)}


def _queue_labels(run: TrainingRun) -> dict[str, str]:
    """Kueue's labels of a run that names a queue; none of one that does not."""
    return _of_kueue(run.metadata.labels) if QUEUE in run.metadata.labels else {}


def _pool(run: TrainingRun, owner: Owner, farm: Farm) -> Pool:
    sandboxes, settings = run.spec.sandboxes, farm.settings
    return Pool(
        owner=owner,
        image=settings.sandbox_image,
        pull_policy=settings.pull_policy,
        replicas=sandboxes.replicas,
        clients={OWNER: owner.base, ROLE: "trainer"},
        runtime_class=sandboxes.runtime_class_name,
        capacity=sandboxes.sessions_per_pod,
        resources=dict(sandboxes.resources),
        policy_version=farm.policy_version,
        egress_targets=settings.canary_targets,
        queue_labels={key: value for key, value in _queue_labels(run).items() if key in _SHARED_LABELS},
        monitoring=settings.monitoring,
        template=merged(settings.pod_defaults.sandboxes, sandboxes.pod_template),
    )


def _work(
    run: TrainingRun, owner: Owner, farm: Farm, pool: Pool, rules: tuple[dict[str, Any], ...], own_pods: list[Owner]
) -> Work:
    """`own_pods`: the Environments with pods of their own, whose certificates the trainer needs."""
    spec, trainer = run.spec, run.spec.trainer
    claim_name = claim_of(run, owner)
    volumes: list[dict[str, Any]] = [{"name": "checkpoint", **(_claim(claim_name) if claim_name else {"emptyDir": {}})}]
    mounts: list[dict[str, Any]] = [{"name": "checkpoint", "mountPath": _VOLUME}]
    variables = {"ASTRA_OUT": f"{_VOLUME}/{run.metadata.name}"}
    variables["HF_HOME"] = f"{_VOLUME}/.huggingface"  # models are large, are fetched once, and every node reads them
    if trainer.model_cache_claim is not None:
        volumes.append({"name": "models", **_claim(trainer.model_cache_claim)})
        mounts.append({"name": "models", "mountPath": _MODELS})
        variables["HF_HOME"] = _MODELS
    if own_pods:
        volumes.append(own_certificates_volume("own-tls", own_pods))
        mounts.append({"name": "own-tls", "mountPath": _OWN_CERTIFICATES, "readOnly": True})
        variables["ASTRA_OWN_TLS_DIR"] = _OWN_CERTIFICATES
    return Work(
        owner=owner,
        role="trainer",
        image=trainer.image or farm.settings.image_of_trainer(spec.engine, trainer.gpus_per_node),
        pull_policy=farm.settings.pull_policy,
        command=("python", "-m", "astra_trainer.cluster_run"),
        pool=pool,
        rules=rules,
        resources=dict(trainer.resources or _default_resources(run)),
        retries=trainer.retries,
        gpus=trainer.gpus_per_node,
        accelerator=trainer.accelerator,
        nodes=trainer.nodes,
        ray=spec.engine == "verl",
        queue_labels=_queue_labels(run),
        queue_annotations=_of_kueue(run.metadata.annotations) if _queue_labels(run) else {},
        volumes=tuple(volumes),
        mounts=tuple(mounts),
        variables=variables,
        store=spec.checkpoint.object_store,
        capabilities=("IPC_LOCK",) if trainer.infiniband else (),
        deadline_seconds=spec.active_deadline_seconds,
        pod_failure_policy=farm.pod_failure_policy,
        kuberay=farm.settings.kuberay,
        template=_added(run, farm),
    )


def _added(run: TrainingRun, farm: Farm) -> Template:
    """To the trainer's pods."""
    return merged(farm.settings.pod_defaults.trainer, run.spec.trainer.pod_template)


def _claim(name: str) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": name}}


def environments_gate(run: TrainingRun, census: Census) -> Condition:
    """Opens when environments are verified and none is on its way: a run keeps the environments that it began with."""
    found = census.count(run.metadata.namespace or "", run.spec.environments.selectors)
    counted = f"{found.verified} verified, {found.rejected} rejected, {found.unfinished} on their way"
    if found.unfinished:
        return Condition("EnvironmentsReady", "False", "Verifying", counted)
    if not found.verified:
        message = f"{counted}; spec.environments.selector must select Environments of this namespace"
        return Condition("EnvironmentsReady", "False", "NoneVerified", message)
    return Condition("EnvironmentsReady", "True", "Verified", counted)


def volume_gate(run: TrainingRun, owner: Owner, claim: dict[str, Any] | None) -> Condition:
    """Opens when all nodes can mount the claim, as far as the claim says."""
    name, made = claim_of(run, owner), run.spec.checkpoint.claim_name is None
    if claim is None and not made:
        message = f"spec.checkpoint.claimName: there is no PersistentVolumeClaim {name}; make one that is {SHARED}"
        return Condition("VolumeShared", "False", "ClaimMissing", message)
    modes = [SHARED] if claim is None else claim["spec"].get("accessModes") or []
    if SHARED not in modes:
        field = "spec.trainer.nodes" if made else "spec.checkpoint.claimName"
        message = (
            f"{field}: claim {name} is {' and '.join(modes)}, which {run.spec.trainer.nodes} nodes cannot share; "
            f"name a {SHARED} one in checkpoint.claimName, or have one node"
        )
        return Condition("VolumeShared", "False", _ALONE, message)
    return Condition("VolumeShared", "True", SHARED, f"claim {name}")


def _default_resources(run: TrainingRun) -> ResourceRequirements:
    """A share of a usual node by its GPUs; what a model really needs, `astra plan` tells."""
    gpus = run.spec.trainer.gpus_per_node
    if run.spec.engine == "embedded" or not gpus:
        return _RESOURCES
    asked = {"cpu": str(4 * gpus), "memory": f"{32 * gpus}Gi"}
    return {"requests": asked, "limits": {"memory": f"{128 * gpus}Gi"}}


def manifest_of(run: TrainingRun) -> str:
    """The run as its trainer reads it: JSON, which is YAML."""
    body = run.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
    body["spec"]["suspend"] = False  # whoever reads it is to train
    kept = {key: value for key, value in body["metadata"].items() if key in ("name", "namespace") and value}
    return json.dumps({**body, "metadata": kept}, indent=1, sort_keys=True, ensure_ascii=False)


def _rules(run: TrainingRun, census: Census) -> tuple[dict[str, Any], ...]:
    """Reads environments, with the ConfigMaps that hold their sources; writes the status of this run."""
    rules: list[dict[str, Any]] = [
        {"apiGroups": [GROUP], "resources": ["environments"], "verbs": ["get", "list"]},
        {
            "apiGroups": [GROUP],
            "resources": ["trainingruns/status"],
            "resourceNames": [run.metadata.name],
            "verbs": ["patch"],
        },
    ]
    sources = census.sources(run.metadata.namespace or "", run.spec.environments.selectors)
    if sources:
        rules.append({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": sources, "verbs": ["get"]})
    return tuple(rules)
