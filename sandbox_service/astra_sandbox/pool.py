"""The way from a run's Job to its sandboxes, as the operator's environment variables and volumes describe it."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.records import Record, SessionLimits, Toolset
from astra_sandbox.client import SandboxClient
from astra_sandbox.interface import SandboxStatus, Session
from astra_sandbox.link import ClientTls

ADDRESSES, CERTIFICATES, OWN_CERTIFICATES = "ASTRA_SANDBOXES", "ASTRA_TLS_DIR", "ASTRA_OWN_TLS_DIR"


class Servers(Record):
    """Where sandbox servers are, and the folder with client.crt, client.key and ca.crt for them."""

    addresses: tuple[str, ...]
    certificates: str | None = None

    def client(self) -> SandboxClient:
        """Raises OSError where a certificate cannot be read."""
        return SandboxClient(self.addresses, client_tls(Path(self.certificates)) if self.certificates else None)


def own_servers(environments: Iterable[Environment], variables: Mapping[str, str] = os.environ) -> dict[str, Servers]:
    """By toolset, the pods of environments with `isolation: pod`, as their status names them; in ASTRA_OWN_TLS_DIR
    each has a folder with its certificates."""
    folder = variables.get(OWN_CERTIFICATES)
    found: dict[str, Servers] = {}
    for environment in environments:
        endpoint = environment.status.endpoint if environment.status else None
        if environment.spec.sandbox.isolation != "pod" or endpoint is None:
            continue
        name = endpoint.partition(".")[0]
        found[environment.toolset.digest] = Servers(
            addresses=tuple(f"{name}-{number}.{endpoint}" for number in range(environment.spec.sandbox.replicas)),
            certificates=folder and str(Path(folder, environment.name)),
        )
    return found


class Pools:
    """A Sandbox over a run's own servers, and over those that some toolsets (`own`: by digest) have to themselves."""

    def __init__(self, shared: SandboxClient, own: Mapping[str, Servers]) -> None:
        self.shared, self.own = shared, dict(own)
        self.clients = {digest: servers.client() for digest, servers in self.own.items()}

    async def open_sessions(
        self,
        toolset: Toolset,
        count: int,
        *,
        seed: int = 0,
        limits: SessionLimits | None = None,
        variant: int = 0,
    ) -> list[Session]:
        """On the toolset's own servers, where it has some."""
        client = self.clients.get(toolset.digest, self.shared)
        return await client.open_sessions(toolset, count, seed=seed, limits=limits, variant=variant)

    async def status(self) -> list[SandboxStatus]:
        """Of all servers; those of one toolset have no room for others."""
        shared, *own = await asyncio.gather(self.shared.status(), *(one.status() for one in self.clients.values()))
        return [*shared, *(status.model_copy(update={"capacity": 0}) for servers in own for status in servers)]

    async def close(self) -> None:
        await asyncio.gather(self.shared.close(), *(client.close() for client in self.clients.values()))


def pool_of_environment(environment: Mapping[str, str] = os.environ) -> SandboxClient:
    """A client of the servers in ASTRA_SANDBOXES (`host:port,...`) with client.crt, client.key and ca.crt in
    ASTRA_TLS_DIR. Raises BadInput."""
    addresses = tuple(address for address in environment.get(ADDRESSES, "").split(",") if address)
    if not addresses:
        raise BadInput(f"{ADDRESSES}: required; give the addresses of sandbox servers, comma-separated")
    try:
        return SandboxClient(addresses, client_tls(Path(environment.get(CERTIFICATES, ""))))
    except OSError as error:
        raise BadInput(f"{CERTIFICATES}: {error.filename}: {error.strerror}") from None


def client_tls(folder: Path) -> ClientTls:
    """A client's certificate, key and authority, as a run's Secret holds them. Raises OSError."""
    certificate, key, authority = ((folder / name).read_bytes() for name in ("client.crt", "client.key", "ca.crt"))
    return ClientTls(certificate, key, authority)
