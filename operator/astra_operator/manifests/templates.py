"""What users and admins add to the operator's pods: `podTemplate` of a run, over the farm's defaults. Pure.

The two are merged field by field:

* maps (labels, annotations, nodeSelector, securityContext) key by key, the run's value over the farm's;
* lists of named things (env, volumes and imagePullSecrets by name, volumeMounts by mountPath) by that name, the run's
  over the farm's;
* other lists (tolerations, topologySpreadConstraints, envFrom): the farm's, then the run's, each once;
* all else (affinity, priorityClassName, runtimeClassName, schedulerName): the run's, else the farm's.

What the operator itself sets in a pod stays as it is, whatever a template says.
"""

from collections.abc import Iterable, Mapping
from posixpath import normpath
from typing import Any

from pydantic import Field

from astra_api.pod_template import PodTemplate
from astra_api.resource import GROUP, Resource
from astra_operator.manifests.pods import SCRATCH_MOUNT, environment, scratch
from astra_operator.manifests.quantities import canonical_quantity, is_quantity

Template = dict[str, Any]  # metadata and spec in Kubernetes' words; what is empty is left out
MANAGED_BY = "app.kubernetes.io/managed-by"
OWN_FOLDER = "/etc/astra"  # holds certificates, the run and credentials, each in a folder
_NAMES = {"env": "name", "volumes": "name", "volumeMounts": "mountPath", "imagePullSecrets": "name"}
_LISTS = ("tolerations", "topologySpreadConstraints", "envFrom")
_MAPS = ("nodeSelector", "securityContext")
_QUANTITIES = ("divisor", "sizeLimit", "storage")  # fields of volumes and variables
_OF_CONTAINER = ("env", "envFrom", "volumeMounts")
_SELINUX_TYPES = ("container_t", "container_init_t", "container_kvm_t", "container_engine_t")
# Names that pods of the operator have whatever they are for; each kind of pod has further ones.
_ANY_POD: Template = {
    "metadata": {"labels": {MANAGED_BY: ""}},
    "spec": {
        "containers": [
            {
                "env": environment(HF_HOME=""),
                "volumeMounts": [
                    SCRATCH_MOUNT,
                    *({"mountPath": path} for path in ("/checkpoint", "/models", "/volume")),
                ],
            }
        ],
        "volumes": [
            scratch(),
            *({"name": name} for name in ("checkpoint", "models", "object-store", "own-tls", "run", "tls", "volume")),
        ],
    },
}


class PodDefaults(Resource):
    """What an admin adds to the pods of a farm: `podDefaults` of the chart."""

    trainer: PodTemplate = Field(default_factory=PodTemplate)
    """The pods of TrainingRuns that train."""
    sandboxes: PodTemplate = Field(default_factory=PodTemplate)
    """The sandbox pods of runs, and of Environments with replicas of their own."""
    synthesis: PodTemplate = Field(default_factory=PodTemplate)
    """The pods of SynthesisRuns' Jobs."""
    verification: PodTemplate = Field(default_factory=PodTemplate)
    """The verification pool of the operator."""


def clean_path(path: str) -> str:
    """The one way to write a path of a container; POSIX leaves two leading slashes alone."""
    return normpath(f"/{path.lstrip('/')}")


def merged(farm: PodTemplate | None, run: PodTemplate | None) -> Template:
    """What is added to a pod, by the farm's default and the run's own template."""
    below, above = _written(farm), _written(run)
    metadata = {
        field: {**below["metadata"].get(field, {}), **above["metadata"].get(field, {})}
        for field in ("labels", "annotations")
    }
    fields = below["spec"] | above["spec"]
    spec = {field: _merge(field, below["spec"].get(field), above["spec"].get(field)) for field in fields}
    return {"metadata": {field: value for field, value in metadata.items() if value}, "spec": spec}


def apply_template(pod: Template, template: Template) -> Template:
    """The pod template of the operator with what a merged template adds to it. The first container gets what is a
    container's; a spread constraint without a selector is about the pods of this owner."""
    added = template.get("spec", {})
    container, *others = pod["spec"]["containers"]
    own_mounts = {_key("volumeMounts", each) for each in container.get("volumeMounts", [])}
    changed = {
        "env": _own_first("env", container.get("env", []), added),
        "envFrom": [*container.get("envFrom", []), *added.get("envFrom", [])],
        "volumeMounts": [
            *container.get("volumeMounts", []),
            *(each for each in added.get("volumeMounts", []) if not _taken(each["mountPath"], own_mounts)),
        ],
    }
    container = {**container, **{field: value for field, value in changed.items() if value}}
    spec = {field: value for field, value in added.items() if field not in (*_OF_CONTAINER, "volumes")}
    if "topologySpreadConstraints" in spec:
        same = {"labelSelector": {"matchLabels": pod["metadata"]["labels"]}}
        spec["topologySpreadConstraints"] = [same | each for each in spec["topologySpreadConstraints"]]
    security = {**pod["spec"].get("securityContext", {}), **spec.pop("securityContext", {})}
    return {
        "metadata": {
            **pod["metadata"],
            **{
                field: {**values, **pod["metadata"].get(field, {})}
                for field, values in template.get("metadata", {}).items()
            },
        },
        "spec": {
            **spec,
            **pod["spec"],
            **({"securityContext": security} if security else {}),
            "containers": [container, *others],
            "volumes": _own_first("volumes", pod["spec"].get("volumes", []), added),
        },
    }


