"""Builds the images of images/*.Dockerfile: with a Docker engine, or as root file systems without one.

    python images/build.py docker                       every image, as astra-farm-NAME:VERSION
    python images/build.py docker sandbox operator --tag dev
    python images/build.py rootfs sandbox --base ROOTFS --mkimage MKIMAGE.py --out FOLDER

`rootfs` is for machines without Docker: it starts from the root file system of a Debian with Python 3.11, adds what the
Dockerfile adds (the same requirements at the versions of requirements/lock.txt, taken from this environment; the same
packages of this checkout; the same command) and has a script pack it into an archive that containerd imports.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
ROOTFS = ("sandbox", "operator", "synth", "trainer")  # of what can be installed here
NAMES = (*ROOTFS, "trainer-gpu", "trainer-verl")
SITE = "/usr/local/lib/python3.11/site-packages"  # of the Dockerfiles' base
DEBIAN_SITE = "usr/local/lib/python3.11/dist-packages"  # where Debian's Python looks
_OWN = "astra-farm"
_LIBRARIES = ("libseccomp.so.2", "libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1")  # what wheels take from the system
_LEFT_OUT = re.compile(r"(^|/)(__pycache__|tests?|include)/|\.(a|pyc|pxd|pyx|cu|h|hpp)$")


class BuildError(Exception):
    """An image cannot be built; the message says what to do."""


@dataclass(frozen=True)
class Description:
    """What a Dockerfile says, as far as a root file system needs it."""

    name: str
    requirements: tuple[Requirement, ...]
    packages: tuple[Path, ...]  # folders of this checkout
    command: tuple[str, ...]
    whole: bool  # the whole distribution with its metadata, not only some packages


def describe(name: str) -> Description:
    """Reads images/NAME.Dockerfile and the list of requirements that it names: in images/, or locked by itself."""
    lines = (ROOT / "images" / f"{name}.Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    (listed,) = set(re.findall(r"images/[\w-]+\.txt|requirements/verl-[\w-]+\.txt", text))
    lines = (ROOT / listed).read_text().splitlines()
    copied = re.findall(rf"^COPY (\S+) {SITE}/\w+$", text, re.MULTILINE)
    sources = copied or [str(folder.relative_to(ROOT)) for folder in sorted(ROOT.glob("*/astra_*"))]
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    return Description(
        name,
        tuple(Requirement(line) for line in lines if line and not line.startswith("#")),
        tuple(ROOT / source for source in sources),
        tuple(json.loads(command)),
        not copied,
    )


def locked() -> dict[str, str]:
    """Versions of requirements/lock.txt, by canonical name."""
    lines = (ROOT / "requirements" / "lock.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {str(canonicalize_name(name)): version for name, version in pins}


def closure(requirements: Iterable[Requirement]) -> list[importlib.metadata.Distribution]:
    """The distributions that requirements need, from this environment; each must be what the lock file says."""
    pins, found, waiting = locked(), {}, list(requirements)
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name, extras = str(canonicalize_name(requirement.name)), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise BuildError(f"{name} is not installed here: run `make init`") from None
        if name != _OWN:
            if distribution.version.partition("+")[0] != pins.get(name):  # a CPU build of torch is torch too
                raise BuildError(
                    f"{name} is {distribution.version} here, {pins.get(name)} in the lock: run `make init`"
                )
            found[name] = distribution
        for text in distribution.requires or []:
            further = Requirement(text)
            marker = further.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
                waiting.append(further)
    return [found[name] for name in sorted(found)]


def digest(description: Description, base: Path) -> str:
    """Changes when anything that goes into the image does."""
    made = hashlib.sha256(f"{description}{base.resolve()}{base.stat().st_mtime_ns}".encode())
    for distribution in closure(description.requirements):
        made.update(f"{distribution.name}=={distribution.version}\n".encode())
    for package in description.packages:
        for file in _sources(package):
            made.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    made.update(Path(__file__).read_bytes())
    return made.hexdigest()[:16]


def build_rootfs(name: str, base: Path, mkimage: Path, out: Path, tag: str) -> Path:
    """An archive of an image; returns at once where one of the same content is there. Raises BuildError."""
    description = describe(name)
    archive = out / f"{name}-{tag}-{digest(description, base)}.tar"
    if archive.exists():
        return archive
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=out) as scratch:
        root = Path(scratch, "root")
        subprocess.run(["cp", "-al", base, root], check=True)
        _fill(root, description)
        made = Path(scratch, "image.tar")
        image = f"docker.io/library/astra-farm-{name}:{tag}"
        packed = [sys.executable, mkimage, image, root, made, "--cmd", *description.command]
        subprocess.run(packed, check=True, stdout=subprocess.DEVNULL)
        made.rename(archive)
    for older in out.glob(f"{name}-{tag}-*.tar"):
        if older != archive:
            older.unlink()
    return archive


def _fill(root: Path, description: Description) -> None:
    site = root / DEBIAN_SITE
    for distribution in closure(description.requirements):
        for file in distribution.files or []:
            relative = str(file)
            if not relative.startswith("..") and not _LEFT_OUT.search(relative):
                _link(Path(str(distribution.locate_file(file))), site / relative)
    if description.whole:
        own = importlib.metadata.distribution(_OWN)
        for name in ("METADATA", "entry_points.txt"):
            target = site / f"astra_farm-{own.version}.dist-info" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(own.read_text(name) or "")
    for package in description.packages:
        for file in _sources(package):
            target = site / package.name / file.relative_to(package)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    for library in _LIBRARIES:
        target = root / "usr/lib/x86_64-linux-gnu" / library
        if not target.exists():
            shutil.copyfile(_system_library(library), target)
    ldconfig = root / "sbin" / "ldconfig"  # by its cache Python finds libseccomp
    ldconfig.parent.mkdir(exist_ok=True)
    if not ldconfig.exists():
        shutil.copy("/sbin/ldconfig", ldconfig)
    subprocess.run(["/sbin/ldconfig", "-r", root], check=True, capture_output=True)
    compiled = ["-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    # As the files will lie, so that tracebacks name them. A package may ship templates that are no Python: no failure.
    subprocess.run([sys.executable, *compiled, "-s", str(root), "-p", "/", str(site)], check=False, capture_output=True)


def _link(source: Path, target: Path) -> None:
    """A hard link where the file systems allow it: an image of a trainer has a gigabyte of libraries."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _sources(package: Path) -> Iterator[Path]:
    return (file for file in sorted(package.rglob("*")) if file.is_file() and "__pycache__" not in file.parts)


