"""What a SynthesisRun asks for. Pure."""

import json
from dataclasses import replace
from typing import Any

from astra_api.resource import GROUP
from astra_api.synthesis_run import SynthesisRun
from astra_operator.accepting import Problem
from astra_operator.farm import Farm
from astra_operator.manifests.identity import OWNER, ROLE, Owner
from astra_operator.manifests.job import Work, pod_template
from astra_operator.manifests.pool import Pool
from astra_operator.manifests.templates import merged
from astra_operator.permits import secret_problems, template_problems
from astra_operator.policy import SecretUse
from astra_operator.runs import SYNTHESIS_PHASES, Plan

_VOLUME = "/volume"
_POOL = 2
_RETRIES = 3
_RESOURCES = {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}}


def unrunnable(run: SynthesisRun, farm: Farm) -> list[Problem]:
    """What is wrong with a run on a cluster that is right with it elsewhere, and what its farm does not allow."""
    settings, wanted, problems = farm.settings, run.spec.environments, []
    if wanted is not None and wanted.source.path is not None and run.spec.volume is None:
        message = "a Job finds it on a volume only: give spec.volume.claimName, to which the path is relative"
        problems.append(Problem("spec.environments.source.path", message))
    work = synthesis_plan(run, Owner(run.kind, run.metadata.name, run.metadata.namespace or ""), farm).work
    bare, default = pod_template(replace(work, template={})), settings.pod_defaults.synthesis
    problems += template_problems(run.spec.pod_template, "spec.podTemplate", bare, settings, default)
    endpoints = {"teacher": run.spec.teacher, "judge": run.spec.judge}
    keys = {part: endpoint.api_key_secret for part, endpoint in endpoints.items() if endpoint is not None}
    uses = [SecretUse(f"spec.{part}.apiKeySecret.name", key.name) for part, key in keys.items() if key is not None]
    return problems + secret_problems(uses, settings)


def synthesis_plan(run: SynthesisRun, owner: Owner, farm: Farm) -> Plan:
    """`run` as it was accepted. Its sandboxes check what it makes; the operator checks it again once it exists."""
    defaults = farm.settings.pod_defaults
    pool = Pool(
        owner=owner,
        image=farm.settings.sandbox_image,
        pull_policy=farm.settings.pull_policy,
        replicas=_POOL,
        clients={OWNER: owner.base, ROLE: "synth"},
        runtime_class=farm.settings.runtime_class,
        policy_version=farm.policy_version,
        egress_targets=farm.settings.canary_targets,
        monitoring=farm.settings.monitoring,
        template=merged(defaults.sandboxes, None),
    )
    rules = (
        {"apiGroups": [GROUP], "resources": ["environments"], "verbs": ["create"]},
        {
            "apiGroups": [GROUP],
            "resources": ["synthesisruns/status"],
            "resourceNames": [run.metadata.name],
            "verbs": ["patch"],
        },
    )
    volume, place = run.spec.volume, {"ASTRA_OUT": "/tmp/out"}
    if volume is not None:
        place = {"ASTRA_OUT": f"{_VOLUME}/{run.metadata.name}", "ASTRA_FILES": _VOLUME}
    work = Work(
        owner=owner,
        role="synth",
        image=farm.settings.synth_image,
        pull_policy=farm.settings.pull_policy,
        command=("python", "-m", "astra_synth.cluster_run"),
        pool=pool,
        rules=rules,
        resources=_RESOURCES,
        retries=_RETRIES,
        secret_environment=_keys(run),
        grace_seconds=30,
        volumes=({"name": "volume", "persistentVolumeClaim": {"claimName": volume.claim_name}},) if volume else (),
        mounts=({"name": "volume", "mountPath": _VOLUME},) if volume else (),
        variables=place,
        deadline_seconds=run.spec.active_deadline_seconds,
        pod_failure_policy=farm.pod_failure_policy,
        template=merged(defaults.synthesis, run.spec.pod_template),
    )
    return Plan(
        pool=pool,
        work=work,
        manifest=manifest_of(run),
        settings=farm.settings,
        phases=SYNTHESIS_PHASES,
        ttl_seconds=run.spec.ttl_seconds_after_finished,
    )


def _keys(run: SynthesisRun) -> tuple[dict[str, Any], ...]:
    """The API keys of teacher and judge, by reference."""
    endpoints = {"ASTRA_TEACHER_API_KEY": run.spec.teacher, "ASTRA_JUDGE_API_KEY": run.spec.judge}
    secrets = {name: endpoint.api_key_secret for name, endpoint in endpoints.items() if endpoint is not None}
    return tuple(
        {"name": name, "valueFrom": {"secretKeyRef": {"name": key.name, "key": key.key}}}
        for name, key in secrets.items()
        if key is not None
    )


def manifest_of(run: SynthesisRun) -> str:
    """The run as its Job reads it: JSON, which is YAML."""
    body = run.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
    kept = {key: value for key, value in body["metadata"].items() if key in ("name", "namespace") and value}
    return json.dumps({**body, "metadata": kept}, indent=1, sort_keys=True, ensure_ascii=False)
