"""Loading manifests: one file, many documents in a file, a folder, or a Kubernetes List.

A bad document never hides the good ones: `read_manifests` yields, in order, what it could read and a ManifestError for
what it could not, each naming its file, document, field and the fix.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.resource import API_VERSION, GROUP
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_api.yaml_documents import Document, YamlError, documents

AnyResource = Environment | SynthesisRun | TrainingRun
Resource = TypeVar("Resource", bound=BaseModel)
KINDS: dict[str, type[AnyResource]] = {
    "Environment": Environment,
    "SynthesisRun": SynthesisRun,
    "TrainingRun": TrainingRun,
}
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Manifest:
    """A resource and where it was read: file, and document number in it (from 1)."""

    file: Path
    document: int
    resource: AnyResource


class ManifestError(BadInput):
    """A file or document that cannot be used. `field` is a path such as `spec.steps[1].answer`, or empty."""

    def __init__(self, file: Path, document: int | None, field: str, message: str) -> None:
        self.file, self.document, self.field, self.message = file, document, field, message
        where = [str(file)]
        if document is not None:
            where.append(f"document {document}")
        if field:
            where.append(field)
        super().__init__(": ".join([*where, message]))


def load_manifests(paths: Iterable[Path]) -> list[Manifest]:
    """Everything at the paths. Raises the first ManifestError."""
    loaded = []
    for item in read_manifests(paths):
        if isinstance(item, ManifestError):
            raise item
        loaded.append(item)
    return loaded


def read_manifests(paths: Iterable[Path]) -> Iterator[Manifest | ManifestError]:
    """Everything at the paths, good and bad, in order. Documents of other API groups are passed over, except that a
    ConfigMap gives the source that an Environment's `sourceRef` names."""
    found: list[Manifest | ManifestError] = []
    config_maps: dict[str, Mapping[str, Any]] = {}
    for path in paths:
        for file in _files(path):
            found.extend([file] if isinstance(file, ManifestError) else _read_file(file, config_maps))
    for item in found:
        yield _resolve(item, config_maps) if isinstance(item, Manifest) else item


