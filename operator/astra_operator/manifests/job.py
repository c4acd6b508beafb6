"""The Job of a run, what it reads and what it may do. Pure."""

from dataclasses import dataclass, field
from typing import Any

from astra_api.kube import CONFIG_MAP, Kind
from astra_operator.actions import Apply
from astra_operator.manifests.identity import OWNED_BY, Owner
from astra_operator.manifests.pods import SCRATCH, SCRATCH_MOUNT, container_security, environment, pod_security
from astra_operator.manifests.pool import CERTIFICATES, CLIENT_FILES, Pool, certificates_volume
from astra_operator.settings import PullPolicy

JOB = Kind("batch/v1", "Job", "jobs")
RAY_JOB = Kind("ray.io/v1", "RayJob", "rayjobs")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
RBAC = "rbac.authorization.k8s.io"
RBAC_ROLE = Kind(f"{RBAC}/v1", "Role", "roles")
ROLE_BINDING = Kind(f"{RBAC}/v1", "RoleBinding", "rolebindings")
CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
QUEUE = "kueue.x-k8s.io/queue-name"
RUN_FILE = "run.json"
RUN_FOLDER = "/etc/astra/run"


@dataclass(frozen=True)
class Work:
    """What a run's Job runs, and with which rights."""

    owner: Owner
    role: str  # trainer | synth
    image: str
    pull_policy: PullPolicy
    command: tuple[str, ...]
    pool: Pool
    rules: tuple[dict[str, Any], ...]
    resources: dict[str, Any]
    retries: int
    gpus: int = 0
    nodes: int = 1
    queue: str | None = None
    volumes: tuple[dict[str, Any], ...] = ()
    mounts: tuple[dict[str, Any], ...] = ()
    secret_environment: tuple[dict[str, Any], ...] = ()
    grace_seconds: int = 120  # to end the step under way
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.owner.base

    @property
    def job_kind(self) -> Kind:
        return JOB if self.nodes == 1 else RAY_JOB


def access_objects(work: Work) -> list[Apply]:
    """A service account that can do what `rules` say and nothing else."""
    subject = {"kind": "ServiceAccount", "name": work.name, "namespace": work.owner.namespace}
    reference = {"apiGroup": RBAC, "kind": "Role", "name": work.name}
    metadata = work.owner.metadata(work.name, work.role)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    role = {"apiVersion": RBAC_ROLE.api_version, "kind": "Role", "metadata": metadata, "rules": list(work.rules)}
    binding = {"apiVersion": RBAC_ROLE.api_version, "kind": "RoleBinding", "metadata": metadata}
    return [
        Apply(SERVICE_ACCOUNT, account | {"automountServiceAccountToken": False}),
        Apply(RBAC_ROLE, role),
        Apply(ROLE_BINDING, binding | {"roleRef": reference, "subjects": [subject]}),
    ]


def run_object(work: Work, manifest: str) -> Apply:
    """The ConfigMap with the run as it was accepted (JSON)."""
    metadata = work.owner.metadata(work.name, work.role)
    return Apply(
        CONFIG_MAP, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {RUN_FILE: manifest}}
    )


def job_object(work: Work) -> Apply:
    """The Job; a RayJob where it takes more nodes than one."""
    metadata = work.owner.metadata(work.name, work.role)
    if work.queue:
        metadata["labels"] = metadata["labels"] | {QUEUE: work.queue}
    if work.nodes > 1:
        return Apply(RAY_JOB, _ray_job(work, metadata))
    template = {"metadata": _template_metadata(work), "spec": _pod(work) | {"restartPolicy": "Never"}}
    spec = {"backoffLimit": work.retries, "template": template}
    return Apply(JOB, {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})


def claim_object(owner: Owner, size: str) -> Apply:
    """The volume of a run that asks for a size and names no claim of its own."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    metadata = owner.metadata(owner.base, "trainer")
    return Apply(CLAIM, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})


def _template_metadata(work: Work) -> dict[str, Any]:
    annotations = {OWNED_BY: f"{work.owner.kind}/{work.owner.name}"}
    return {"labels": work.owner.labels(work.role), "annotations": annotations}


def _pod(work: Work) -> dict[str, Any]:
    volumes = [
        SCRATCH,
        {"name": "run", "configMap": {"name": work.name}},
        certificates_volume(work.pool.secret, CLIENT_FILES),
        *work.volumes,
    ]
    return {
        "serviceAccountName": work.name,
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": work.grace_seconds,
        "securityContext": pod_security(),
        "containers": [_container(work)],
        "volumes": volumes,
    }


def _container(work: Work) -> dict[str, Any]:
    variables = environment(
        ASTRA_RUN_FILE=f"{RUN_FOLDER}/{RUN_FILE}",
        ASTRA_SANDBOXES=",".join(work.pool.addresses),
        ASTRA_TLS_DIR=CERTIFICATES,
        **work.variables,
    )
    resources = work.resources
    if work.gpus:
        limits = {"nvidia.com/gpu": str(work.gpus), **resources.get("limits", {})}
        resources = resources | {"limits": limits}
    return {
        "name": work.role,
        "image": work.image,
        "imagePullPolicy": work.pull_policy,
        "command": list(work.command),
        "env": [*variables, *work.secret_environment],
        "terminationMessagePolicy": "FallbackToLogsOnError",  # why it failed, for the run's condition
        "securityContext": container_security(),
        "resources": resources,
        "volumeMounts": [
            SCRATCH_MOUNT,
            {"name": "run", "mountPath": RUN_FOLDER, "readOnly": True},
            {"name": "tls", "mountPath": CERTIFICATES, "readOnly": True},
            *work.mounts,
        ],
    }


def _ray_job(work: Work, metadata: dict[str, Any]) -> dict[str, Any]:
    """KubeRay brings up the nodes, submits the command to the head and takes them down again."""
    template = {"metadata": _template_metadata(work), "spec": _pod(work)}
    group = {"groupName": "workers", "replicas": work.nodes - 1, "minReplicas": work.nodes - 1}
    return {
        "apiVersion": RAY_JOB.api_version,
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": " ".join(work.command),
            "backoffLimit": work.retries,
            "shutdownAfterJobFinishes": True,
            "submissionMode": "HTTPMode",
            "rayClusterSpec": {
                "headGroupSpec": {"rayStartParams": {"dashboard-host": "0.0.0.0"}, "template": template},
                "workerGroupSpecs": [
                    group | {"maxReplicas": work.nodes - 1, "rayStartParams": {}, "template": template}
                ],
            },
        },
    }
