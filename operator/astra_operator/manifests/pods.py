"""What all pods share: the hardening of restricted Pod Security, and folders to write in."""

from typing import Any

_USER = 65532
SCRATCH_MOUNT = {"name": "tmp", "mountPath": "/tmp"}


def scratch(size: str = "1Gi") -> dict[str, Any]:
    """The volume of /tmp, which is HOME too: the root is read-only."""
    return {"name": "tmp", "emptyDir": {"sizeLimit": size}}


def pod_security() -> dict[str, Any]:
    """The pod's security context: an unprivileged user, seccomp, volumes whose files change hands once."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*capabilities: str) -> dict[str, Any]:
    """A container's: no capability but those given, no way to gain one, a read-only root."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **({"add": list(capabilities)} if capabilities else {})},
    }


def environment(**values: str) -> list[dict[str, str]]:
    """A container's `env`; HOME is writable. Servers do not store that a value is empty."""
    return [{"name": name, **({"value": value} if value else {})} for name, value in {"HOME": "/tmp", **values}.items()]
