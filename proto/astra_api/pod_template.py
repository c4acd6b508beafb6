"""The part of a pod that users and admins may set: `podTemplate` of runs, and the farm's defaults in the chart's values.

The pods themselves are the operator's: image, command, user, capabilities and the volumes that hold certificates. A
template adds where they run, what they are called, and what they read. It can make a pod stricter, never laxer.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from astra_api.resource import Integer, Json, Labels, Resource

Word = Annotated[str, Field(min_length=1, max_length=253)]
ResourceName = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=253)
]
UserId = Annotated[Integer, Field(ge=1, le=2147483647)]
Free = Annotated[dict[str, Json], Field(max_length=64)]


class PodMetadata(Resource):
    """Labels and annotations that are added to the pods; those of the operator stay."""

    labels: Labels = Field(default_factory=dict)
    """Labels that the pods get in addition to the operator's own."""
    annotations: Annotated[
        dict[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=4096)]], Field(max_length=64)
    ] = Field(default_factory=dict)
    """Annotations that the pods get in addition to the operator's own."""


class Toleration(Resource):
    """A taint of nodes that the pods tolerate, as Kubernetes writes it."""

    key: Annotated[str, Field(max_length=317)] | None = None
    """The key of the taint; all taints unless given, with operator: Exists."""
    operator: Literal["Exists", "Equal"] | None = None
    """How the key relates to the value; Equal unless given."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """The value of the taint, with operator: Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The effect of the taint; all effects unless given."""
    toleration_seconds: Integer | None = None
    """How many seconds a NoExecute taint is tolerated; for ever unless given."""


class LocalReference(Resource):
    """An object of the run's namespace, by its name."""

    name: Word
    """The name of the object."""


class EnvVar(Resource):
    """An environment variable of the container."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", max_length=253)]
    """The name of the variable. Names that begin with ASTRA_ are the operator's."""
    value: Annotated[str, Field(max_length=32768)] | None = None
    """The value of the variable."""
    value_from: Free | None = None
    """Where the value comes from, as Kubernetes writes it: secretKeyRef, configMapKeyRef, fieldRef or resourceFieldRef."""


class Volume(Resource):
    """A volume of the pod: a name and exactly one kind. Folders of the node are not among them."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    """The name of the volume, by which volumeMounts refer to it."""
    config_map: Free | None = None
    """The files of a ConfigMap."""
    secret: Free | None = None
    """The files of a Secret."""
    persistent_volume_claim: Free | None = None
    """The volume that a PersistentVolumeClaim holds."""
    empty_dir: Free | None = None
    """A folder that ends with the pod."""
    ephemeral: Free | None = None
    """A volume that is made for the pod and ends with it."""
    csi: Free | None = None
    """A volume that a CSI driver provides inline."""
    nfs: Free | None = None
    """A folder that an NFS server exports."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        kinds = (self.config_map, self.secret, self.persistent_volume_claim, self.empty_dir, self.ephemeral, self.csi)
        if sum(kind is not None for kind in (*kinds, self.nfs)) != 1:
            raise ValueError(
                "give exactly one of configMap, secret, persistentVolumeClaim, emptyDir, ephemeral, csi and nfs"
            )
        return self


class VolumeMount(Resource):
    """Where a volume appears in the container."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """The name of one of the volumes."""
    mount_path: Annotated[str, Field(pattern=r"^/", max_length=4096)]
    """The path in the container, which the operator's own mounts must not hold."""
    sub_path: Annotated[str, Field(max_length=4096)] | None = None
    """The path within the volume that is mounted; its root unless given."""
    read_only: bool | None = None
    """Whether the container may only read it."""


class SeccompProfile(Resource):
    """The filter of system calls; there is always one."""

    type: Literal["RuntimeDefault", "Localhost"] = "RuntimeDefault"
    """Which filter: the runtime's own, or a file of the node."""
    localhost_profile: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """The file of the node, relative to the kubelet's folder of profiles, with type: Localhost."""


class PodSecurity(Resource):
    """What may be made stricter or changed without being laxer; all else of a pod's security is fixed."""

    run_as_non_root: Literal[True] | None = None
    """Whether the pods run as another user than root; they always do."""
    run_as_user: UserId | None = None
    """The user of the pods; 65532 unless given, never root."""
    run_as_group: UserId | None = None
    """The group of the pods; 65532 unless given, never root's."""
    fs_group: UserId | None = None
    """The group that owns the files of volumes; 65532 unless given."""
    supplemental_groups: Annotated[list[UserId], Field(max_length=32)] | None = None
    """Further groups of the pods' processes, such as those that own a shared volume."""
    seccomp_profile: SeccompProfile | None = None
    """The filter of system calls; the runtime's own unless given."""
    se_linux_options: Free | None = None
    """The SELinux context of the pods, as Kubernetes writes it."""


class PodTemplateSpec(Resource):
    """Where the pods run, and what they read. Lists add to the operator's own and to the farm's defaults."""

    node_selector: Labels = Field(default_factory=dict)
    """Labels that a node must have for the pods to run on it."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default_factory=list)
    """Taints of nodes that the pods tolerate."""
    affinity: Free | None = None
    """Rules of node and pod affinity, as Kubernetes writes them; they take the place of the farm's default."""
    topology_spread_constraints: Annotated[list[Free], Field(max_length=16)] = Field(default_factory=list)
    """How the pods are spread over zones and nodes, as Kubernetes writes it."""
    priority_class_name: Word | None = None
    """The PriorityClass of the pods."""
    image_pull_secrets: Annotated[list[LocalReference], Field(max_length=16)] = Field(default_factory=list)
    """Secrets of the namespace with which images are fetched."""
    env: Annotated[list[EnvVar], Field(max_length=64)] = Field(default_factory=list)
    """Environment variables of the container."""
    env_from: Annotated[list[Free], Field(max_length=16)] = Field(default_factory=list)
    """ConfigMaps and Secrets whose keys all become environment variables, as Kubernetes writes it."""
    volumes: Annotated[list[Volume], Field(max_length=32)] = Field(default_factory=list)
    """Further volumes of the pods."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=32)] = Field(default_factory=list)
    """Where the container sees volumes."""
    runtime_class_name: Annotated[str, Field(max_length=253)] | None = None
    """The RuntimeClass of the pods; of sandboxes, sandboxes.runtimeClassName says it."""
    scheduler_name: Word | None = None
    """The scheduler that places the pods."""
    host_network: Literal[False] | None = None
    """Whether the pods share the node's network, which is refused."""
    security_context: PodSecurity | None = None
    """The security of the pods, as far as it may be changed."""


class PodTemplate(Resource):
    """What is added to the pods that the operator makes."""

    metadata: PodMetadata = Field(default_factory=PodMetadata)
    """Labels and annotations of the pods."""
    spec: PodTemplateSpec = Field(default_factory=PodTemplateSpec)
    """Where the pods run, and what they read."""
