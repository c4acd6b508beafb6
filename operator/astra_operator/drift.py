"""Whether an object is as its manifest says. Pure."""

from typing import Any

from astra_api.canonical import digest
from astra_operator.actions import Apply

MANIFEST = "astra.farm/manifest"  # annotation: the digest of what was last applied


def stamped(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with its own digest on it, so that a field that a new version leaves out is noticed."""
    annotations = {**manifest["metadata"].get("annotations", {}), MANIFEST: digest(manifest)}
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}


def mended(wanted: Apply, found: dict[str, Any] | None) -> list[Apply]:
    """What makes an object as it should be: nothing, if it is."""
    manifest = stamped(wanted.manifest)
    return [Apply(wanted.kind, manifest, uid_of(found))] if differs(manifest, found) else []


def uid_of(found: dict[str, Any] | None) -> str | None:
    """The uid of an object, if there is one."""
    return None if found is None else str(found["metadata"]["uid"])


def differs(manifest: dict[str, Any], found: dict[str, Any] | None) -> bool:
    """Whether a stamped manifest has to be applied: the object is missing, was made from another manifest, or somebody
    changed what the manifest sets. What the server adds of its own does not count."""
    return found is None or not _within(manifest, found)


def _within(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict):
        if not wanted:
            return found is None or isinstance(found, dict)  # the server drops what is empty, or fills it
        return isinstance(found, dict) and all(_within(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        if not wanted:
            return not found
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_within, wanted, found))
    return bool(wanted == found)
