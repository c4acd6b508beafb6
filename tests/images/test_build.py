"""Images: what their Dockerfiles say, and that the builder without Docker makes the same of it."""

import hashlib
import http.server
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
_found = importlib.util.spec_from_file_location("images_build", ROOT / "images" / "build.py")
assert _found is not None
assert _found.loader is not None
build = importlib.util.module_from_spec(_found)
sys.modules["images_build"] = build
_found.loader.exec_module(build)

LOCKED = [name for name in build.NAMES if name != "trainer-verl"]  # by requirements/lock.txt
LEARNING = {"torch", "transformers", "verl", "ray", "numpy", "accelerate"}


@pytest.mark.parametrize("name", build.NAMES)
def test_a_dockerfile_is_pinned_and_runs_unprivileged(name: str) -> None:
    lines = (ROOT / "images" / f"{name}.Dockerfile").read_text().splitlines()
    assert lines[0] == "# syntax=docker/dockerfile:1"
    (base,) = (line.partition("=")[2] for line in lines if line.startswith("ARG BASE="))
    assert base.count(".") == 2, "a base image with its patch release"
    assert "latest" not in base
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER 65532:65532"]
    assert lines.index(users[0]) > max(number for number, line in enumerate(lines) if line.startswith(("RUN", "COPY")))
    locks = ("--constraint", "lock.txt") if name in LOCKED else ("--no-deps --requirement", "verl-gpu.txt")
    assert any(all(part in line for part in locks) for line in lines)
    for line in lines:
        for source in line.split()[1:-1] if line.startswith("COPY ") else ():
            assert (ROOT / source).exists(), line


@pytest.mark.parametrize("name", LOCKED)
def test_every_requirement_is_locked(name: str) -> None:
    locked = build.locked()
    for distribution in build.closure(build.describe(name).requirements):
        assert locked[str(canonicalize_name(distribution.name))] == distribution.version.partition("+")[0]


def test_what_the_lists_name_is_what_the_project_requires() -> None:
    """The lists of small images repeat names of pyproject.toml, and no others."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    known = {str(canonicalize_name(Requirement(text).name)) for text in texts} | {"typing-extensions"}
    for name in LOCKED:
        for requirement in build.describe(name).requirements:
            assert str(canonicalize_name(requirement.name)) in known | {"astra-farm"}


def test_the_verl_image_has_a_lock_of_its_own_that_holds_all_it_needs() -> None:
    """Nothing is resolved when it is built: each requirement is one version, and a trainer lacks none."""
    pins = {str(canonicalize_name(each.name)): str(each.specifier) for each in _pins("trainer-verl")}
    assert all(re.fullmatch(r"==[\w.]+", version) for version in pins.values())
    assert pins["verl"] == f"=={build.locked()['verl']}"
    needed = build.closure([Requirement("astra-farm[trainer,kube]")])
    missing = {str(canonicalize_name(each.name)) for each in needed} - pins.keys()
    assert not {name for name in missing if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert {"vllm", "setuptools", "kubernetes"} <= pins.keys()
    assert {"aiohttp-cors", "colorful", "opencensus", "smart-open"} <= pins.keys(), (
        "ray[default]: its dashboard takes jobs"
    )


def test_the_ray_that_kuberay_is_told_is_the_image_s() -> None:
    from astra_operator.manifests.job import RAY_VERSION

    assert [str(each.specifier) for each in _pins("trainer-verl") if each.name == "ray"] == [f"=={RAY_VERSION}"]


def test_images_of_trainers_are_those_that_the_operator_and_the_chart_name() -> None:
    from astra_operator.settings import OperatorSettings

    settings = OperatorSettings(namespace="astra")
    named = {settings.image_of_trainer(engine, gpus) for engine in ("embedded", "verl") for gpus in (0, 8)}
    assert named == {f"astra-farm-{name}" for name in build.NAMES if name.startswith("trainer")}


@pytest.mark.parametrize("name", ["sandbox", "operator"])
def test_small_images_are_small(name: str) -> None:
    names = {str(canonicalize_name(each.name)) for each in build.closure(build.describe(name).requirements)}
    assert not names & (LEARNING | {"duckdb", "matplotlib"})
    assert ("kopf" in names) == ("kubernetes" in names) == (name == "operator")


def test_commands_are_modules_of_the_image() -> None:
    for name in build.NAMES:
        description = build.describe(name)
        python, flag, module, *_ = description.command
        assert (python, flag) == ("python", "-m")
        assert module.partition(".")[0] in {package.name for package in description.packages}


def test_only_trainers_without_gpus_take_the_cpu_build_of_pytorch() -> None:
    for name in build.NAMES:
        text = (ROOT / "images" / f"{name}.Dockerfile").read_text()
        assert ("\nARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu\n" in text) == (name == "trainer")


def _pins(name: str) -> tuple[Requirement, ...]:
    return tuple(build.describe(name).requirements)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    (folder / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)
    (folder / "etc").mkdir()
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    return folder


@pytest.fixture
def mkimage(tmp_path: Path) -> Path:
    """Packs a folder as the cluster kit's script does, as far as this test looks."""
    script = tmp_path / "mkimage.py"
    script.write_text(
        "import sys, tarfile\nname, root, out, *rest = sys.argv[1:]\n"
        "with tarfile.open(out, 'w') as archive:\n    archive.add(root, '.')\nprint(name, rest)\n"
    )
    return script


