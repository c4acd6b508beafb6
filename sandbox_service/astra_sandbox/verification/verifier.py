"""Verification of environments, one and many: reads, then runs, then says what was found."""

import asyncio
from collections.abc import Callable, Iterable

from astra_api.environment import Environment
from astra_sandbox.interface import CapacityExhausted, Sandbox, SandboxError, SandboxUnavailable, SessionLost
from astra_sandbox.verification.execution import Trial
from astra_sandbox.verification.reading import read_environment
from astra_sandbox.verification.verdict import (
    CHECKS,
    READING_CHECKS,
    CheckResult,
    Finding,
    Phase,
    Reason,
    Verdict,
    summary,
)

_INFRASTRUCTURE = (
    (SandboxUnavailable, Reason.SANDBOX_UNAVAILABLE),
    (CapacityExhausted, Reason.CAPACITY_EXHAUSTED),
    (SessionLost, Reason.SESSION_LOST),
    (SandboxError, Reason.SANDBOX_FAILED),
)


async def verify_environment(environment: Environment, sandbox: Sandbox) -> Verdict:
    """Every check of METHOD section 2. What the environment does wrong rejects it; nothing of that is raised.

    A SandboxError is no verdict: the phase stays Pending, with the failure as its reason.
    """
    checks: dict[str, CheckResult] = dict.fromkeys(CHECKS, "skipped")
    try:
        findings = read_environment(environment)
    except ValueError as error:
        return _verdict(environment, "Pending", checks, [Finding("gold", Reason.SOURCE_UNAVAILABLE, str(error))])
    checks.update(dict.fromkeys(READING_CHECKS, "passed"))
    checks.update({finding.check: "failed" for finding in findings})
    if findings:
        return _verdict(environment, "Rejected", checks, findings)
    trial = Trial(environment, sandbox)
    try:
        finding = await trial.run()
    except SandboxError as error:
        checks.update(dict.fromkeys(trial.passed, "passed"))
        reason = next(reason for kind, reason in _INFRASTRUCTURE if isinstance(error, kind))
        return _verdict(environment, "Pending", checks, [Finding("gold", reason, f"not verified: {error}")])
    checks.update(dict.fromkeys(trial.passed, "passed"))
    if finding is not None:
        checks[finding.check] = "failed"
        return _verdict(environment, "Rejected", checks, [finding])
    return _verdict(environment, "Verified", checks, [])


async def verify_all(
    environments: Iterable[Environment],
    sandbox: Sandbox,
    *,
    concurrency: int = 8,
    on_done: Callable[[Verdict], None] | None = None,
) -> list[Verdict]:
    """Verifies many, `concurrency` at a time; verdicts in the order given. `on_done` sees each as it is reached.

    Environments that share a toolset are verified each on its own: nothing of a verdict is carried over.
    """
    gate = asyncio.Semaphore(concurrency)

    async def verify(environment: Environment) -> Verdict:
        async with gate:
            verdict = await verify_environment(environment, sandbox)
        if on_done is not None:
            on_done(verdict)
        return verdict

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(verify(environment)) for environment in environments]
    return [task.result() for task in tasks]


def _verdict(
    environment: Environment, phase: Phase, checks: dict[str, CheckResult], findings: list[Finding]
) -> Verdict:
    reason, message = summary(findings)
    try:
        toolset = environment.toolset.digest
    except ValueError:
        toolset = None  # sourceRef is not resolved
    return Verdict(
        name=environment.name,
        phase=phase,
        digest=environment.digest,
        toolset=toolset,
        checks=checks,
        reason=reason,
        message=message,
    )
