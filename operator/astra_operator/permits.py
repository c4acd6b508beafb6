"""What of a run its farm does not permit: templates that clash with the operator's pods, images, Secrets. Pure."""

from collections.abc import Iterable

from astra_api.pod_template import PodTemplate
from astra_operator.accepting import Problem
from astra_operator.manifests.templates import Template, problems
from astra_operator.policy import SecretUse, admits_image, admits_secret, secrets_of
from astra_operator.settings import OperatorSettings


def template_problems(
    template: PodTemplate | None,
    field: str,
    pod: Template,
    settings: OperatorSettings,
    default: PodTemplate,
) -> list[Problem]:
    """Of the `podTemplate` that stands in `field`. `pod`: what the operator makes without it; `default`: the farm's."""
    if template is None:
        return []
    volumes = [volume.name for volume in default.spec.volumes]
    found = [Problem(f"{field}.{place}", message) for place, message in problems(template, pod, volumes)]
    uses = secrets_of(template.model_dump(mode="json", by_alias=True, exclude_none=True))
    return found + secret_problems([SecretUse(f"{field}.{use.field}", use.name) for use in uses], settings)


def image_problems(image: str | None, field: str, settings: OperatorSettings) -> list[Problem]:
    """Of an image that a run names; the farm's own need no permission."""
    if image is None or admits_image(settings.allowed_images, image):
        return []
    return [Problem(field, _refused(image, "images", settings.allowed_images))]


def secret_problems(uses: Iterable[SecretUse], settings: OperatorSettings) -> list[Problem]:
    """Of the Secrets that pods of a run would read."""
    refused = [use for use in uses if not admits_secret(settings.allowed_secrets, use.name)]
    return [Problem(use.field, _refused(use.name, "Secrets", settings.allowed_secrets)) for use in refused]


def _refused(name: str, kind: str, patterns: tuple[str, ...]) -> str:
    allowed = f"policy.allowed{kind.capitalize()}"
    return (
        f"{name!r} is none of the {kind} that this farm lets runs use ({allowed}: {', '.join(patterns)}); ask its admin"
    )
