"""Records to protobuf messages and back."""

import json
from typing import Literal

from astra_api.records import SessionLimits, ToolError, ToolErrorKind, ToolOutcome, ToolResult, Toolset, ToolSpec
from astra_api.sandbox.v1 import sandbox_pb2 as pb
from astra_sandbox.strict_json import read

MAX_ARGUMENT_BYTES = 1 << 20
MAX_NAME = 100  # characters of a tool name that are looked at
MESSAGE_BYTES = 16 << 20  # the largest gRPC message: a toolset with its source
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
]


def toolset_to_wire(toolset: Toolset) -> pb.PutToolsetRequest:
    """The put request of a toolset."""
    return pb.PutToolsetRequest(
        tools=[
            pb.Tool(name=tool.name, description=tool.description, parameters_json=json.dumps(tool.parameters))
            for tool in toolset.tools
        ],
        source=toolset.source,
        state=pb.STATEFUL if toolset.state == "stateful" else pb.STATELESS,
    )


def toolset_from_wire(request: pb.PutToolsetRequest) -> Toolset:
    """The toolset of a put request. Raises ValueError (pydantic's and StrictJsonError are) with the fault."""
    if request.state == pb.STATE_UNSPECIFIED:
        raise ValueError("state: give STATELESS or STATEFUL")
    tools = []
    for tool in request.tools:
        parameters = read(tool.parameters_json)
        if not isinstance(parameters, dict):
            raise ValueError(f"tool {tool.name[:100]!r}: parameters_json is not a JSON object")
        tools.append(ToolSpec(name=tool.name, description=tool.description, parameters=parameters))
    state: Literal["stateful", "stateless"] = "stateful" if request.state == pb.STATEFUL else "stateless"
    return Toolset(tools=tuple(tools), source=request.source, state=state)


def limits_to_wire(limits: SessionLimits | None) -> pb.SessionLimits:
    """Limits as a request carries them; what is None stays 0, the server's default."""
    return pb.SessionLimits(**limits.model_dump(exclude_none=True)) if limits else pb.SessionLimits()


def limits_from_wire(limits: pb.SessionLimits) -> SessionLimits:
    """Limits of a request; 0 becomes None."""
    names = SessionLimits.model_fields
    return SessionLimits(**{name: getattr(limits, name) or None for name in names})


def outcome_from_wire(response: pb.CallToolResponse) -> ToolOutcome:
    """The outcome that a response carries; not for responses that carry a failure."""
    if response.HasField("error"):
        error = response.error
        kind = ToolErrorKind(pb.ToolError.Kind.Name(error.kind))
        return ToolError(kind=kind, message=error.message, ended_process=error.ended_process)
    return ToolResult(json_text=response.result_json)


def unsendable(tool: str, arguments_json: str) -> ToolError | None:
    """The outcome of a call that no message can carry: too long, or not Unicode. A server would say the same."""
    try:
        size = len(arguments_json.encode())
        tool.encode()
    except UnicodeEncodeError:
        message = "the call is not Unicode text: it holds a lone surrogate"
        return ToolError(kind=ToolErrorKind.INVALID_ARGUMENTS, message=message)
    if size > MAX_ARGUMENT_BYTES:
        message = f"the arguments take more than {MAX_ARGUMENT_BYTES} bytes"
        return ToolError(kind=ToolErrorKind.INVALID_ARGUMENTS, message=message)
    if len(tool) > MAX_NAME:
        return ToolError(kind=ToolErrorKind.UNKNOWN_TOOL, message=no_such_tool(tool))
    return None


def no_such_tool(tool: str) -> str:
    """The message of UNKNOWN_TOOL. It lists nothing: a session may hold tools that were not offered."""
    return f"there is no tool named {tool[:MAX_NAME]!a}"
