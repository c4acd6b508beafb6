"""What a TrainingRun asks for. Pure."""

import json
from typing import Any

from astra_api.resource import GROUP
from astra_api.training_run import TrainingRun
from astra_operator.census import Census
from astra_operator.conditions import Condition
from astra_operator.farm import Farm
from astra_operator.manifests.identity import OWNER, ROLE, Owner
from astra_operator.manifests.job import QUEUE, Work, claim_object
from astra_operator.manifests.pool import Pool
from astra_operator.runs import TRAINING_PHASES, Plan

_VOLUME = "/checkpoint"
_RESOURCES = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "16Gi"}}


def training_plan(run: TrainingRun, owner: Owner, farm: Farm, census: Census) -> Plan:
    """`run` as it was accepted."""
    spec = run.spec
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
    )
    claim = spec.checkpoint.claim_name or (owner.base if spec.checkpoint.size else None)
    volume = {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}}
    work = Work(
        owner=owner,
        role="trainer",
        image=spec.trainer.image or farm.settings.trainer_image,
        pull_policy=farm.settings.pull_policy,
        command=("python", "-m", "astra_trainer.cluster_run"),
        pool=pool,
        rules=_rules(run, census),
        resources=dict(spec.trainer.resources) or _RESOURCES,
        retries=spec.trainer.retries,
        gpus=spec.trainer.gpus_per_node,
        nodes=spec.trainer.nodes,
        queue=run.metadata.labels.get(QUEUE),
        volumes=({"name": "checkpoint", **volume},),
        mounts=({"name": "checkpoint", "mountPath": _VOLUME},),
        variables={"ASTRA_OUT": f"{_VOLUME}/{run.metadata.name}"},
    )
    return Plan(
        pool=pool,
        work=work,
        manifest=manifest_of(run),
        extra=(claim_object(owner, spec.checkpoint.size),) if spec.checkpoint.size and claim == owner.base else (),
        gates=(environments_gate(run, census),),
        suspend=spec.suspend,
        require_isolation=spec.sandboxes.require_network_isolation,
        phases=TRAINING_PHASES,
    )


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
