"""The proxy and the certificates that the environment names, checked before anything is sent.

Variables are those of curl: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in small letters or capitals, and
OpenSSL's `SSL_CERT_FILE` and `SSL_CERT_DIR`. What is no use for the address is not looked at.
"""

import importlib.util
import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httpx2

from astra_synth.teacher.errors import Misconfigured

_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the variable that names it."""

    variable: str
    url: httpx2.URL


def proxy_of(url: httpx2.URL, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for an address, if it has one. Raises Misconfigured, which names the variable and not its value."""
    if _excluded(url, _value(environ, "no_proxy")[1]):
        return None
    variable, value = _value(environ, f"{url.scheme}_proxy")
    if not value:
        variable, value = _value(environ, "all_proxy")
    if not value:
        return None
    try:
        found = httpx2.URL(value if "://" in value else f"http://{value}")
    except httpx2.InvalidURL:
        found = httpx2.URL()
    fix = "set it to http://HOST:PORT, or name the endpoint's host in NO_PROXY"
    if found.scheme not in _SCHEMES or not found.host or not 0 < (found.port or 80) < 65536:
        raise Misconfigured(f"{variable}: is not the URL of a proxy (http, https or socks5); {fix}")
    if found.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise Misconfigured(f"{variable}: a SOCKS proxy needs the package socksio; install it, or {fix}")
    return Proxy(variable, found)


def certificates_of(url: httpx2.URL, environ: Mapping[str, str]) -> ssl.SSLContext:
    """What certificates are checked with. Raises Misconfigured."""
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if url.scheme == "https" and (path := environ.get(variable)):
            return _trusting(variable, path)
    return httpx2.create_ssl_context(trust_env=False)


def _trusting(variable: str, path: str) -> ssl.SSLContext:
    fix = "name a file of PEM certificates" if variable == "SSL_CERT_FILE" else "name a folder of certificates"
    try:
        if variable == "SSL_CERT_FILE":
            return ssl.create_default_context(cafile=path)
        os.scandir(path).close()  # OpenSSL takes a folder that is missing, and then trusts nobody
        return ssl.create_default_context(capath=path)
    except OSError as error:  # as ssl.SSLError is
        problem = error.strerror or type(error).__name__
    raise Misconfigured(f"{variable}: {path} cannot be used: {problem}; {fix}, or unset it")


def _value(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """A variable and its value; small letters come first."""
    return next(((form, environ[form].strip()) for form in (name, name.upper()) if form in environ), (name.upper(), ""))


def _excluded(url: httpx2.URL, no_proxy: str) -> bool:
    """Whether a list of hosts, domains and networks, each with or without a port, holds the address."""
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    for entry in no_proxy.replace(",", " ").split():
        host = entry.rpartition("://")[2].strip("/") if "://" in entry else entry
        name, colon, number = host.rpartition(":")
        if colon and number.isdigit() and (":" not in name or name.endswith("]")):
            if int(number) != port:
                continue
            host = name
        if host == "*" or _same(url.host, host.strip("[]")):
            return True
    return False


def _same(host: str, entry: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        domain = entry.removeprefix("*").strip(".").casefold()
        return bool(domain) and (host.casefold() == domain or host.casefold().endswith(f".{domain}"))