def _system_library(name: str) -> str:
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for line in known.splitlines():
        if line.strip().startswith(f"{name} ") and "x86-64" in line:
            return line.split("=> ")[1]
    raise BuildError(f"{name} is not on this machine: install the Debian package that holds it")


def build_docker(names: Iterable[str], tag: str, arguments: dict[str, str]) -> None:
    """Builds with the engine that `docker` itself would use: DOCKER_HOST, or the current context. Raises BuildError."""
    import docker  # the extra [docker]
    import docker.errors
    from docker.context import ContextAPI

    if not os.environ.get("DOCKER_HOST") and ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT")) is None:
        raise BuildError("no such Docker context: choose one that `docker context ls` shows, or set DOCKER_HOST")
    try:
        engine = docker.from_env()
        engine.ping()
    except docker.errors.DockerException as error:
        raise BuildError(f"no Docker engine answers ({error}); start one, or choose its context") from None
    for name in names:
        image = f"astra-farm-{name}:{tag}"
        print(f"building {image}")
        try:
            engine.images.build(
                path=str(ROOT), dockerfile=f"images/{name}.Dockerfile", tag=image, buildargs=arguments, rm=True
            )
        except docker.errors.BuildError as error:
            log = "".join(line.get("stream", "") for line in error.build_log)
            raise BuildError(f"{image}: {error}\n{log[-4000:]}") from None


def main(arguments: list[str]) -> int:
    """Exit codes: 0 built, 1 could not be built, 2 bad usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=("docker", "rootfs"))
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default; rootfs: {', '.join(ROOTFS)}"
    )
    parser.add_argument("--tag", default=importlib.metadata.version(_OWN), help="default: the version")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="docker: an ARG")
    parser.add_argument("--base", type=Path, help="rootfs: the folder to start from")
    parser.add_argument("--mkimage", type=Path, help="rootfs: the script that packs a folder: NAME:TAG FOLDER OUT.tar")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "images", help="rootfs: where archives go")
    options = parser.parse_args(arguments)
    known = NAMES if options.how == "docker" else ROOTFS
    if unknown := set(options.names) - set(known):
        parser.error(f"{', '.join(sorted(unknown))}: none of {', '.join(known)}")
    try:
        if options.how == "docker":
            build_docker(options.names or known, options.tag, dict(item.split("=", 1) for item in options.build_arg))
        elif options.base is None or options.mkimage is None:
            parser.error("rootfs needs --base and --mkimage")
        else:
            for name in options.names or known:
                print(build_rootfs(name, options.base, options.mkimage, options.out, options.tag))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
