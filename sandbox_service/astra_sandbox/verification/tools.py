"""The tools against the source and against their own schemas: names, imports, schema."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Protocol

import jsonschema_rs

from astra_api.canonical import canonical_json
from astra_api.environment import EnvironmentSpec
from astra_sandbox.verification.python_source import PythonSource
from astra_sandbox.verification.verdict import Finding, Reason


class ArgumentsValidator(Protocol):
    """What the checks need of a compiled JSON Schema."""

    def is_valid(self, instance: Any) -> bool: ...

    def iter_errors(self, instance: Any) -> Iterator[Any]: ...


class SchemaInvalid(ValueError):
    """The parameters are no JSON Schema that stands alone."""


def compile_schema(parameters: Mapping[str, Any]) -> ArgumentsValidator:
    """A validator of the arguments object. Raises SchemaInvalid; never fetches a remote reference."""
    return _compiled(canonical_json(parameters))


@lru_cache(maxsize=256)
def _compiled(parameters: bytes) -> ArgumentsValidator:
    try:
        validator: ArgumentsValidator = jsonschema_rs.validator_for(
            parameters.decode(), retriever=_refuse_remote, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise SchemaInvalid(str(error).partition("\n")[0]) from None
    return validator


def _refuse_remote(uri: str) -> Any:
    raise ValueError(f"{uri} is a remote reference")


def check_names(spec: EnvironmentSpec, source: PythonSource | None) -> Iterator[Finding]:
    """Distinct tools, each a public top-level function that prints nothing; every call names one of them."""
    first: dict[str, int] = {}
    for index, tool in enumerate(spec.tools):
        field = f"spec.tools[{index}].name"
        if first.setdefault(tool.name, index) != index:
            yield _name(
                Reason.DUPLICATE_NAME, f"{field}: {tool.name} is taken by spec.tools[{first[tool.name]}]; rename one"
            )
        elif source is not None and tool.name not in source.functions:
            yield _name(
                Reason.TOOL_NOT_DEFINED,
                f"{field}: spec.source has no top-level `def {tool.name}(...)`; define it there, outside any block",
            )
        elif source is not None and tool.name in source.duplicates:
            line = source.duplicates[tool.name]
            yield _name(
                Reason.DUPLICATE_NAME, f"spec.source line {line}: {tool.name} is defined a second time; rename one"
            )
    for index, step in enumerate(spec.steps):
        if step.call is not None and step.call.tool not in first:
            yield _name(
                Reason.UNKNOWN_TOOL,
                f"spec.steps[{index}].call.tool: spec.tools has no {step.call.tool}; "
                f"name one of {', '.join(sorted(first))}",
            )
    for writer, line in source.prints if source is not None else ():
        message = f"spec.source line {line}: {writer} writes noise; return the result and print nothing"
        yield _name(Reason.PRINTS_OUTPUT, message)


def check_imports(source: PythonSource) -> Iterator[Finding]:
    """The standard library only, found by reading."""
    for module, line in source.foreign_imports():
        if not module:
            problem = "imports a module whose name cannot be read"
        elif module.startswith("."):
            problem = "has a relative import, and the source is one module"
        else:
            problem = f"imports {module}, which is not in the standard library of Python 3.11 and 3.12"
        message = f"spec.source line {line}: {problem}; import the standard library by literal names only"
        yield Finding("imports", Reason.FORBIDDEN_IMPORT, message)


def check_schema(spec: EnvironmentSpec, source: PythonSource | None) -> Iterator[Finding]:
    """Parameters are a JSON Schema of an object, the functions can take them, and the gold arguments satisfy it."""
    validators: dict[str, ArgumentsValidator] = {}
    for index, tool in enumerate(spec.tools):
        field = f"spec.tools[{index}].parameters"
        try:
            validators[tool.name] = compile_schema(tool.parameters)
        except SchemaInvalid as error:
            message = f"{field}: {error}; write a self-contained JSON Schema (draft 2020-12)"
            yield _schema(Reason.SCHEMA_INVALID, message)
            continue
        if tool.parameters.get("type") != "object":
            yield _schema(Reason.SCHEMA_INVALID, f"{field}.type: arguments are an object; write type: object")
        function = source.functions.get(tool.name) if source is not None else None
        if function is not None:
            for mismatch in _signature_problems(function, tool.parameters):
                yield _schema(Reason.SIGNATURE_MISMATCH, f"{field}{mismatch}")
    for index, step in enumerate(spec.steps):
        validator = validators.get(step.call.tool) if step.call is not None else None
        if validator is not None and step.call is not None:
            for problem in validator.iter_errors(step.call.arguments):
                where = _path(problem.instance_path)
                yield _schema(
                    Reason.ARGUMENTS_INVALID,
                    f"spec.steps[{index}].call.arguments{where}: {problem.message}; "
                    f"satisfy the parameters of {step.call.tool}",
                )


def _signature_problems(function: ast.FunctionDef, parameters: Mapping[str, Any]) -> Iterator[str]:
    """Tools are called by keyword with arguments that satisfy the schema: can the function take all of those?"""
    if function.decorator_list:
        return  # a decorator may change what it takes
    arguments = function.args
    named = [argument.arg for argument in [*arguments.args, *arguments.kwonlyargs]]
    optional = {argument.arg for argument in arguments.args[len(arguments.args) - len(arguments.defaults) :]} | {
        argument.arg
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is not None
    }
    properties = parameters.get("properties", {})
    required = parameters.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return  # the schema itself is invalid, and says so
    call = f"`def {function.name}`"
    if arguments.posonlyargs:
        yield f": {call} takes {arguments.posonlyargs[0].arg} by position only; tools are called by keyword"
    for name in properties:
        if name not in named and arguments.kwarg is None:
            yield f".properties.{name}: {call} has no parameter {name}; add it to the function or drop the property"
    for name in named:
        if name not in properties and name not in optional:
            yield f": {call} needs {name}, which is not in properties; describe it there or give it a default"
        elif name in properties and name not in required and name not in optional:
            yield f".required: {call} needs {name}; list it as required or give it a default"


def _path(keys: Iterable[str | int]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)


def _name(reason: Reason, message: str) -> Finding:
    return Finding("names", reason, message)


def _schema(reason: Reason, message: str) -> Finding:
    return Finding("schema", reason, message)
