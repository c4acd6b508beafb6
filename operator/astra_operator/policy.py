"""Which images and Secrets an admin lets runs use: patterns in which `*` stops at a slash and `**` does not. Pure."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

# An image reference as registries take it: no `..`, no empty part, nothing that could mean another place.
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>[a-z0-9]+:[0-9a-f]{32,}))?"
)
_PATTERN = re.compile(r"(?P<name>[^@]*?)(?::(?P<tag>[^/:@]+))?(?:@(?P<digest>[^@/]+))?")
_SECRET_FIELDS = ("env", "envFrom", "volumes", "imagePullSecrets")


class SecretUse(NamedTuple):
    """A Secret that a pod template names, and the field that does."""

    field: str
    name: str


def admits_image(patterns: Iterable[str], image: str) -> bool:
    """Whether an image may be run. No patterns: any.

    A pattern with neither tag nor digest admits all of a repository. One with a tag admits no digest, which would count
    instead of the tag, unless it has one too; an image with neither is `latest`.
    """
    patterns = tuple(patterns)
    if not patterns:
        return True
    found = _REFERENCE.fullmatch(image)
    return found is not None and any(_admits(pattern, found) for pattern in patterns)


def admits_secret(patterns: Iterable[str], name: str) -> bool:
    """Whether pods of a run may read a Secret. No patterns: any."""
    patterns = tuple(patterns)
    return not patterns or any(_glob(pattern).fullmatch(name) for pattern in patterns)


def secrets_of(template: dict[str, Any]) -> Iterator[SecretUse]:
    """Every Secret that a pod template makes pods read, by the path of its name. Whatever is called a secret counts."""
    spec = template.get("spec") or {}
    for field in _SECRET_FIELDS:
        for index, item in enumerate(spec.get(field) or []):
            path = f"spec.{field}[{index}]"
            if field == "imagePullSecrets":
                yield SecretUse(f"{path}.name", str(item.get("name", "")))
            elif field == "env":
                yield from _within(item.get("valueFrom"), f"{path}.valueFrom")
            else:
                yield from _within(item, path)


def _within(value: Any, path: str) -> Iterator[SecretUse]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _within(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, inner in value.items():
            place = f"{path}.{key}"
            if "secret" not in key.lower():
                yield from _within(inner, place)
            elif isinstance(inner, str):
                yield SecretUse(place, inner)
            elif isinstance(inner, dict):
                name = "secretName" if "secretName" in inner else "name"
                yield SecretUse(f"{place}.{name}", str(inner.get(name, "")))


def _admits(pattern: str, image: re.Match[str]) -> bool:
    wanted = _PATTERN.fullmatch(pattern)
    if wanted is None or not _glob(wanted["name"]).fullmatch(image["name"]):
        return False
    tag, digest = wanted["tag"], wanted["digest"]
    if digest is not None and not (image["digest"] and _glob(digest).fullmatch(image["digest"])):
        return False
    if tag is None:
        return True
    if image["digest"] and digest is None:
        return False
    given = image["tag"] or ("" if image["digest"] else "latest")
    return _glob(tag).fullmatch(given) is not None


@lru_cache(maxsize=256)
def _glob(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*+)", pattern)
    return re.compile("".join(_STARS.get(part, re.escape(part)) for part in parts))


_STARS = {"*": "[^/]*", "**": ".*"}
