"""The Job of a run, what it reads and what it may do. Pure."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from astra_api.kube import CONFIG_MAP, Kind
from astra_api.training_run import ObjectStore
from astra_operator.actions import Apply
from astra_operator.manifests.identity import OWNED_BY, OWNER_UID, Owner
from astra_operator.manifests.pods import SCRATCH_MOUNT, container_security, environment, pod_security, scratch
from astra_operator.manifests.pool import CERTIFICATES, CLIENT_FILES, NETWORK_POLICY, Pool, certificates_volume
from astra_operator.manifests.quantities import canonical_quantity, canonical_resources
from astra_operator.manifests.templates import OWN_FOLDER, Template, apply_template
from astra_operator.settings import KubeRay, PullPolicy

JOB = Kind("batch/v1", "Job", "jobs")
RAY_JOB = Kind("ray.io/v1", "RayJob", "rayjobs")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
RBAC = "rbac.authorization.k8s.io"
RBAC_ROLE = Kind(f"{RBAC}/v1", "Role", "roles")
ROLE_BINDING = Kind(f"{RBAC}/v1", "RoleBinding", "rolebindings")
CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
KUEUE = "kueue.x-k8s.io/"  # begins its labels and annotations
QUEUE = f"{KUEUE}queue-name"
GATE = "astra.farm/sandboxes"  # scheduling gate: closed until the run's sandboxes serve
RAY_VERSION = "2.60.0"  # of requirements/verl-gpu.txt: KubeRay goes by it, as by what Ray offers
RUN_FILE = "run.json"
RUN_FOLDER = f"{OWN_FOLDER}/run"
BAD_INPUT = 2  # the exit code of what the user must mend: trying again is no use
NVIDIA = "nvidia.com/gpu"
_OBJECT_STORE = f"{OWN_FOLDER}/object-store"  # the files of the Secret with its credentials
SHARED = "ReadWriteMany"
_RAY_SCRATCH = "64Gi"  # Ray's logs and what its object store spills, kernels that are compiled
# Places for workers, not cores: verl reserves up to ten beside each GPU, and some of its workers wait for others.
_CPUS, _CPUS_PER_GPU = 16, 12
_DASHBOARD = 8265  # where a Ray head takes jobs
_KUBERAY = {"app.kubernetes.io/component": "kuberay-operator"}  # labels that KubeRay's chart and manifests give it
_NAMESPACE = "kubernetes.io/metadata.name"  # label of every namespace since Kubernetes 1.21


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
    gpus: int = 0  # of each node
    accelerator: str = NVIDIA  # the resource name of the GPUs
    nodes: int = 1
    ray: bool = False  # whether Ray runs in its pods: engine verl
    queue_labels: Mapping[str, str] = field(default_factory=dict)  # Kueue's, of the run
    queue_annotations: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[dict[str, Any], ...] = ()
    mounts: tuple[dict[str, Any], ...] = ()
    secret_environment: tuple[dict[str, Any], ...] = ()
    grace_seconds: int = 120  # to end the step under way
    variables: dict[str, str] = field(default_factory=dict)
    store: ObjectStore | None = None  # the pod that has rights gets its Secret, as variables and as files
    capabilities: tuple[str, ...] = ()
    deadline_seconds: int | None = None
    pod_failure_policy: bool = False  # whether the server knows a Job's
    kuberay: KubeRay = field(default_factory=KubeRay)
    template: Template = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.owner.base

    @property
    def queue(self) -> str | None:
        """The queue of Kueue's in which the run waits, if any."""
        return self.queue_labels.get(QUEUE)

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


