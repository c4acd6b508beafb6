"""What the operator is told by its Deployment: environment variables, read once."""

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from astra_api.errors import BadInput
from astra_api.kube import own_namespace
from astra_api.manifests import check
from astra_api.resource import Resource, ResourceRequirements
from astra_operator.manifests.templates import PodDefaults, problems

PullPolicy = Literal["Always", "IfNotPresent", "Never"]
OWN_SETTINGS = {
    "namespace", "watched", "verifier_replicas", "verifier_idle_seconds", "verifier_resources", "metrics_port",
    "lease_name", "deployment", "operator_labels", "allowed_images", "allowed_secrets",
}  # fmt: skip
"""Settings that concern the operator itself; a run keeps the others as they were when it began."""
MANAGER = "astra-farm-operator"  # the field manager of server-side apply, and who writes events
PORT = 50051  # of every sandbox server
METRICS_PORT = 9090  # of every sandbox server that somebody may scrape
Peers = tuple[dict[str, Any], ...]  # of a NetworkPolicy
Given = TypeVar("Given", bound=Resource)


@dataclass(frozen=True)
class Monitoring:
    """Who sees into sandbox pods, and where their traces go. Nobody and nowhere, unless an admin says so."""

    metrics_from: Peers = ()
    tracing_endpoint: str | None = None
    tracing_peers: Peers = ()

    @property
    def tracing_port(self) -> int | None:
        return urlsplit(self.tracing_endpoint).port if self.tracing_endpoint else None


@dataclass(frozen=True)
class KubeRay:
    """What is known of the cluster's KubeRay, which nothing in the cluster tells the operator."""

    namespace: str = "ray-system"
    token: bool = True  # whether it knows rayClusterSpec.authOptions: 1.5.1 or newer


