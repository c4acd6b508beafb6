from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATELESS: _ClassVar[State]
    STATEFUL: _ClassVar[State]

class Isolation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ISOLATION_UNSPECIFIED: _ClassVar[Isolation]
    PROCESS: _ClassVar[Isolation]
    NAMESPACES: _ClassVar[Isolation]
    GVISOR: _ClassVar[Isolation]
STATE_UNSPECIFIED: State
STATELESS: State
STATEFUL: State
ISOLATION_UNSPECIFIED: Isolation
PROCESS: Isolation
NAMESPACES: Isolation
GVISOR: Isolation

class Tool(_message.Message):
    __slots__ = ("name", "description", "parameters_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    parameters_json: str
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., parameters_json: _Optional[str] = ...) -> None: ...

class PutToolsetRequest(_message.Message):
    __slots__ = ("tools", "source", "state")
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    tools: _containers.RepeatedCompositeFieldContainer[Tool]
    source: str
    state: State
    def __init__(self, tools: _Optional[_Iterable[_Union[Tool, _Mapping]]] = ..., source: _Optional[str] = ..., state: _Optional[_Union[State, str]] = ...) -> None: ...

class PutToolsetResponse(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class SessionLimits(_message.Message):
    __slots__ = ("call_seconds", "cpu_seconds", "memory_bytes", "processes", "open_files", "file_bytes", "output_bytes")
    CALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    call_seconds: float
    cpu_seconds: float
    memory_bytes: int
    processes: int
    open_files: int
    file_bytes: int
    output_bytes: int
    def __init__(self, call_seconds: _Optional[float] = ..., cpu_seconds: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., processes: _Optional[int] = ..., open_files: _Optional[int] = ..., file_bytes: _Optional[int] = ..., output_bytes: _Optional[int] = ...) -> None: ...

class OpenSessionsRequest(_message.Message):
    __slots__ = ("request_id", "digest", "count", "seed", "limits", "variant")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    digest: str
    count: int
    seed: int
    limits: SessionLimits
    variant: int
    def __init__(self, request_id: _Optional[str] = ..., digest: _Optional[str] = ..., count: _Optional[int] = ..., seed: _Optional[int] = ..., limits: _Optional[_Union[SessionLimits, _Mapping]] = ..., variant: _Optional[int] = ...) -> None: ...

class OpenSessionsResponse(_message.Message):
    __slots__ = ("session_ids",)
    SESSION_IDS_FIELD_NUMBER: _ClassVar[int]
    session_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class CallToolRequest(_message.Message):
    __slots__ = ("session_id", "call_id", "tool", "arguments_json")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    call_id: str
    tool: str
    arguments_json: str
    def __init__(self, session_id: _Optional[str] = ..., call_id: _Optional[str] = ..., tool: _Optional[str] = ..., arguments_json: _Optional[str] = ...) -> None: ...

class ToolError(_message.Message):
    __slots__ = ("kind", "message", "ended_process")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[ToolError.Kind]
        UNKNOWN_TOOL: _ClassVar[ToolError.Kind]
        INVALID_ARGUMENTS: _ClassVar[ToolError.Kind]
        RAISED: _ClassVar[ToolError.Kind]
        TIMED_OUT: _ClassVar[ToolError.Kind]
        OUT_OF_MEMORY: _ClassVar[ToolError.Kind]
        OUTPUT_TOO_LARGE: _ClassVar[ToolError.Kind]
    KIND_UNSPECIFIED: ToolError.Kind
    UNKNOWN_TOOL: ToolError.Kind
    INVALID_ARGUMENTS: ToolError.Kind
    RAISED: ToolError.Kind
    TIMED_OUT: ToolError.Kind
    OUT_OF_MEMORY: ToolError.Kind
    OUTPUT_TOO_LARGE: ToolError.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ENDED_PROCESS_FIELD_NUMBER: _ClassVar[int]
    kind: ToolError.Kind
    message: str
    ended_process: bool
    def __init__(self, kind: _Optional[_Union[ToolError.Kind, str]] = ..., message: _Optional[str] = ..., ended_process: bool = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class CallToolResponse(_message.Message):
    __slots__ = ("session_id", "call_id", "result_json", "error", "failure")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    call_id: str
    result_json: str
    error: ToolError
    failure: Failure
    def __init__(self, session_id: _Optional[str] = ..., call_id: _Optional[str] = ..., result_json: _Optional[str] = ..., error: _Optional[_Union[ToolError, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class CloseSessionsRequest(_message.Message):
    __slots__ = ("session_ids",)
    SESSION_IDS_FIELD_NUMBER: _ClassVar[int]
    session_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class CloseSessionsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("isolation", "measures", "capacity", "sessions", "toolsets", "version")
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    TOOLSETS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    isolation: Isolation
    measures: _containers.RepeatedScalarFieldContainer[str]
    capacity: int
    sessions: int
    toolsets: int
    version: str
    def __init__(self, isolation: _Optional[_Union[Isolation, str]] = ..., measures: _Optional[_Iterable[str]] = ..., capacity: _Optional[int] = ..., sessions: _Optional[int] = ..., toolsets: _Optional[int] = ..., version: _Optional[str] = ...) -> None: ...