def run_object(work: Work, data: dict[str, str]) -> Apply:
    """The ConfigMap with what the run began with; its pods read the run as it was accepted (JSON)."""
    metadata = work.owner.metadata(work.name, work.role)
    return Apply(CONFIG_MAP, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def job_object(work: Work) -> Apply:
    """The Job; a RayJob where it takes more nodes than one."""
    metadata = work.owner.metadata(work.name, work.role)
    metadata["labels"] = {**work.queue_labels, **metadata["labels"]}
    metadata["annotations"] = {**work.queue_annotations, **metadata["annotations"]}
    if work.nodes > 1:
        return Apply(RAY_JOB, _ray_job(work, metadata))
    template = pod_template(work)
    template["spec"]["restartPolicy"] = "Never"
    spec: dict[str, Any] = {"backoffLimit": work.retries, "template": template, **_deadline(work), **_held_back(work)}
    if work.pod_failure_policy:
        spec["podFailurePolicy"] = {"rules": _failure_rules(work)}
    return Apply(JOB, {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})


def claim_object(
    owner: Owner, size: str, nodes: int = 1, storage_class: str | None = None, *, retain: bool = False
) -> Apply:
    """The volume of a run that asks for a size and names no claim of its own; all nodes write to it.

    One that is retained has no owner that it would be collected with; an annotation says whose it is.
    """
    mode = "ReadWriteOnce" if nodes == 1 else SHARED
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": canonical_quantity(size)}}}
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    metadata = owner.metadata(owner.base, "trainer")
    metadata["annotations"] |= {OWNER_UID: owner.uid or ""}
    if retain:
        metadata.pop("ownerReferences", None)
    return Apply(CLAIM, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})


def pod_template(work: Work) -> Template:
    """The pod template of the pod that runs the command."""
    return _template(work, work.command, rights=True)


def _deadline(work: Work) -> dict[str, int]:
    return {"activeDeadlineSeconds": work.deadline_seconds} if work.deadline_seconds is not None else {}


def _failure_rules(work: Work) -> list[dict[str, Any]]:
    """Bad input ends the Job at once; a pod that the cluster took away counts as no failure."""
    codes = {"containerName": work.role, "operator": "In", "values": [BAD_INPUT]}
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    return [{"action": "FailJob", "onExitCodes": codes}, {"action": "Ignore", "onPodConditions": [disrupted]}]