@dataclass(frozen=True)
class OperatorSettings:
    """| variable | meaning |
    |---|---|
    | ASTRA_NAMESPACE | where the operator and its verification pool live (default: the pod's own) |
    | ASTRA_WATCH_NAMESPACES | which namespaces it serves, comma-separated; empty: all |
    | ASTRA_SANDBOX_IMAGE, ASTRA_SYNTH_IMAGE | what its pods run |
    | ASTRA_TRAINER_IMAGE, ASTRA_TRAINER_GPU_IMAGE | what trainers with engine embedded run: without and with GPUs |
    | ASTRA_TRAINER_VERL_IMAGE | what trainers with engine verl run |
    | ASTRA_IMAGE_PULL_POLICY | Always, IfNotPresent (default) or Never |
    | ASTRA_RUNTIME_CLASS | of the verification and synthesis pools (default gvisor); empty: the node's default |
    | ASTRA_VERIFIER_REPLICAS | pods of the verification pool (default 2) |
    | ASTRA_VERIFIER_IDLE_SECONDS | without work until they go (default 600); 0: never |
    | ASTRA_METRICS_PORT | of /metrics and /healthz (default 8080) |
    | ASTRA_LEASE_NAME | the Lease that guards the one active operator (default astra-farm-operator) |
    | ASTRA_DEPLOYMENT | the operator's own Deployment: the verification pool is deleted with it |
    | ASTRA_CANARY_TARGETS | `host:port,...` that canaries try besides the API server and DNS |
    | ASTRA_OPERATOR_LABELS | `key=value,...`: labels of the operator's own pods, which alone may reach the pool |
    | ASTRA_POD_DEFAULTS | JSON: `podTemplate`s of trainer, sandboxes, synthesis and verification pods |
    | ASTRA_VERIFIER_RESOURCES | JSON: `requests` and `limits` of a verification pod, over what its sessions want |
    | ASTRA_ALLOWED_IMAGES | patterns of what runs may name in `trainer.image`, comma-separated; empty: anything |
    | ASTRA_ALLOWED_SECRETS | patterns of the Secrets that pods of runs may read, comma-separated; empty: any |
    | ASTRA_SANDBOX_METRICS_FROM | JSON: NetworkPolicy peers that may read the metrics of sandbox pods; empty: nobody |
    | ASTRA_TRACING_ENDPOINT | http://IP:PORT of the OTLP collector that sandbox pods send traces to |
    | ASTRA_TRACING_PEERS | JSON: NetworkPolicy peers that are that collector; sandbox pods may reach nothing else |
    | ASTRA_KUBERAY_NAMESPACE | where KubeRay's operator is, which may reach Ray's dashboard (default ray-system) |
    | ASTRA_KUBERAY_AUTH_TOKEN | `true` (default): Ray asks for a token, which KubeRay 1.5.1 or newer makes; `false` |
    """

    namespace: str
    watched: tuple[str, ...] = ()
    sandbox_image: str = "astra-farm-sandbox"
    trainer_image: str = "astra-farm-trainer"
    trainer_gpu_image: str = "astra-farm-trainer-gpu"
    trainer_verl_image: str = "astra-farm-trainer-verl"
    synth_image: str = "astra-farm-synth"
    pull_policy: PullPolicy = "IfNotPresent"
    runtime_class: str | None = "gvisor"
    verifier_replicas: int = 2
    verifier_idle_seconds: int = 600
    metrics_port: int = 8080
    lease_name: str = "astra-farm-operator"
    deployment: str | None = None
    canary_targets: tuple[str, ...] = ()
    operator_labels: tuple[tuple[str, str], ...] = (("app.kubernetes.io/component", "operator"),)
    pod_defaults: PodDefaults = field(default_factory=PodDefaults)
    verifier_resources: ResourceRequirements = field(default_factory=lambda: ResourceRequirements())
    allowed_images: tuple[str, ...] = ()
    allowed_secrets: tuple[str, ...] = ()
    monitoring: Monitoring = field(default_factory=Monitoring)
    kuberay: KubeRay = field(default_factory=KubeRay)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> "OperatorSettings":
        """Raises BadInput, naming the variable."""
        given = {key: value.strip() for key, value in environment.items() if key.startswith("ASTRA_")}
        namespace = given.get("ASTRA_NAMESPACE") or own_namespace()
        if not namespace:
            raise BadInput("ASTRA_NAMESPACE: required outside a pod; give the operator's namespace")
        policy = given.get("ASTRA_IMAGE_PULL_POLICY") or "IfNotPresent"
        if policy not in get_args(PullPolicy):
            raise BadInput(f"ASTRA_IMAGE_PULL_POLICY: {policy!r} is none of {', '.join(get_args(PullPolicy))}")
        return cls(
            namespace=namespace,
            watched=_list(given.get("ASTRA_WATCH_NAMESPACES", "")),
            sandbox_image=given.get("ASTRA_SANDBOX_IMAGE") or cls.sandbox_image,
            trainer_image=given.get("ASTRA_TRAINER_IMAGE") or cls.trainer_image,
            trainer_gpu_image=given.get("ASTRA_TRAINER_GPU_IMAGE") or cls.trainer_gpu_image,
            trainer_verl_image=given.get("ASTRA_TRAINER_VERL_IMAGE") or cls.trainer_verl_image,
            synth_image=given.get("ASTRA_SYNTH_IMAGE") or cls.synth_image,
            pull_policy=policy,  # type: ignore[arg-type]  # checked above
            runtime_class=given.get("ASTRA_RUNTIME_CLASS", "gvisor") or None,
            verifier_replicas=_number(given, "ASTRA_VERIFIER_REPLICAS", cls.verifier_replicas),
            verifier_idle_seconds=_number(given, "ASTRA_VERIFIER_IDLE_SECONDS", cls.verifier_idle_seconds),
            metrics_port=_number(given, "ASTRA_METRICS_PORT", cls.metrics_port),
            lease_name=given.get("ASTRA_LEASE_NAME") or cls.lease_name,
            deployment=given.get("ASTRA_DEPLOYMENT") or None,
            canary_targets=_list(given.get("ASTRA_CANARY_TARGETS", "")),
            operator_labels=_labels(given.get("ASTRA_OPERATOR_LABELS", "")) or cls.operator_labels,
            pod_defaults=_pod_defaults(given.get("ASTRA_POD_DEFAULTS", "")),
            verifier_resources=_resources(given.get("ASTRA_VERIFIER_RESOURCES", "")),
            allowed_images=_list(given.get("ASTRA_ALLOWED_IMAGES", "")),
            allowed_secrets=_list(given.get("ASTRA_ALLOWED_SECRETS", "")),
            monitoring=_monitoring(given),
            kuberay=KubeRay(
                given.get("ASTRA_KUBERAY_NAMESPACE") or KubeRay.namespace, _truth(given, "ASTRA_KUBERAY_AUTH_TOKEN")
            ),
        )

    def image_of_trainer(self, engine: Literal["embedded", "verl"], gpus: int) -> str:
        """Of a run that names none. `gpus`: of each node."""
        if engine == "verl":
            return self.trainer_verl_image
        return self.trainer_gpu_image if gpus else self.trainer_image

    def serves(self, namespace: str) -> bool:
        """Whether objects of a namespace are this operator's."""
        return not self.watched or namespace in self.watched


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _number(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name) or str(default)
    if not text.isdecimal() or int(text) > 65535:
        raise BadInput(f"{name}: {text!r} is not a number from 0 to 65535")
    return int(text)


