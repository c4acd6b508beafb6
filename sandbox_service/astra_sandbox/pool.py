"""The way from a run's Job to its pool of sandboxes, as the operator's environment variables describe it."""

import os
from collections.abc import Mapping
from pathlib import Path

from astra_api.errors import BadInput
from astra_sandbox.client import SandboxClient
from astra_sandbox.link import ClientTls

ADDRESSES, CERTIFICATES = "ASTRA_SANDBOXES", "ASTRA_TLS_DIR"


def pool_of_environment(environment: Mapping[str, str] = os.environ) -> SandboxClient:
    """A client of the servers in ASTRA_SANDBOXES (`host:port,...`) with client.crt, client.key and ca.crt in
    ASTRA_TLS_DIR. Raises BadInput."""
    addresses = [address for address in environment.get(ADDRESSES, "").split(",") if address]
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
