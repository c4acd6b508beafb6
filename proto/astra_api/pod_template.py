"""The part of a pod that users and admins may set: `podTemplate` of runs, and the farm's defaults in the values.

The pods themselves are the operator's: image, command, user, capabilities and the volumes that hold certificates. A
template adds where they run, what they are called, and what they read. It can make a pod stricter, never laxer.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from astra_api.resource import Integer, Json, Labels, Resource

Word = Annotated[str, Field(min_length=1, max_length=253)]
ResourceName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=253)
]
UserId = Annotated[Integer, Field(ge=1, le=2147483647)]
Free = Annotated[dict[str, Json], Field(max_length=64)]


NETWORK = "hostNetwork must stay false: network policies and sandbox isolation do not hold on a node's own network"
ROOT = "runAsNonRoot must stay true: pods never run as root"
RESERVED = "ASTRA_"  # the prefix of the operator's own environment variables


def _isolated(shared: bool) -> bool:
    if shared:
        raise ValueError(NETWORK)
    return shared


def _unprivileged(non_root: bool) -> bool:
    if not non_root:
        raise ValueError(ROOT)
    return non_root


class PodMetadata(Resource):
    """Metadata adds labels and annotations to those that the operator gives the pods."""

    labels: Labels = Field(default_factory=dict)
    """Labels that the pods get besides the operator's own, which they cannot replace."""
    annotations: Annotated[
        dict[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=4096)]], Field(max_length=64)
    ] = Field(default_factory=dict)
    """Annotations that the pods get besides the operator's own, which they cannot replace."""


class Toleration(Resource):
    """A toleration lets the pods run on nodes that carry a matching taint."""

    key: Annotated[str, Field(max_length=317)] | None = None
    """Key of the taint that is tolerated. If it is not given, operator must be Exists, and every taint is tolerated."""
    operator: Literal["Exists", "Equal"] | None = None
    """Operator that relates the key to the value: Exists takes any value. Kubernetes takes Equal if it is not given."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Value of the taint that is tolerated; it needs operator: Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint that is tolerated; all effects are if it is not given."""
    toleration_seconds: Integer | None = None
    """Seconds for which a taint of effect NoExecute is tolerated; it is tolerated for ever if they are not given."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not self.key and self.operator != "Exists":
            raise ValueError("key is required, unless operator is Exists")
        if self.value and self.operator == "Exists":
            raise ValueError("value needs operator: Equal")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds needs effect: NoExecute")
        return self


class LocalReference(Resource):
    """A reference names an object in the namespace of the run."""

    name: Word
    """Name of the object that is referred to."""


class EnvVar(Resource):
    """An environment variable is set in the container that does the work of the pod."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", max_length=253)]
    """Name of the variable. Names that begin with ASTRA_ belong to the operator and are refused."""
    value: Annotated[str, Field(max_length=32768)] | None = None
    """Value of the variable, which is empty unless value or valueFrom is given."""
    value_from: Free | None = None
    """Source of the value, as Kubernetes writes it: secretKeyRef, configMapKeyRef, fieldRef or resourceFieldRef. It
    excludes value."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.name.startswith(RESERVED):
            raise ValueError(f"name {self.name} must not begin with {RESERVED}: such variables are the operator's")
        if self.value is not None and self.value_from is not None:
            raise ValueError("give value or valueFrom, not both")
        return self


class Volume(Resource):
    """A volume has a name and exactly one kind; folders of the node are not among the kinds."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    """Name of the volume, by which volumeMounts refer to it."""
    config_map: Free | None = None
    """ConfigMap whose keys appear as files, as Kubernetes writes it."""
    secret: Free | None = None
    """Secret whose keys appear as files, as Kubernetes writes it."""
    persistent_volume_claim: Free | None = None
    """PersistentVolumeClaim whose volume is mounted, as Kubernetes writes it."""
    empty_dir: Free | None = None
    """Empty folder that is made for the pod and deleted with it, as Kubernetes writes it."""
    ephemeral: Free | None = None
    """Claim that is made for the pod and deleted with it, as Kubernetes writes it."""
    csi: Free | None = None
    """Volume that a CSI driver provides inline, as Kubernetes writes it."""
    nfs: Free | None = None
    """Folder that an NFS server exports, as Kubernetes writes it."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        kinds = (self.config_map, self.secret, self.persistent_volume_claim, self.empty_dir, self.ephemeral, self.csi)
        if sum(kind is not None for kind in (*kinds, self.nfs)) != 1:
            raise ValueError(
                "give exactly one of configMap, secret, persistentVolumeClaim, emptyDir, ephemeral, csi and nfs"
            )
        return self


class VolumeMount(Resource):
    """A mount makes a volume appear at a path of the container."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the volume that is mounted, from volumes or from the farm's defaults."""
    mount_path: Annotated[str, Field(pattern=r"^/[^:]*$", max_length=4096)]
    """Path in the container at which the volume appears. It must be absolute, and must not hide a path that the
    operator mounts."""
    sub_path: Annotated[str, Field(max_length=4096)] | None = None
    """Path within the volume that is mounted; its root is if it is not given."""
    read_only: bool | None = None
    """Keeps the container from writing to the volume if true. The container may write if it is not given."""