def _labels(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [item.partition("=") for item in _list(text)]
    if any(not equals for _, equals, _ in pairs):
        raise BadInput(f"ASTRA_OPERATOR_LABELS: {text!r} is not a list of key=value")
    return tuple((key, value) for key, _, value in pairs)


def _truth(given: Mapping[str, str], name: str) -> bool:
    text = given.get(name) or "true"
    if text not in ("true", "false"):
        raise BadInput(f"{name}: {text!r} is neither true nor false")
    return text == "true"


def _json(name: str, text: str, empty: Any) -> Any:
    try:
        return json.loads(text) if text else empty
    except ValueError as error:
        raise BadInput(f"{name}: not JSON: {error}") from error


class _Resources(Resource):
    """Of a verification pod."""

    resources: ResourceRequirements


def _pod_defaults(text: str) -> PodDefaults:
    found = _found(PodDefaults, "ASTRA_POD_DEFAULTS", _json("ASTRA_POD_DEFAULTS", text, {}))
    for part, template in found:
        says = "runtimeClass.name of the chart" if part == "verification" else "sandboxes.runtimeClassName of a run"
        fixed = {"runtimeClassName": f"{says} says it; remove it"} if part in ("sandboxes", "verification") else {}
        for place, message in problems(template, fixed=fixed):
            raise BadInput(f"ASTRA_POD_DEFAULTS: podDefaults.{part}.{place}: {message}")
    return found


def _resources(text: str) -> ResourceRequirements:
    value = {"resources": _json("ASTRA_VERIFIER_RESOURCES", text, {})}
    return _found(_Resources, "ASTRA_VERIFIER_RESOURCES", value).resources


def _found(model: type[Given], name: str, value: Any) -> Given:
    if not isinstance(value, dict):
        raise BadInput(f"{name}: must be a JSON object")
    found = check(model, value)
    if isinstance(found, list):
        place, message = found[0]
        raise BadInput(f"{name}: {place}: {message}")
    return found


def _peers(given: Mapping[str, str], name: str) -> Peers:
    found = _json(name, given.get(name, ""), [])
    if not isinstance(found, list) or not all(isinstance(peer, dict) and peer for peer in found):
        raise BadInput(f"{name}: must be a list of NetworkPolicy peers, none of them empty")
    return tuple(found)


def _monitoring(given: Mapping[str, str]) -> Monitoring:
    endpoint, peers = given.get("ASTRA_TRACING_ENDPOINT") or None, _peers(given, "ASTRA_TRACING_PEERS")
    if (endpoint is None) != (not peers):
        raise BadInput("ASTRA_TRACING_ENDPOINT and ASTRA_TRACING_PEERS go together: nothing else leaves a sandbox pod")
    if endpoint is not None:
        _check_endpoint(endpoint)
    return Monitoring(_peers(given, "ASTRA_SANDBOX_METRICS_FROM"), endpoint, peers)


def _check_endpoint(endpoint: str) -> None:
    try:
        found = urlsplit(endpoint)
        ipaddress.ip_address(found.hostname or "")
        usable = found.scheme in ("http", "https") and found.port is not None
    except ValueError:
        usable = False
    if not usable:
        raise BadInput(f"ASTRA_TRACING_ENDPOINT: {endpoint!r} is not http://IP:PORT; sandbox pods have no DNS")