def ray_policy(work: Work) -> Apply:
    """Who may reach the pods of a run in which Ray and vLLM listen, and obey whoever asks: each other, and KubeRay."""
    owner = work.owner
    ingress: list[dict[str, Any]] = [{"from": [{"podSelector": {"matchLabels": owner.labels(work.role)}}]}]
    if work.nodes > 1:
        namespace = {"matchLabels": {_NAMESPACE: work.kuberay.namespace}}
        kuberay = {"namespaceSelector": namespace, "podSelector": {"matchLabels": _KUBERAY}}
        ingress.append({"from": [kuberay], "ports": [{"port": _DASHBOARD, "protocol": "TCP"}]})
    manifest = {
        "apiVersion": NETWORK_POLICY.api_version,
        "kind": "NetworkPolicy",
        "metadata": owner.metadata(work.name, work.role),
        "spec": {
            "podSelector": {"matchLabels": owner.labels(work.role)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }
    return Apply(NETWORK_POLICY, manifest)


def _template(work: Work, command: tuple[str, ...] | None, *, rights: bool) -> dict[str, Any]:
    """Of a pod. `rights`: whether it gets the token of the run's service account."""
    secret = work.store.secret if work.store and rights else None
    annotations = {**work.queue_annotations, OWNED_BY: f"{work.owner.kind}/{work.owner.name}"}
    metadata = {"labels": work.owner.labels(work.role), "annotations": annotations}
    account = {"serviceAccountName": work.name} if rights else {}
    spec = {
        **account,
        "automountServiceAccountToken": rights,
        "enableServiceLinks": False,
        **({"schedulingGates": [{"name": GATE}]} if work.queue else {}),
        "terminationGracePeriodSeconds": work.grace_seconds,
        "securityContext": pod_security(),
        "containers": [_container(work, command, secret)],
        "volumes": [
            scratch(_RAY_SCRATCH) if work.ray else scratch(),
            {"name": "run", "configMap": {"name": work.name, "items": [{"key": RUN_FILE, "path": RUN_FILE}]}},
            certificates_volume(work.pool.secret, CLIENT_FILES),
            *([_shared_memory(work)] if work.ray else []),
            *([_store_files(secret)] if secret else []),
            *work.volumes,
        ],
    }
    return apply_template({"metadata": metadata, "spec": spec}, work.template)


def _container(work: Work, command: tuple[str, ...] | None, secret: str | None) -> dict[str, Any]:
    """`secret`: of the object store, where the pod is the one that copies to it."""
    variables = environment(
        ASTRA_RUN_FILE=f"{RUN_FOLDER}/{RUN_FILE}",
        ASTRA_SANDBOXES=",".join(work.pool.addresses),
        ASTRA_TLS_DIR=CERTIFICATES,
        ASTRA_RUN_UID=work.owner.uid or "",
        **work.variables,
        **(_store_variables(work.store) if work.store and secret else {}),
    )
    resources = canonical_resources(work.resources)
    if work.gpus:
        resources["limits"] = {**resources.get("limits", {}), work.accelerator: str(work.gpus)}
    return {
        "name": work.role,
        "image": work.image,
        "imagePullPolicy": work.pull_policy,
        **({"command": list(command)} if command else {}),
        "env": [*variables, *work.secret_environment],
        **({"envFrom": [{"secretRef": {"name": secret}}]} if secret else {}),
        "terminationMessagePolicy": "FallbackToLogsOnError",  # why it failed, for the run's condition
        "securityContext": container_security(*work.capabilities),
        "resources": resources,
        "volumeMounts": [
            SCRATCH_MOUNT,
            {"name": "run", "mountPath": RUN_FOLDER, "readOnly": True},
            {"name": "tls", "mountPath": CERTIFICATES, "readOnly": True},
            *([{"name": "shm", "mountPath": "/dev/shm"}] if work.ray else []),
            *([{"name": "object-store", "mountPath": _OBJECT_STORE, "readOnly": True}] if secret else []),
            *work.mounts,
        ],
    }


def _shared_memory(work: Work) -> dict[str, Any]:
    """For Ray's object store, vLLM and NCCL. It is the container's own memory, so that is its bound."""
    found = [work.resources.get(kind, {}).get("memory") for kind in ("limits", "requests")]
    bound = next((size for size in found if size), None)
    size = {"sizeLimit": canonical_quantity(str(bound))} if bound else {}
    return {"name": "shm", "emptyDir": {"medium": "Memory"} | size}


def _store_variables(store: ObjectStore) -> dict[str, str]:
    """What the libraries of a store ask for beside the keys of the Secret."""
    google = store.url.startswith("gs://")
    return {"GOOGLE_APPLICATION_CREDENTIALS": f"{_OBJECT_STORE}/credentials.json"} if google else {}


def _store_files(secret: str) -> dict[str, Any]:
    return {"name": "object-store", "secret": {"secretName": secret, "defaultMode": 0o440}}


def _held_back(work: Work) -> dict[str, Any]:
    """The suspension of a Job in a queue: Kueue ends it when it admits the Job."""
    return {"suspend": True} if work.queue else {}


def _ray_job(work: Work, metadata: dict[str, Any]) -> dict[str, Any]:
    """KubeRay starts Ray in the pods, submits the command to the head, and takes the pods down again.

    The templates name no command: KubeRay would run it in front of its own. Nothing is reserved for the entrypoint
    (`entrypointNumCpus`): Ray then runs it on the head, the one pod with the rights of the run, with RAY_ADDRESS set.
    In HTTPMode there is no further pod that submits. `spec.suspend` is Kueue's: a run that its user suspended has no
    RayJob.
    """
    workers = work.nodes - 1
    start = {"num-cpus": str(_CPUS + _CPUS_PER_GPU * work.gpus), "num-gpus": str(work.gpus)}
    group = {"groupName": "workers", "replicas": workers, "minReplicas": workers, "maxReplicas": workers}
    return {
        "apiVersion": RAY_JOB.api_version,
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": shlex.join(work.command),
            "backoffLimit": work.retries,
            "shutdownAfterJobFinishes": True,
            "submissionMode": "HTTPMode",
            **_held_back(work),
            **_deadline(work),
            "rayClusterSpec": {
                "rayVersion": RAY_VERSION,
                **({"authOptions": {"mode": "token"}} if work.kuberay.token else {}),
                "headGroupSpec": {
                    "rayStartParams": {"dashboard-host": "0.0.0.0", **start},
                    "template": _template(work, None, rights=True),
                },
                "workerGroupSpecs": [
                    {**group, "rayStartParams": start, "template": _template(work, None, rights=False)}
                ],
            },
        },
    }
