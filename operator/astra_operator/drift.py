"""Whether an object is as its manifest says. Pure."""

from typing import Any

from astra_api.canonical import digest

MANIFEST = "astra.farm/manifest"  # annotation: the digest of what was last applied


def stamped(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with its own digest on it, so that a field that a new version leaves out is noticed."""
    annotations = {**manifest["metadata"].get("annotations", {}), MANIFEST: digest(manifest)}
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}


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
