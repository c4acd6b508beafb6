"""What a TrainingRun asks for. Pure."""

import json
from typing import Any

from astra_api.canonical import digest
from astra_api.resource import GROUP, ResourceRequirements
from astra_api.training_run import TrainingRun
from astra_operator.accepting import Problem
from astra_operator.census import Census
from astra_operator.conditions import Condition
from astra_operator.farm import Farm
from astra_operator.manifests.identity import OWNER, ROLE, Owner
from astra_operator.manifests.job import GPU, KUEUE, QUEUE, SHARED, Work, claim_object, ray_policy
from astra_operator.manifests.pool import Pool, own_certificates_volume
from astra_operator.runs import TRAINING_PHASES, Plan

PLACE = ("trainer", "checkpoint")  # fields of spec that `unrunnable` looks at, and that may change
_VOLUME = "/checkpoint"
_OWN_CERTIFICATES = "/etc/astra/own"  # of environments with pods of their own, a folder each
_ALONE = "ClaimNotShared"
_SHARED_LABELS = (QUEUE, f"{KUEUE}priority-class")  # Kueue's, that a pool has in common with the run's Job
_RESOURCES: ResourceRequirements = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "16Gi"}}


def unrunnable(run: TrainingRun) -> list[Problem]:
    """What is wrong with a run on a cluster that is right with it elsewhere."""
    trainer, checkpoint, problems = run.spec.trainer, run.spec.checkpoint, []
    if run.spec.engine == "verl" and not trainer.gpus_per_node:
        if trainer.nodes > 1:
            problems.append(Problem("spec.trainer.gpusPerNode", "several nodes need GPUs; give each at least 1"))
        elif trainer.image is None:
            message = "the farm's image of engine verl needs GPUs; give at least 1, another engine, or trainer.image"
            problems.append(Problem("spec.trainer.gpusPerNode", message))
    for part, amounts in trainer.resources.items():
        given = amounts.get(GPU) if isinstance(amounts, dict) else None
        if given is not None and given != str(trainer.gpus_per_node):
            field = f"spec.trainer.resources.{part}"
            problems.append(Problem(field, f"{GPU} is what gpusPerNode says, {trainer.gpus_per_node}; remove it"))
    if trainer.nodes > 1 and checkpoint.claim_name is None and checkpoint.size is None:
        message = (
            f"trainer.nodes is {trainer.nodes}, and all nodes share the checkpoints: give claimName of a {SHARED} "
            "claim, or size to have one made"
        )
        problems.append(Problem("spec.checkpoint", message))
    return problems


def claim_of(run: TrainingRun, owner: Owner) -> str | None:
    """The name of the claim that holds the checkpoints; None where they end with the pod."""
    return run.spec.checkpoint.claim_name or (owner.base if run.spec.checkpoint.size else None)


def training_plan(
    run: TrainingRun, owner: Owner, farm: Farm, census: Census, claim: dict[str, Any] | None = None
) -> Plan:
    """`run` as it was accepted. `claim`: the PersistentVolumeClaim of a run with several nodes, if there is one."""
    spec = run.spec
    queue_labels = _of_kueue(run.metadata.labels)
    pool = Pool(
        owner=owner,
        image=farm.settings.sandbox_image,
        pull_policy=farm.settings.pull_policy,
        replicas=spec.sandboxes.replicas,
        clients={OWNER: owner.base, ROLE: "trainer"},
        runtime_class=spec.sandboxes.runtime_class_name,
        capacity=spec.sandboxes.sessions_per_pod,
        resources=dict(spec.sandboxes.resources),
        policy_version=farm.policy_version,
        egress_targets=farm.settings.canary_targets,
        queue_labels={
            key: value for key, value in queue_labels.items() if QUEUE in queue_labels and key in _SHARED_LABELS
        },
    )
    claim_name = claim_of(run, owner)
    volume = {"persistentVolumeClaim": {"claimName": claim_name}} if claim_name else {"emptyDir": {}}
    gates = [environments_gate(run, census)]
    if spec.trainer.nodes > 1:
        gates.append(volume_gate(run, owner, claim))
    volumes: list[dict[str, Any]] = [{"name": "checkpoint", **volume}]
    mounts: list[dict[str, Any]] = [{"name": "checkpoint", "mountPath": _VOLUME}]
    own_pods = census.with_own_pods(owner.namespace, spec.environments.selectors)
    if own_pods:
        owners = [Owner("Environment", name, owner.namespace) for name in own_pods]
        volumes.append(own_certificates_volume("own-tls", owners))
        mounts.append({"name": "own-tls", "mountPath": _OWN_CERTIFICATES, "readOnly": True})
    work = Work(
        owner=owner,
        role="trainer",
        image=spec.trainer.image or farm.settings.image_of_trainer(spec.engine, spec.trainer.gpus_per_node),
        pull_policy=farm.settings.pull_policy,
        command=("python", "-m", "astra_trainer.cluster_run"),
        pool=pool,
        rules=_rules(run, census),
        resources=dict(spec.trainer.resources or _default_resources(run)),
        retries=spec.trainer.retries,
        gpus=spec.trainer.gpus_per_node,
        nodes=spec.trainer.nodes,
        ray=spec.engine == "verl",
        queue_labels=queue_labels if QUEUE in queue_labels else {},
        queue_annotations=_of_kueue(run.metadata.annotations) if QUEUE in queue_labels else {},
        volumes=tuple(volumes),
        mounts=tuple(mounts),
        variables={
            "ASTRA_OUT": f"{_VOLUME}/{run.metadata.name}",
            "HF_HOME": f"{_VOLUME}/.huggingface",  # models are large, are fetched once, and every node reads them
            **({"ASTRA_OWN_TLS_DIR": _OWN_CERTIFICATES} if own_pods else {}),
        },
    )
    extra = [ray_policy(work)] if work.ray else []
    if spec.checkpoint.size and claim_name == owner.base and all(gate.reason != _ALONE for gate in gates):
        retain = spec.checkpoint.retain
        extra.append(claim_object(owner, spec.checkpoint.size, spec.trainer.nodes, retain=retain))
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
