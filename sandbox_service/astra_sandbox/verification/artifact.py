"""The final artifact of an environment: the manifest as it is written to a file, read back from that text."""

from astra_api.environment import Environment
from astra_api.yaml_documents import YamlError, documents
from astra_api.yaml_writing import manifest_text


class NotReproducible(ValueError):
    """What was written is not what is read."""


def reloaded(environment: Environment) -> Environment:
    """The environment as a reader of its manifest gets it. Raises NotReproducible where the two differ."""
    try:
        (document,) = documents(manifest_text([environment]))
        again = Environment.model_validate(document.value)
    except (YamlError, ValueError) as error:
        raise NotReproducible(f"the manifest cannot be read back: {str(error).splitlines()[0]}") from None
    if environment.spec.source is None:
        again = again.with_source(environment.toolset.source)  # the ConfigMap holds it as it is
    if again.digest != environment.digest or again.toolset.digest != environment.toolset.digest:
        raise NotReproducible("the manifest reads back as another environment; its digest changed")
    return again