def problems(
    template: PodTemplate, pod: Template = _ANY_POD, volumes: Iterable[str] = (), fixed: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """(field, message) of all in a template that cannot be added to the operator's pod. `volumes`: names of those that
    the farm's default brings; `fixed`: fields that something else decides, and the message that says what."""
    written = template.model_dump(mode="json", by_alias=True, exclude_none=True)
    metadata, spec = written["metadata"], written["spec"]
    container = pod["spec"]["containers"][0]
    found: list[tuple[str, str]] = []
    for part in ("labels", "annotations"):
        own = pod["metadata"].get(part, {})
        keys = [key for key in metadata[part] if key in own or key.startswith(f"{GROUP}/")]
        found += [(f"metadata.{part}.{key}", f"{key} is the operator's; remove it") for key in keys]
    own_names = {
        "env": {each["name"] for each in container.get("env", [])},
        "volumes": {each["name"] for each in pod["spec"].get("volumes", [])},
        "volumeMounts": {_key("volumeMounts", each) for each in container.get("volumeMounts", [])} | {OWN_FOLDER},
        "imagePullSecrets": set(),
    }
    known = {*volumes, *(each["name"] for each in spec["volumes"])}
    for field, name in _NAMES.items():
        given: set[str] = set()
        for index, each in enumerate(spec[field]):
            key, place = _key(field, each), f"spec.{field}[{index}].{name}"
            owner = _clash(field, key, own_names[field])
            if owner:
                found.append((place, f"{owner} is the operator's; choose another {name}"))
            elif key in given:
                found.append((place, f"{key} is given twice; remove one"))
            elif field == "volumeMounts" and each["name"] not in known:
                message = f"there is no volume {each['name']} in volumes, nor in the farm's podDefaults; add it"
                found.append((f"spec.{field}[{index}].name", message))
            given.add(key)
    found += [(f"spec.{field}", message) for field, message in (fixed or {}).items() if spec.get(field) is not None]
    return found + _selinux(spec.get("securityContext", {}).get("seLinuxOptions") or {})


def _selinux(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pods are confined: a user, a role or another type could say otherwise."""
    place = "spec.securityContext.seLinuxOptions"
    found = [
        (f"{place}.{key}", "only level and type may be given; remove it")
        for key in sorted(options.keys() - {"level", "type"})
    ]
    kind = options.get("type", _SELINUX_TYPES[0])
    if kind not in _SELINUX_TYPES:
        found.append((f"{place}.type", f"must be one of {', '.join(_SELINUX_TYPES)}, not {kind!r}"))
    return found


def _clash(field: str, key: str, own: set[str]) -> str | None:
    """Which of the operator's own names a name would replace or hide."""
    if field == "volumeMounts":
        return _taken(key, own)
    return key if key in own else None


def _taken(path: str, own: Iterable[str]) -> str | None:
    """The mount of the operator that a mount at `path` would replace or hide, or its folder of secrets."""
    path = clean_path(path)
    if path == OWN_FOLDER or path.startswith(f"{OWN_FOLDER}/"):
        return OWN_FOLDER
    return next((each for each in sorted(own) if each == path or each.startswith(f"{path.rstrip('/')}/")), None)


def _key(field: str, item: Mapping[str, Any]) -> str:
    value = str(item[_NAMES[field]])
    return clean_path(value) if field == "volumeMounts" else value


def _merge(field: str, below: Any, above: Any) -> Any:
    if field in _MAPS:
        return {**(below or {}), **(above or {})}
    if field in _NAMES:
        return list({_key(field, each): each for each in [*(below or []), *(above or [])]}.values())
    if field in _LISTS:
        every = [*(below or []), *(above or [])]
        return [each for index, each in enumerate(every) if each not in every[:index]]
    return below if above is None else above


def _own_first(field: str, own: list[Any], added: Mapping[str, Any]) -> list[Any]:
    names = {_key(field, each) for each in own}
    return [*own, *(each for each in added.get(field, []) if _key(field, each) not in names)]


def _written(template: PodTemplate | None) -> Template:
    """As the API server stores it: it drops what is empty or false, and would differ for ever from what says it."""
    if template is None:
        return {"metadata": {}, "spec": {}}
    written = template.model_dump(mode="json", by_alias=True, exclude_none=True)
    spec = {field: value for field, value in written["spec"].items() if value and field != "hostNetwork"}
    for field, emptied in (
        ("env", _without_empty),
        ("tolerations", _without_empty),
        ("volumeMounts", _without_empty),
        ("volumes", _volume),
    ):
        if field in spec:
            spec[field] = [emptied(each) for each in spec[field]]
    for field in ("env", "volumes"):
        spec |= {field: [_stored("", each) for each in spec[field]]} if field in spec else {}
    return {"metadata": written["metadata"], "spec": spec}


def _volume(volume: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_empty(body) if isinstance(body, dict) else body for key, body in volume.items()}


def _without_empty(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if value != "" and value is not False}


def _stored(key: str, value: Any) -> Any:
    """With its quantities as the API server stores them; what is none, the server refuses in its own words."""
    if isinstance(value, dict):
        return {inner: _stored(inner, each) for inner, each in value.items()}
    if isinstance(value, list):
        return [_stored(key, each) for each in value]
    return canonical_quantity(str(value)) if key in _QUANTITIES and is_quantity(str(value)) else value
