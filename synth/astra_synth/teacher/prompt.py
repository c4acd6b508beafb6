"""Prompts: a text in `prompts/`, the record that an answer to it must be, and nothing else."""

import json
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Any, Generic, TypeVar

import jinja2
from pydantic import BaseModel, ConfigDict, ValidationError

from astra_api.canonical import NotCanonicalError, parse_json
from astra_synth.teacher.errors import Malformed


class Reply(BaseModel):
    """Base of what a prompt asks for. What it holds besides is passed over; types are taken strictly."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


R = TypeVar("R", bound=Reply)


@dataclass(frozen=True)
class Prompt(Generic[R]):
    """A prompt by the name of its file, `prompts/<name>.md`."""

    name: str
    reply: type[R]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a reply: self-contained, closed, without references."""
        plain: dict[str, Any] = _plain(self.reply.model_json_schema(), {})
        return plain

    def messages(self, **values: Any) -> list[dict[str, str]]:
        """The conversation that asks. Raises jinja2.UndefinedError where a value is missing."""
        templates = _templates()
        form = json.dumps(self.schema, ensure_ascii=False)
        return [
            {"role": "system", "content": templates.get_template("system.md").render().strip()},
            {
                "role": "user",
                "content": templates.get_template(f"{self.name}.md").render(schema=form, **values).strip(),
            },
        ]

    def read(self, text: str) -> R:
        """The reply in a text. Raises Malformed, saying what is wrong in words that a model can act on."""
        try:
            value = parse_json(_json_part(text))
            if _GARBLED.search(json.dumps(value, ensure_ascii=False)):
                raise Malformed("it holds a character that could not be decoded (U+FFFD, or half of a pair)")
            return self.reply.model_validate(value)
        except NotCanonicalError as error:
            raise Malformed(f"no JSON object could be read: {error}") from None
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, fault['loc'])) or 'the answer'}: {fault['msg']}" for fault in error.errors()[:5]
            ]
            raise Malformed("; ".join(faults)) from None


_GARBLED = re.compile("[\ud800-\udfff\ufffd]")
_THOUGHT = re.compile(r"</think(?:ing)?>|\[/THINK\]")  # where thoughts end
_FENCED = re.compile(r"```\w*\s*\n(.*?)\n\s*```", re.DOTALL)


def _json_part(text: str) -> str:
    """What of an answer is meant to be JSON: without thoughts, fences and chatter around it. It is never completed."""
    ends = [0, *(match.end() for match in _THOUGHT.finditer(text))]
    parts = [_unwrapped(text[end:]) for end in reversed(ends)]
    if text.rfind("}") < ends[-1]:  # nothing came after the thoughts, and they are no answer
        return parts[0]
    return next(filter(_is_json, parts), parts[0])  # the mark may stand in a text of the answer, too


def _unwrapped(text: str) -> str:
    if not text.lstrip().startswith("{") and (fenced := _FENCED.findall(text)):
        text = fenced[-1]
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except NotCanonicalError:
        return False
    return True


def _plain(schema: Any, definitions: dict[str, Any]) -> Any:
    """A pydantic schema with its references written out, closed objects, and no titles."""
    if isinstance(schema, list):
        return [_plain(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    definitions = definitions or schema.get("$defs", {})
    if "$ref" in schema:
        return _plain(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            plain[key] = {name: _plain(item, definitions) for name, item in value.items()}
        elif key not in ("$defs", "title", "default"):
            plain[key] = _plain(value, definitions)
    if "properties" in plain:
        plain |= {"required": list(plain["properties"]), "additionalProperties": False}
    return plain


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    found = {
        file.name: file.read_text(encoding="utf-8")
        for file in files("astra_synth").joinpath("prompts").iterdir()
        if file.name.endswith(".md")
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(found), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment
