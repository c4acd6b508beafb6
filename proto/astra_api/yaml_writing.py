"""Writing manifests so that kubectl and `astra_api.manifests` read back exactly what was written."""

from collections.abc import Iterable
from typing import Any

import yaml

from astra_api.resource import Resource
from astra_api.yaml_documents import YamlError, scalar


def manifest_value(resource: Resource) -> dict[str, Any]:
    """The JSON object of a manifest: camelCase, what equals its default left out, `apiVersion` and `kind` first."""
    value = resource.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    heads = {key: getattr(resource, name) for name, key in (("api_version", "apiVersion"), ("kind", "kind"))}
    return {**heads, **value}


def manifest_text(resources: Iterable[Resource]) -> str:
    """One YAML document a resource, each begun by `---`."""
    return "".join("---\n" + yaml_text(manifest_value(resource)) for resource in resources)


def yaml_text(value: Any) -> str:
    """A JSON value as one YAML document; texts of several lines as blocks."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


class _Dumper(yaml.CSafeDumper):
    """Quotes every text that kubectl would read as something else; never writes aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    plain = None if _reads_as_text(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else plain)


def _reads_as_text(text: str) -> bool:
    try:
        return bool(scalar(text) == text)
    except YamlError:
        return False


_Dumper.add_representer(str, _represent_text)
