"""What a teacher drafts of tools, as records, and the prompts that ask for it."""

from typing import Annotated, Any

from pydantic import Field

from astra_api.environment import StepId, Tool
from astra_api.resource import Json
from astra_synth.teacher import Prompt, Reply

Arguments = Annotated[dict[str, Json], Field(max_length=64)]
Code = Annotated[str, Field(min_length=1, max_length=100_000)]


class ToolDocument(Reply):
    """What a model is told of a tool."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_]{0,63}$")]
    description: Annotated[str, Field(min_length=1, max_length=4096)]
    parameters: dict[str, Json]

    @property
    def tool(self) -> Tool:
        return Tool(name=self.name, description=self.description, parameters=self.parameters)


class GoldArguments(Reply):
    """The arguments of a step's call."""

    arguments: Arguments


class ToolSource(Reply):
    """A Python module."""

    source: Code


class WholeTool(ToolDocument):
    """A tool with its call and its code."""

    arguments: Arguments
    source: Code


class Clusters(Reply):
    """Groups of steps that one tool could answer."""

    clusters: Annotated[list[Annotated[list[StepId], Field(max_length=32)]], Field(max_length=32)]


class StepArguments(Reply):
    id: StepId
    arguments: Arguments


class MergedTool(ToolDocument):
    """One tool for several steps."""

    calls: Annotated[list[StepArguments], Field(max_length=32)]
    source: Code


TOOL_DOCUMENT = Prompt("tool_document", ToolDocument)
SCALE_TOOL = Prompt("scale_tool", ToolDocument)
GOLD_CALL = Prompt("gold_call", GoldArguments)
TOOL_SOURCE = Prompt("tool_source", ToolSource)
REPAIR_TOOL = Prompt("repair_tool", WholeTool)
STATE_MODULE = Prompt("state_module", ToolSource)
MERGE_CLUSTERS = Prompt("merge_clusters", Clusters)
MERGE_TOOLS = Prompt("merge_tools", MergedTool)


def shown(tool: Tool) -> dict[str, Any]:
    """A tool as prompts show it."""
    return tool.model_dump(mode="json")
