"""What the operator is told by its Deployment: environment variables, read once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from astra_api.errors import BadInput
from astra_api.kube import own_namespace

PullPolicy = Literal["Always", "IfNotPresent", "Never"]
MANAGER = "astra-farm-operator"  # the field manager of server-side apply, and who writes events
PORT = 50051  # of every sandbox server


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
