"""A pool of sandbox pods: StatefulSet, headless Service, NetworkPolicy, PodDisruptionBudget. Pure.

Pods have stable names in DNS, so a client can hold a connection to each. They have no service-account token, no egress
and accept only clients whose certificate the pool's own authority signed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from astra_api.kube import SECRET, Kind
from astra_api.pod_costs import containment_of, pod_resources
from astra_operator.actions import Apply
from astra_operator.manifests.identity import OWNED_BY, Owner
from astra_operator.manifests.pods import SCRATCH_MOUNT, container_security, environment, pod_security, scratch
from astra_operator.manifests.quantities import canonical_resources
from astra_operator.manifests.templates import OWN_FOLDER, Template, apply_template
from astra_operator.settings import METRICS_PORT, PORT, Monitoring, PullPolicy

STATEFUL_SET = Kind("apps/v1", "StatefulSet", "statefulsets")
SERVICE = Kind("v1", "Service", "services")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
CANARY = "canary"  # the init container that looks whether egress is refused
_CANARY_RESOURCES = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}}
_DRAIN_SECONDS = 25
CERTIFICATES = f"{OWN_FOLDER}/tls"


@dataclass(frozen=True)
class Pool:
    """One pool."""

    owner: Owner
    image: str
    pull_policy: PullPolicy
    replicas: int
    clients: dict[str, str]  # labels of the pods in its namespace that may connect
    runtime_class: str | None = "gvisor"
    capacity: int = 64  # sessions of a pod
    resources: Mapping[str, Any] = field(default_factory=dict)  # as many as the capacity wants, unless given
    policy_version: str = "policy/v1"
    certificates_digest: str = ""  # new certificates replace the pods
    egress_targets: tuple[str, ...] = ()  # host:port that the canary tries besides the API server and DNS
    queue_labels: Mapping[str, str] = field(default_factory=dict)  # Kueue's: the pool counts against the same quota
    monitoring: Monitoring = field(default_factory=Monitoring)
    template: Template = field(default_factory=dict)

    @property
    def name(self) -> str:
        return pool_name(self.owner)

    @property
    def secret(self) -> str:
        return secret_name(self.owner)

    @property
    def server_name(self) -> str:
        """Stands in every server's certificate."""
        return f"{self.name}.{self.owner.namespace}.svc"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of each pod, as its clients in the cluster find it."""
        return tuple(f"{self.name}-{number}.{self.server_name}:{PORT}" for number in range(self.replicas))


def pool_name(owner: Owner) -> str:
    """Of all objects of an owner's pool but the Secret."""
    return f"{owner.base}-sandbox"


def secret_name(owner: Owner) -> str:
    return f"{owner.base}-tls"


def pool_members(owner: Owner, policy_version: str) -> list[tuple[Kind, str]]:
    """(kind, name) of everything that a pool consists of."""
    kinds = (STATEFUL_SET, SERVICE, NETWORK_POLICY, disruption_budget_kind(policy_version))
    return [*((kind, pool_name(owner)) for kind in kinds), (SECRET, secret_name(owner))]


def pool_objects(pool: Pool) -> list[Apply]:
    """All objects of a pool but the Secret with its certificates."""
    return [
        Apply(SERVICE, _service(pool)),
        Apply(NETWORK_POLICY, _network_policy(pool)),
        Apply(disruption_budget_kind(pool.policy_version), _disruption_budget(pool)),
        Apply(STATEFUL_SET, _stateful_set(pool)),
    ]


def disruption_budget_kind(policy_version: str) -> Kind:
    return Kind(policy_version, "PodDisruptionBudget", "poddisruptionbudgets")


