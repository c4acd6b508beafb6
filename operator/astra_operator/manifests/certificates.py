"""The certificates of one pool: an authority of its own, whose key is thrown away once it has signed the two ends."""

import base64
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=5 * 365)  # longer than any run; the verification pool's are renewed
RENEW = timedelta(days=60)  # before they expire
_SKEW = timedelta(hours=1)  # clocks differ

Key = ec.EllipticCurvePrivateKey


def make_certificates(service: str, namespace: str, now: datetime) -> dict[str, str]:
    """`ca.crt`, and `.crt` and `.key` of `server` and `client`: the base64 of PEM, as a Secret holds it.

    A server's certificate holds for the Service and for each of its pods by name.
    """
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = _name(f"astra-farm {namespace}/{service}")
    root = (
        _builder(issuer, issuer, authority, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    files = {"ca.crt": root.public_bytes(serialization.Encoding.PEM)}
    host = f"{service}.{namespace}.svc"
    ends = {
        "server": ([host, f"*.{host}", f"{host}.cluster.local", f"*.{host}.cluster.local"], "SERVER_AUTH"),
        "client": ([], "CLIENT_AUTH"),
    }
    for end, (hosts, purpose) in ends.items():
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_name(end), issuer, key, now)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, purpose)]), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([x509.DNSName(name) for name in hosts])
            builder = builder.add_extension(names, critical=False)
        signed = builder.sign(authority, hashes.SHA256())
        files[f"{end}.crt"] = signed.public_bytes(serialization.Encoding.PEM)
        files[f"{end}.key"] = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    return {name: base64.b64encode(content).decode() for name, content in files.items()}


def renewal_due(files: dict[str, str], now: datetime) -> bool:
    """Whether the certificates of a Secret expire soon, or cannot be read."""
    try:
        certificate = x509.load_pem_x509_certificate(base64.b64decode(files["server.crt"]))
    except (KeyError, ValueError):
        return True
    return certificate.not_valid_after_utc - now < RENEW


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, now: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + VALID)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
