"""Many environments, a sandbox that fails, and what is in force where."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from astra_api.environment import Environment
from astra_api.records import ToolError, ToolErrorKind
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.fake import FakeSandbox
from astra_sandbox.interface import Sandbox, SandboxError
from astra_sandbox.verification import CHECKS, Verdict, verify_all, verify_environment

Maker = Callable[..., Environment]


@pytest.mark.asyncio(loop_scope="session")
async def test_bad_ones_do_not_stop_the_others(
    verifying_sandbox: Sandbox, city: dict[str, Any], one_tool: Maker
) -> None:
    good = Environment.model_validate(city)
    hanging = one_tool("def f(x):\n    while True:\n        pass\n", sandbox={"timeoutSeconds": 0.5})
    city["spec"]["steps"][0]["answer"] = 1
    wrong = Environment.model_validate(city)
    seen: list[Verdict] = []
    given = [good, hanging, wrong, good, hanging, good]
    verdicts = await verify_all(given, verifying_sandbox, concurrency=4, on_done=seen.append)
    assert [verdict.phase for verdict in verdicts] == [
        "Verified", "Rejected", "Rejected", "Verified", "Rejected", "Verified",
    ]  # fmt: skip
    assert verdicts[0].toolset == verdicts[2].toolset  # shared, and judged apart
    assert sorted(map(repr, seen)) == sorted(map(repr, verdicts))


@pytest.mark.asyncio(loop_scope="session")
async def test_no_session_is_left_open(verifying_sandbox: Sandbox, one_tool: Maker) -> None:
    environments = [
        one_tool("def f(x):\n    return {'a': 42, 'b': 1}[x]\n"),
        one_tool("def f(x):\n    return 43\n"),
        one_tool("def f(x):\n    return 42\n"),
    ]
    await verify_all(environments, verifying_sandbox)
    assert (await verifying_sandbox.status())[0].sessions == 0


async def test_a_sandbox_that_cannot_be_reached_is_no_verdict(city: dict[str, Any]) -> None:
    client = SandboxClient(["127.0.0.1:1"], retry=Retry(budget=0.2))
    verdict = await verify_environment(Environment.model_validate(city), client)
    await client.close()
    assert (verdict.phase, verdict.reason) == ("Pending", "SandboxUnavailable")
    assert verdict.checks["schema"] == "passed"
    assert {verdict.checks[name] for name in ("gold", "deterministic", "nonConstant", "assembled")} == {"skipped"}


async def test_a_sandbox_that_fails_on_the_way_is_no_verdict(city: dict[str, Any]) -> None:
    environment = Environment.model_validate(city)

    def population(city: str) -> int:
        return {"Paris": 2148000, "Rome": 2873000}[city]

    class Failing(FakeSandbox):
        async def open_sessions(self, *given: Any, variant: int = 0, **named: Any) -> Any:
            if variant:
                raise SandboxError("the second template is lost")
            return await super().open_sessions(*given, variant=variant, **named)

    verdict = await verify_environment(environment, Failing({"city_population": population}))
    assert (verdict.phase, verdict.reason) == ("Pending", "SandboxFailed")
    assert (verdict.checks["gold"], verdict.checks["deterministic"]) == ("passed", "skipped")
    assert "the second template is lost" in verdict.message
    sound = await verify_environment(environment, FakeSandbox({"city_population": population}))
    assert sound.verified


async def test_a_source_that_is_elsewhere_is_no_verdict(city: dict[str, Any]) -> None:
    city["spec"]["sourceRef"] = {"configMap": "sources", "key": "city.py"}
    source = city["spec"].pop("source")
    environment = Environment.model_validate(city)
    sandbox = FakeSandbox({"city_population": lambda city: {"Paris": 2148000, "Rome": 2873000}[city]})
    verdict = await verify_environment(environment, sandbox)
    assert (verdict.phase, verdict.reason, verdict.toolset) == ("Pending", "SourceUnavailable", None)
    assert (await verify_environment(environment.with_source(source), sandbox)).verified


async def test_every_error_kind_has_a_reason(city: dict[str, Any]) -> None:
    from astra_sandbox.verification.execution import Failed, GoldCall, _require_gold

    step = Environment.model_validate(city).spec.steps[0]
    for kind in ToolErrorKind:
        with pytest.raises(Failed) as failed:
            _require_gold("gold", GoldCall(0, step, "f", {}), ToolError(kind=kind, message="because"))
        assert "because" in failed.value.finding.message
        assert "; " in failed.value.finding.message


def test_the_checks_are_those_of_the_status() -> None:
    assert set(CHECKS) == {
        "gold", "deterministic", "nonConstant", "schema", "leakage",
        "imports", "topology", "leafOnly", "names", "assembled",
    }  # fmt: skip


def test_importing_it_needs_no_server() -> None:
    program = (
        "import sys, astra_sandbox.verification;"
        "print(sorted({'grpc', 'torch', 'kopf', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


async def test_cancelling_leaves_nothing_open(city: dict[str, Any]) -> None:
    sandbox = FakeSandbox({"city_population": lambda city: {"Paris": 2148000, "Rome": 2873000}[city]})
    given = [Environment.model_validate(city)] * 50
    task = asyncio.create_task(verify_all(given, sandbox, concurrency=50))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sandbox.sessions == {}