def check(model: type[Resource], value: dict[str, Any]) -> Resource | list[tuple[str, str]]:
    """The resource that an object describes, or (field, message) of all that is wrong with it."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        return [_explain(model, value, details) for details in error.errors(include_url=False)]


def _files(path: Path) -> list[Path | ManifestError]:
    if not path.is_dir():
        return [path]
    files = sorted(
        file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file() and not _is_other_json(file)
    )
    if not files:
        return [ManifestError(path, None, "", f"the folder holds no manifest ({', '.join(SUFFIXES)})")]
    return list(files)


def _is_other_json(file: Path) -> bool:
    """Whether a file of a folder is JSON but no Kubernetes object: the bookkeeping of a run, say. What cannot be parsed
    is not passed over: it may be a broken manifest."""
    if file.suffix != ".json":
        return False
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return not (isinstance(value, dict) and ("kind" in value or "apiVersion" in value))


def _read_file(file: Path, config_maps: dict[str, Mapping[str, Any]]) -> Iterator[Manifest | ManifestError]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        yield ManifestError(file, None, "", f"not UTF-8 text (byte {error.start}); save it as UTF-8")
        return
    except OSError as error:
        yield ManifestError(file, None, "", f"cannot be read: {error.strerror}")
        return
    empty = True
    number = 0
    try:
        for document in documents(text):
            empty, number = False, document.number
            yield from _read_document(file, document, config_maps)
    except YamlError as error:
        yield ManifestError(file, number + 1, "", f"{error}")
        return
    if empty:
        yield ManifestError(file, None, "", "the file holds no document")


def _read_document(
    file: Path, document: Document, config_maps: dict[str, Mapping[str, Any]]
) -> Iterator[Manifest | ManifestError]:
    def read(value: Any, prefix: str) -> Iterator[Manifest | ManifestError]:
        if not isinstance(value, dict):
            yield ManifestError(file, document.number, prefix, f"must be an object, not {_described(value)}")
            return
        kind, api_version = value.get("kind"), value.get("apiVersion")
        if isinstance(kind, str) and kind.endswith("List") and isinstance(value.get("items"), list):
            for index, item in enumerate(value["items"]):
                yield from read(item, f"{prefix}items[{index}].")
        elif isinstance(kind, str) and isinstance(api_version, str) and _foreign(kind, api_version):
            if kind == "ConfigMap" and isinstance(value.get("data"), dict):
                config_maps[str((value.get("metadata") or {}).get("name"))] = value["data"]
        else:
            yield from _validate(file, document.number, prefix, value)

    yield from read(document.value, "")


def _foreign(kind: str, api_version: str) -> bool:
    return kind not in KINDS and api_version.partition("/")[0] != GROUP


def _validate(file: Path, number: int, prefix: str, value: dict[str, Any]) -> Iterator[Manifest | ManifestError]:
    kind = value.get("kind")
    if kind is None or value.get("apiVersion") is None:
        missing = "kind" if kind is None else "apiVersion"
        hint = f"one of {', '.join(KINDS)}" if kind is None else API_VERSION
        yield ManifestError(file, number, prefix + missing, f"required field is missing: add it ({hint})")
    elif value["apiVersion"] != API_VERSION:
        yield ManifestError(
            file, number, prefix + "apiVersion", f"must be {API_VERSION}, not {_described(value['apiVersion'])}"
        )
    elif not isinstance(kind, str) or kind not in KINDS:
        yield ManifestError(
            file, number, prefix + "kind", f"{_described(kind)} is none of {', '.join(KINDS)}{_nearest(kind, KINDS)}"
        )
    else:
        found = check(KINDS[kind], value)
        if isinstance(found, list):
            yield from (ManifestError(file, number, prefix + field, message) for field, message in found)
        else:
            yield Manifest(file, number, found)


def _explain(model: type[BaseModel], value: Any, details: ErrorDetails) -> tuple[str, str]:
    """The path and the message of one validation error."""
    path = ""
    current: Any = value
    for position, key in enumerate(details["loc"]):
        last = position == len(details["loc"]) - 1
        if isinstance(current, list) and isinstance(key, int) and key < len(current):
            path, current = f"{path.rstrip('.')}[{key}].", current[key]
        elif isinstance(current, dict) and (key in current or (last and details["type"] == "missing")):
            path, current = f"{path}{key}.", current.get(str(key))
        # else: the tag of a union, which is no place in the document
    message = details["msg"].removeprefix("Value error, ")
    match details["type"]:
        case "missing":
            message = "required field is missing: add it"
        case "extra_forbidden":
            siblings = _siblings(model, details["loc"][:-1])
            message = f"unknown field: remove it{_nearest(details['loc'][-1], siblings) or _listed(siblings)}"
        case "value_error":
            pass
        case _:
            given = "a string" if _may_be_secret(details) else _described(details["input"])
            message = f"{message[0].lower()}{message[1:]}, not {given}"
    return path.rstrip("."), message


def _may_be_secret(details: ErrorDetails) -> bool:
    """Whether a text stands where people put keys and passwords, so that it must not be shown."""
    places = [str(key).casefold() for key in details["loc"]]
    return isinstance(details["input"], str) and any("secret" in place or place == "baseurl" for place in places)


def _siblings(model: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    """The field names allowed where `loc` points."""
    current: Any = model
    for key in loc:
        options = _models(current)
        for option in options:
            if field := next((f for n, f in option.model_fields.items() if key in (n, f.alias)), None):
                current = field.annotation
                break
        else:
            tagged = [
                o for o in options if "type" in o.model_fields and key in get_args(o.model_fields["type"].annotation)
            ]
            current = tagged[0] if tagged else current
    return set().union(*(_field_names(option) for option in _models(current)))


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _field_names(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _nearest(word: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _listed(known: Iterable[str]) -> str:
    return f" (known here: {', '.join(sorted(known))})" if known else ""


def _described(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the string {value[:60]!r}"
        case list():
            return "a list"
        case _:
            return "an object"


def _resolve(manifest: Manifest, config_maps: Mapping[str, Mapping[str, Any]]) -> Manifest | ManifestError:
    environment = manifest.resource
    if not isinstance(environment, Environment) or environment.spec.source_ref is None:
        return manifest
    reference = environment.spec.source_ref
    source = config_maps.get(reference.config_map, {}).get(reference.key)
    if not isinstance(source, str):
        message = f"no ConfigMap {reference.config_map} with key {reference.key} was loaded; pass its file too"
        return ManifestError(manifest.file, manifest.document, "spec.sourceRef", message)
    return Manifest(manifest.file, manifest.document, environment.with_source(source))
