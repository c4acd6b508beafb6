"""The checks that need no sandbox: everything that can be found by reading the environment."""

from astra_api.environment import Environment
from astra_sandbox.verification.leakage import check_leakage
from astra_sandbox.verification.python_source import PythonSource, SourceInvalid, read_source
from astra_sandbox.verification.questions import check_questions
from astra_sandbox.verification.tools import check_imports, check_names, check_schema
from astra_sandbox.verification.topology import check_leaf_only, check_topology
from astra_sandbox.verification.verdict import Finding, Reason


def read_environment(environment: Environment) -> list[Finding]:
    """What the checks names, imports, topology, leafOnly, schema and leakage find, in that order. Runs nothing.

    Raises ValueError while `sourceRef` is unresolved.
    """
    spec = environment.spec
    findings: list[Finding] = []
    source: PythonSource | None = None
    try:
        source = read_source(environment.toolset.source)
    except SourceInvalid as error:
        message = f"spec.source: not Python: {error}; write one module that Python 3.11 can parse"
        findings.append(Finding("imports", Reason.SOURCE_INVALID, message))
    findings.extend(check_names(spec, source))
    findings.extend(check_imports(source) if source is not None else ())
    findings.extend(check_topology(spec))
    findings.extend(check_leaf_only(spec))
    findings.extend(check_schema(spec, source))
    findings.extend(check_leakage(spec))
    findings.extend(check_questions(spec))
    return findings
