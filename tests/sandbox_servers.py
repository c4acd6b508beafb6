"""Sandbox servers as processes of their own, with or without TLS."""

import asyncio
import contextlib
import datetime
import ipaddress
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from astra_sandbox.link import ClientTls


@contextlib.asynccontextmanager
async def run_server(
    listen: str, *flags: str, prefix: Sequence[str] = ()
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """A server process of its own, in bare processes: where it answers, and the process. `prefix`: what runs it."""
    process = await asyncio.create_subprocess_exec(
        *(
            *prefix,
            sys.executable,
            "-m",
            "astra_sandbox",
            "--listen",
            listen,
            "--contain",
            "process",
            "--exit-with-stdin",
            *flags,
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert "serving on" in line, line
    try:
        yield line.split("serving on ")[1].split()[0], process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def tcp_server() -> AsyncIterator[tuple[str, ClientTls]]:
    """A server on loopback TCP with mutual TLS, and what a client needs to reach it."""
    with tempfile.TemporaryDirectory() as folder:
        client_tls = write_certificates(Path(folder))
        flags = [word for name in ("cert", "key", "ca") for word in (f"--tls-{name}", f"{folder}/{name}.pem")]
        async with run_server("0.0.0.0:0", "--capacity", "64", *flags) as (address, _):
            yield address.replace("0.0.0.0", "127.0.0.1"), client_tls


def write_certificates(folder: Path) -> ClientTls:
    """An authority, a server pair as cert.pem, key.pem, ca.pem, and a client pair signed by it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)

    def signed(name: str, issuer: Any = None) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer[0].subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        )
        return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key

    def pem(certificate: Any, key: Any) -> tuple[bytes, bytes]:
        form = serialization.PrivateFormat.PKCS8
        encoding = serialization.Encoding.PEM
        return certificate.public_bytes(encoding), key.private_bytes(encoding, form, serialization.NoEncryption())

    authority = signed("authority")
    authority_pem = pem(*authority)[0]
    certificate, key = pem(*signed("server", authority))
    for name, content in (("cert", certificate), ("key", key), ("ca", authority_pem)):
        (folder / f"{name}.pem").write_bytes(content)
    return ClientTls(*pem(*signed("client", authority)), authority_pem)
