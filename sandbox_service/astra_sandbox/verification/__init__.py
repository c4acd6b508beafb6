"""Verification of an Environment (METHOD section 2): what can be read is read, what must be run runs in a sandbox.

    verdict = await verify_environment(environment, sandbox)
    verdicts = await verify_all(environments, sandbox, concurrency=8, on_done=show)

Every check is repeatable: perturbations are a function of the environment's digest. An infrastructure failure is never
a verdict: the phase then stays Pending.
"""

from astra_sandbox.verification.verdict import CHECKS, Finding, Reason, Verdict
from astra_sandbox.verification.verifier import verify_all, verify_environment

__all__ = ["CHECKS", "Finding", "Reason", "Verdict", "verify_all", "verify_environment"]