def _service(pool: Pool) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": pool.owner.metadata(pool.name, "sandbox"),
        "spec": {
            "clusterIP": "None",
            "selector": pool.owner.labels("sandbox"),
            "ports": [{"name": "grpc", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
        },
    }


def _network_policy(pool: Pool) -> dict[str, Any]:
    """Its clients may reach its port, whoever may scrape it the metrics, and it may reach the collector of traces."""
    clients = [{"podSelector": {"matchLabels": pool.clients}}]
    ingress = [{"from": clients, "ports": [{"port": PORT, "protocol": "TCP"}]}]
    if pool.monitoring.metrics_from:
        scrapers = list(pool.monitoring.metrics_from)
        ingress.append({"from": scrapers, "ports": [{"port": METRICS_PORT, "protocol": "TCP"}]})
    spec: dict[str, Any] = {
        "podSelector": {"matchLabels": pool.owner.labels("sandbox")},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
    }
    if pool.monitoring.tracing_endpoint:
        collector = [{"port": pool.monitoring.tracing_port, "protocol": "TCP"}]
        spec["egress"] = [{"to": list(pool.monitoring.tracing_peers), "ports": collector}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": pool.owner.metadata(pool.name, "sandbox"),
        "spec": spec,
    }


def _disruption_budget(pool: Pool) -> dict[str, Any]:
    return {
        "apiVersion": pool.policy_version,
        "kind": "PodDisruptionBudget",
        "metadata": pool.owner.metadata(pool.name, "sandbox"),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": pool.owner.labels("sandbox")}},
    }


def _stateful_set(pool: Pool) -> dict[str, Any]:
    metadata = pool.owner.metadata(pool.name, "sandbox")
    metadata["labels"] = {**pool.queue_labels, **metadata["labels"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata,
        "spec": {
            "replicas": pool.replicas,
            "serviceName": pool.name,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": pool.owner.labels("sandbox")},
            "template": pod_template(pool),
        },
    }


def pod_template(pool: Pool) -> Template:
    """The pod template of a sandbox pod."""
    annotations = {OWNED_BY: f"{pool.owner.kind}/{pool.owner.name}"}
    if pool.certificates_digest:
        annotations["astra.farm/certificates"] = pool.certificates_digest
    metadata = {"labels": pool.owner.labels("sandbox"), "annotations": annotations}
    return apply_template({"metadata": metadata, "spec": _pod(pool)}, pool.template)


def _pod(pool: Pool) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _DRAIN_SECONDS + 5,
        "securityContext": pod_security(),
        "initContainers": [_canary(pool)],
        "containers": [_server(pool)],
        "volumes": [scratch(), _server_certificates(pool)],
    }
    return spec | ({"runtimeClassName": pool.runtime_class} if pool.runtime_class else {})


def _canary(pool: Pool) -> dict[str, Any]:
    return {
        "name": CANARY,
        "image": pool.image,
        "imagePullPolicy": pool.pull_policy,
        "command": ["python", "-m", "astra_sandbox.canary", *pool.egress_targets],
        "env": environment(),
        "securityContext": container_security(),
        "resources": _CANARY_RESOURCES,
    }


def _server(pool: Pool) -> dict[str, Any]:
    resources = pool.resources or pod_resources(containment_of(pool.runtime_class), pool.capacity)
    files = [f"--tls-{flag}={CERTIFICATES}/{file}" for flag, file in SERVER_FILES.items()]
    listening = {"tcpSocket": {"port": PORT}}  # it listens once its own probe of the containment has passed
    listen = ["--listen", f"0.0.0.0:{PORT}", "--capacity", str(pool.capacity)]
    if pool.runtime_class:  # a sandboxed kernel has namespaces: a server that cannot enter them does not start
        listen += ["--contain", "namespaces"]
    ports = [{"name": "grpc", "containerPort": PORT, "protocol": "TCP"}]
    if pool.monitoring.metrics_from:
        listen += ["--metrics-port", str(METRICS_PORT)]
        ports.append({"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"})
    traces = (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": pool.monitoring.tracing_endpoint} if pool.monitoring.tracing_endpoint else {}
    )
    return {
        "name": "sandbox",
        "image": pool.image,
        "imagePullPolicy": pool.pull_policy,
        "command": ["python", "-m", "astra_sandbox", *listen, "--drain-seconds", str(_DRAIN_SECONDS), *files],
        "env": environment(**traces),
        "ports": ports,
        "startupProbe": {**listening, "periodSeconds": 2, "failureThreshold": 150},  # five minutes, on a busy node
        "readinessProbe": {**listening, "periodSeconds": 2},
        "livenessProbe": {**listening, "periodSeconds": 20, "failureThreshold": 6, "timeoutSeconds": 5},
        "securityContext": container_security(),
        "resources": canonical_resources(resources),
        "volumeMounts": [SCRATCH_MOUNT, {"name": "tls", "mountPath": CERTIFICATES, "readOnly": True}],
    }


SERVER_FILES = {"cert": "server.crt", "key": "server.key", "ca": "ca.crt"}
CLIENT_FILES = ("client.crt", "client.key", "ca.crt")


def _server_certificates(pool: Pool) -> dict[str, Any]:
    return certificates_volume(pool.secret, tuple(SERVER_FILES.values()))


def certificates_volume(secret_name: str, files: tuple[str, ...], name: str = "tls") -> dict[str, Any]:
    """A volume with some files of a pool's Secret: servers never see the client's key, nor clients the servers'."""
    items = [{"key": file, "path": file} for file in files]
    return {"name": name, "secret": {"secretName": secret_name, "items": items, "defaultMode": 0o440}}


def own_certificates_volume(name: str, owners: Sequence[Owner]) -> dict[str, Any]:
    """The client's files of the pools of several owners, in a folder each. One that is gone holds no pod up."""
    sources = [
        {
            "secret": {
                "name": secret_name(owner),
                "items": [{"key": file, "path": f"{owner.name}/{file}"} for file in CLIENT_FILES],
                "optional": True,
            }
        }
        for owner in owners
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": 0o440}}