class SeccompProfile(Resource):
    """A profile filters the system calls of the pods; it can be replaced, but not switched off."""

    type: Literal["RuntimeDefault", "Localhost"] = "RuntimeDefault"
    """Type of the profile: RuntimeDefault is the container runtime's own, Localhost a file on the node."""
    localhost_profile: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Path of the profile on the node, relative to the kubelet's folder of profiles. It is required by type: Localhost,
    and belongs to it."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.type == "Localhost") != (self.localhost_profile is not None):
            raise ValueError("localhostProfile is required by type: Localhost, and belongs to it")
        return self


class PodSecurity(Resource):
    """A security context changes users and profiles of the pods; nothing in it can make them less strict."""

    run_as_non_root: Annotated[bool, AfterValidator(_unprivileged)] | None = None
    """Keeps the pods from running as root. They never do, so that only true is accepted."""
    run_as_user: UserId | None = None
    """User ID that the pods run as, which is never root's 0. They run as 65532 if it is not given."""
    run_as_group: UserId | None = None
    """Group ID that the pods run as, which is never root's 0. They run as 65532 if it is not given."""
    fs_group: UserId | None = None
    """Group ID that owns the files of the pods' volumes. It is 65532 if it is not given."""
    supplemental_groups: Annotated[list[UserId], Field(max_length=32)] | None = None
    """Group IDs that the pods have besides, such as that of the owners of a shared volume."""
    seccomp_profile: SeccompProfile | None = None
    """Profile that filters the system calls of the pods; it is the container runtime's own if it is not given."""
    se_linux_options: Free | None = None
    """SELinux context that the pods get, as Kubernetes writes it."""


class PodTemplateSpec(Resource):
    """A spec tells where the pods run and what they read. Its lists add to the operator's own and to the farm's
    defaults."""

    node_selector: Labels = Field(default_factory=dict)
    """Labels that a node must carry for the pods to run on it."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default_factory=list)
    """Tolerations that let the pods run on nodes with matching taints."""
    affinity: Free | None = None
    """Affinity that the pods have to nodes and to other pods, as Kubernetes writes it. It replaces the farm's
    default."""
    topology_spread_constraints: Annotated[list[Free], Field(max_length=16)] = Field(default_factory=list)
    """Constraints that spread the pods over zones and nodes, as Kubernetes writes them."""
    priority_class_name: Word | None = None
    """Name of the PriorityClass that the pods have. They have the cluster's default if it is not given."""
    image_pull_secrets: Annotated[list[LocalReference], Field(max_length=16)] = Field(default_factory=list)
    """Secrets of the namespace that images are pulled with."""
    env: Annotated[list[EnvVar], Field(max_length=64)] = Field(default_factory=list)
    """Environment variables that the container gets besides the operator's own."""
    env_from: Annotated[list[Free], Field(max_length=16)] = Field(default_factory=list)
    """ConfigMaps and Secrets whose keys all become environment variables, as Kubernetes writes them."""
    volumes: Annotated[list[Volume], Field(max_length=32)] = Field(default_factory=list)
    """Volumes that the pods get besides the operator's own."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=32)] = Field(default_factory=list)
    """Mounts that make volumes appear in the container."""
    runtime_class_name: Annotated[str, Field(max_length=253)] | None = None
    """Name of the RuntimeClass that the pods run with. It is refused on sandbox pods, where sandboxes.runtimeClassName
    says it."""
    scheduler_name: Word | None = None
    """Name of the scheduler that places the pods. The cluster's default places them if it is not given."""
    host_network: Annotated[bool, AfterValidator(_isolated)] | None = None
    """Gives the pods the network of their node, which is refused: only false is accepted."""
    security_context: PodSecurity | None = None
    """Security context that replaces users, groups and profiles of the pods, but cannot make them less strict."""

    @model_validator(mode="after")
    def _unique(self) -> Self:
        _check_unique("env", "name", (one.name for one in self.env))
        _check_unique("volumes", "name", (one.name for one in self.volumes))
        _check_unique("volumeMounts", "mountPath", (one.mount_path for one in self.volume_mounts))
        _check_unique("imagePullSecrets", "name", (one.name for one in self.image_pull_secrets))
        return self


class PodTemplate(Resource):
    """A template adds to the pods that the operator makes. It can make them stricter, never laxer."""

    metadata: PodMetadata = Field(default_factory=PodMetadata)
    """Metadata that is added to the pods."""
    spec: PodTemplateSpec = Field(default_factory=PodTemplateSpec)
    """Spec that is added to the pods: where they run, and what they read."""


def _check_unique(field: str, key: str, values: Iterable[str]) -> None:
    """Raises ValueError where two items of a list have the same key; the API server holds such a list as a map."""
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"{field}: {key} {repeated[0]} is there more than once")
