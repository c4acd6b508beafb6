"""Options that several commands have."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import typer

from astra_api.errors import BadInput
from astra_api.manifests import check
from astra_api.resource import Resource
from astra_api.yaml_documents import YamlError, documents

R = TypeVar("R", bound=Resource)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors and the result.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Set a field of the run, as spec.rl.steps=10; the value is YAML, null removes. May be given often.",
        show_default=False,
    ),
]


def with_settings(run: R, settings: Sequence[str] | None) -> R:
    """The run with fields set, checked as its manifest was. Raises BadInput, naming the option and the field.

    A field is a dotted path; items of a list by their number (`benchmarks[0]` or `benchmarks.0`), and one more is
    added by the next number. `\\.` stands for a dot in a name.
    """
    if not settings:
        return run
    value = run.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for setting in settings:
        path, given = _parsed(setting)
        _put(value, path, given, setting)
    found = check(type(run), value)  # once all are set: one may need another
    if isinstance(found, list):
        problems = "; ".join(f"{field}: {message}" if field else message for field, message in found)
        raise BadInput(f"--set {' --set '.join(settings)}: {problems}")
    return found


def _parsed(setting: str) -> tuple[list[str], Any]:
    field, separator, text = setting.partition("=")
    marked = field.strip().replace("\\.", "\0").replace("[", ".").replace("]", "")
    path = [part.replace("\0", ".") for part in marked.split(".")]
    if not separator or not all(path):
        raise BadInput(f"--set {setting}: give FIELD=VALUE, as spec.rl.steps=10")
    try:
        values = [document.value for document in documents(text)]
    except YamlError as error:
        raise BadInput(f"--set {setting}: the value is not YAML: {error}; quote it") from None
    if len(values) > 1:
        raise BadInput(f"--set {setting}: the value is {len(values)} YAML documents; give one")
    return path, values[0] if values else None


def _put(value: Any, path: Sequence[str], given: Any, setting: str) -> None:
    """Sets what stands at a path; objects on the way are made where there is none yet."""
    for position, key in enumerate(path):
        place = ".".join(path[:position])
        last = position == len(path) - 1
        if isinstance(value, list):
            if not key.isdecimal() or int(key) > len(value):
                raise BadInput(f"--set {setting}: {place}: a list of {len(value)}; {key} is no item, nor the next one")
            _put_item(value, int(key), given if last else {}, replacing=last)
            value = value[int(key)] if int(key) < len(value) else None
        elif isinstance(value, dict):
            if last and given is None:
                value.pop(key, None)
            elif last:
                value[key] = given
            elif value.get(key) is None:
                value[key] = {}
            value = value.get(key)
        else:
            raise BadInput(f"--set {setting}: {place}: {value!r} is neither an object nor a list; it has no {key}")


def _put_item(items: list[Any], index: int, given: Any, *, replacing: bool) -> None:
    if index == len(items):
        items.append(given)
    elif replacing and given is None:
        del items[index]
    elif replacing:
        items[index] = given
