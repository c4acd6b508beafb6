"""Proxies and certificates of the environment: used, not needed, or refused by the name of their variable."""

import ssl
from pathlib import Path

import httpx2
import pytest

from astra_synth.teacher.errors import Misconfigured
from astra_synth.teacher.surroundings import certificates_of, proxy_of

URL = "https://api.example.com/v1"


@pytest.mark.parametrize(
    ("url", "environ", "variable"),
    [
        (URL, {}, None),
        (URL, {"HTTP_PROXY": "http://p:1"}, None),
        (URL, {"HTTPS_PROXY": "http://p:1"}, "HTTPS_PROXY"),
        (URL, {"https_proxy": "p:1"}, "https_proxy"),
        (URL, {"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:1"}, "https_proxy"),
        (URL, {"ALL_PROXY": "http://p:1"}, "ALL_PROXY"),
        (URL, {"HTTPS_PROXY": "", "all_proxy": "http://p:1"}, "all_proxy"),
        (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "localhost, example.com"}, None),
        (URL, {"HTTPS_PROXY": "http://p:1", "no_proxy": ".example.com"}, None),
        (URL, {"HTTPS_PROXY": "http://p:1", "no_proxy": "*.example.com"}, None),
        (URL, {"HTTPS_PROXY": "http://p:1", "no_proxy": "api.example.com:443"}, None),
        (URL, {"HTTPS_PROXY": "http://p:1", "no_proxy": "api.example.com:8443"}, "HTTPS_PROXY"),
        (URL, {"HTTPS_PROXY": "http://p:1", "no_proxy": "ample.com"}, "HTTPS_PROXY"),
        ("http://10.1.2.3:8000/v1", {"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("http://11.1.2.3:8000/v1", {"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "ALL_PROXY"),
        ("http://[::1]:8000/v1", {"ALL_PROXY": "http://p:1", "NO_PROXY": "localhost,127.0.0.1,::1"}, None),
        ("http://[::1]:8000/v1", {"ALL_PROXY": "http://p:1", "NO_PROXY": "[::1]:8000"}, None),
        ("http://vllm:8000/v1", {"ALL_PROXY": "http://p:1", "NO_PROXY": "vllm:8000"}, None),
        ("http://localhost:8000/v1", {"ALL_PROXY": "socks5://p:1", "no_proxy": "127.0.0.1,localhost"}, None),
        ("http://localhost:8000/v1", {"HTTPS_PROXY": "nonsense://"}, None),
    ],
)
def test_the_proxy_of_an_address(url: str, environ: dict[str, str], variable: str | None) -> None:
    found = proxy_of(httpx2.URL(url), environ)
    assert (found.variable if found else None) == variable
    assert found is None or found.url == httpx2.URL("http://p:1")


@pytest.mark.parametrize(
    "value", ["socks://p:1", "ftp://p:1", "http://", "http://p:99999", "http://ex\u2100mple", "://p"]
)
def test_a_proxy_that_is_none_is_named_and_not_shown(value: str) -> None:
    secret = value.replace("://", "://user:sk-canary-0123456789@")
    for given in (value, secret):
        with pytest.raises(Misconfigured, match=r"^HTTPS_PROXY: is not the URL of a proxy") as caught:
            proxy_of(httpx2.URL(URL), {"HTTPS_PROXY": given})
        assert "canary" not in str(caught.value)
        assert caught.value.__context__ is None


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy_needs_a_package(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"ALL_PROXY": f"{scheme}://p:1"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Misconfigured, match=r"^ALL_PROXY: a SOCKS proxy needs the package socksio"):
        proxy_of(httpx2.URL(URL), environ)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert proxy_of(httpx2.URL(URL), environ) is not None


def test_certificates(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("nothing")
    (tmp_path / "der.pem").write_bytes(b"\x30\x82\x01\x00")
    for variable, path in (
        ("SSL_CERT_FILE", tmp_path / "missing.pem"),
        ("SSL_CERT_FILE", tmp_path / "none.pem"),
        ("SSL_CERT_FILE", tmp_path / "der.pem"),
        ("SSL_CERT_FILE", tmp_path),
        ("SSL_CERT_DIR", tmp_path / "missing"),
        ("SSL_CERT_DIR", tmp_path / "none.pem"),
    ):
        with pytest.raises(Misconfigured, match=f"^{variable}: .* cannot be used: .*or unset it$"):
            certificates_of(httpx2.URL(URL), {variable: str(path)})
        assert certificates_of(httpx2.URL("http://h/v1"), {variable: str(path)}).verify_mode == ssl.CERT_REQUIRED
    for environ in ({}, {"SSL_CERT_FILE": ""}, {"SSL_CERT_DIR": str(tmp_path)}):
        assert certificates_of(httpx2.URL(URL), environ).verify_mode == ssl.CERT_REQUIRED
