"""Environments out of an instance and tools: the trial of a single tool, and the whole."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from astra_api.canonical import canonical_json, parse_json
from astra_api.environment import Environment, EnvironmentSpec, GoldCall, Step, Tool
from astra_api.graph import scenario
from astra_api.records import ToolResult
from astra_api.resource import ObjectMeta
from astra_sandbox.interface import Sandbox, SandboxError
from astra_sandbox.verification import Verdict, verify_environment
from astra_synth.instances.plan import match_of
from astra_synth.instances.refinement import Instance
from astra_synth.rejection import Rejected


@dataclass(frozen=True)
class BuiltTool:
    """A tool, its module, and the arguments of every step that it answers."""

    tool: Tool
    source: str
    calls: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # step id -> arguments


@dataclass(frozen=True)
class Module:
    """All tools of an environment and the one module that defines them."""

    tools: tuple[Tool, ...]
    source: str
    calls: Mapping[str, GoldCall]  # step id -> call


class Workbench:
    """Where one item's tools are tried."""

    def __init__(self, name: str, instance: Instance, sandbox: Sandbox) -> None:
        self.name, self.instance, self._sandbox = name, instance, sandbox
        self.steps = {step.id: step for step in instance.plan.as_steps()}

    async def try_tool(self, built: BuiltTool) -> Verdict:
        """Every acceptance check, on one tool and the steps that it answers, taken by themselves."""
        calls = {step: GoldCall(tool=built.tool.name, arguments=given) for step, given in built.calls.items()}
        return await self.verify(self.environment(Module((built.tool,), built.source, calls), only=calls.keys()))

    def environment(
        self, module: Module, labels: Mapping[str, str] | None = None, only: Iterable[str] | None = None
    ) -> Environment:
        """The environment of a module; with `only`, of some steps. Raises Rejected for what no manifest can hold."""
        plan, chosen = self.instance.plan, set(self.steps if only is None else only)
        steps = [
            _step(step, module.calls.get(step.id), [parent for parent in step.depends_on if parent in chosen])
            for step in self.steps.values()
            if step.id in chosen
        ]
        try:
            return Environment(
                metadata=ObjectMeta(name=self.name, labels=dict(labels or {})),
                spec=EnvironmentSpec(
                    question=plan.question if only is None else steps[-1].question,
                    answer=plan.answer if only is None else steps[-1].answer,
                    language=self.instance.language,
                    domain=self.instance.domain,
                    scenario=scenario(steps),
                    steps=steps,
                    tools=list(module.tools),
                    source=module.source,
                    state="stateful" if plan.stateful else "stateless",
                ),
            )
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise Rejected("InvalidEnvironment", f"spec.{where}: {fault['msg']}") from None

    async def verify(self, environment: Environment) -> Verdict:
        """The verdict. Raises SandboxError where there is none: the infrastructure's failure rejects nothing."""
        verdict = await verify_environment(environment, self._sandbox)
        if verdict.phase == "Pending":
            raise SandboxError(f"{verdict.name} could not be verified: {verdict.message}")
        return verdict

    async def require_state(self, environment: Environment) -> None:
        """Raises Rejected unless a later answer is another one when a change was not made, for every change."""
        changing = {step.id for step in self.instance.plan.steps if step.changes_state}
        for left_out in sorted(changing):
            if not await self._missed(environment, left_out):
                problem = f"without the call of {left_out} every other answer stays the same"
                raise Rejected("StateUnused", f"{problem}; its change has no effect that is asked for")

    async def _missed(self, environment: Environment, left_out: str) -> bool:
        (session,) = await self._sandbox.open_sessions(environment.toolset, 1)
        try:
            for step in environment.spec.tool_steps:
                if step.id == left_out or step.call is None:
                    continue
                outcome = await session.call(step.call.tool, canonical_json(step.call.arguments).decode())
                if not isinstance(outcome, ToolResult) or not step.matches(parse_json(outcome.json_text)):
                    return True
        finally:
            await session.close()
        return False


def _step(step: Step, call: GoldCall | None, depends_on: list[str]) -> Step:
    match, tolerance = match_of(step.answer)
    update = {"call": call, "match": match, "tolerance": tolerance, "depends_on": depends_on}
    return step.model_copy(update=update)