def test_a_root_file_system_holds_what_the_image_imports(base: Path, mkimage: Path, tmp_path: Path) -> None:
    before = hashlib.sha256((base / "etc/passwd").read_bytes()).hexdigest()
    archive = build.build_rootfs("sandbox", base, mkimage, tmp_path / "out", "t")
    assert build.build_rootfs("sandbox", base, mkimage, tmp_path / "out", "t") == archive  # the cache
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [archive.name]
    assert hashlib.sha256((base / "etc/passwd").read_bytes()).hexdigest() == before
    with tarfile.open(archive) as packed:
        names = {name.removeprefix("./") for name in packed.getnames()}
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", unpacked], check=True)  # tarfile's filters came with Python 3.11.4
    site = build.DEBIAN_SITE
    assert {f"{site}/astra_sandbox/__main__.py", f"{site}/grpc/__init__.py", "etc/passwd"} <= names
    assert not [name for name in names if name.startswith((f"{site}/torch", f"{site}/astra_trainer"))]
    # an interpreter that has nothing but the image's own packages runs its command
    isolated = [sys.executable, "-I", "-S", "-c", "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); "
                "runpy.run_module('astra_sandbox', run_name='__main__', alter_sys=True)"]  # fmt: skip
    done = subprocess.run(
        [*isolated, str(unpacked / site), "--help"],
        capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--listen" in done.stdout


def test_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build.main(["rootfs", "sandbux"])
    assert ended.value.code == 2
    assert "sandbux" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        build.main(["rootfs", "trainer-verl"])
    assert "trainer-verl: none of sandbox" in capsys.readouterr().err


def test_without_an_engine_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    assert build.main(["docker", "sandbox"]) == 1
    assert "no Docker engine answers" in capsys.readouterr().err


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a Docker client that has no context yet, and no engine named by the environment."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def _add_context(contexts: Path, name: str, host: str) -> None:
    folder = contexts / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    folder.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": False}}
    (folder / "meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoints}))


def test_the_engine_is_that_of_the_current_context(contexts: Path) -> None:
    asked: list[str] = []

    class Engine(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _add_context(contexts, "elsewhere", f"tcp://127.0.0.1:{server.server_port}")
        (contexts / "config.json").write_text('{"currentContext": "elsewhere"}')
        assert build.main(["docker", "sandbox"]) == 1
        server.shutdown()
    assert asked


def test_a_context_that_is_not_there_builds_nowhere(
    contexts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    assert build.main(["docker", "sandbox"]) == 1
    assert "no such Docker context" in capsys.readouterr().err


@pytest.mark.skipif(not os.environ.get("ASTRA_TEST_DOCKER"), reason="needs a Docker engine: set ASTRA_TEST_DOCKER=1")
def test_the_docker_images_build() -> None:
    assert build.main(["docker", "sandbox", "operator", "--tag", "test"]) == 0
