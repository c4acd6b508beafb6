"""Teacher: asks an endpoint within a budget, keeps every answer, asks again where one cannot be read."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from astra_api.records import Record
from astra_api.synthesis_run import Teacher as TeacherSpec
from astra_api.synthesis_run import TeacherBudget
from astra_synth.teacher.calls import Call, Calls
from astra_synth.teacher.completion import FILTER, LENGTH
from astra_synth.teacher.endpoint import Answer, Endpoint, most_tokens
from astra_synth.teacher.errors import BudgetExhausted, CallFailed, CutShort, Malformed, Refused, Unusable
from astra_synth.teacher.keys import read_key
from astra_synth.teacher.prompt import Prompt, Reply

TEACHER_KEY, JUDGE_KEY = "ASTRA_TEACHER_API_KEY", "ASTRA_JUDGE_API_KEY"
_MISREAD = 2000  # characters of a bad answer that are shown to its author again

R = TypeVar("R", bound=Reply)
Check = Callable[[R], "tuple[str, str] | None"]  # (reason, message) of what cannot be used


class Usage(Record):
    """What calls cost, whether they were paid for now or at an earlier start."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost=self.cost + other.cost,
        )

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Budget:
    """What is left to spend. A call is let through only when it fits even if it uses all the tokens it may."""

    def __init__(self, limits: TeacherBudget, spent: Usage, field: str = "spec.teacher") -> None:
        self._limits, self._calls, self._tokens = limits, spent.calls, spent.tokens
        self._field = f"{field}.budget"
        self._start = time.monotonic()

    @contextlib.contextmanager
    def reserve(self, tokens: int) -> Any:
        """Holds one call of at most so many tokens; yields how to say what it came to. Raises BudgetExhausted."""
        limits = self._limits
        if limits.calls is not None and self._calls >= limits.calls:
            raise BudgetExhausted(f"{self._field}.calls: all {limits.calls} are spent")
        if limits.tokens is not None and self._tokens + tokens > limits.tokens:
            left = max(0, limits.tokens - self._tokens)
            raise BudgetExhausted(
                f"{self._field}.tokens: {left} of {limits.tokens} are left, and the next call may use {tokens}"
            )
        if limits.seconds is not None and time.monotonic() - self._start >= limits.seconds:
            raise BudgetExhausted(f"{self._field}.seconds: {limits.seconds:g} s have passed")
        self._calls, self._tokens = self._calls + 1, self._tokens + tokens
        used = [0, 0]  # calls, tokens
        try:
            yield lambda answer: used.__setitem__(slice(None), [1, answer.prompt_tokens + answer.completion_tokens])
        finally:
            self._calls, self._tokens = self._calls - 1 + used[0], self._tokens - tokens + used[1]


class Desk:
    """One endpoint with its budget and a limit of calls under way; the teacher's, or the judge's."""

    def __init__(
        self, spec: TeacherSpec, key: str | None, calls: Calls, field: str, environ: Mapping[str, str]
    ) -> None:
        self.spec, self._calls = spec, calls
        self._endpoint = Endpoint(spec, key, field, environ)
        spent = Usage()
        if spec.budget.calls is not None or spec.budget.tokens is not None:
            mine = (call for call in calls if call.request.get("model") == spec.model)
            spent = sum((usage_of(call.answer, spec) for call in mine), spent)
        self._budget = Budget(spec.budget, spent, field)
        self._gate = asyncio.Semaphore(spec.concurrency)
        self._under_way: dict[str, asyncio.Task[Answer]] = {}

    async def answer(self, prompt: str, messages: list[dict[str, str]], schema: dict[str, Any], seed: int) -> Answer:
        """The answer, from disk where it was given before."""
        request = {
            "model": self.spec.model,
            "messages": messages,
            "schema": schema,
            "temperature": self.spec.temperature,
            "max_tokens": self.spec.max_tokens,
            "seed": seed,
        }
        key = self._calls.key(request)
        if known := self._calls.get(key):
            return known.answer
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._pay(prompt, request, key))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(task)  # whoever gives up waiting, what is paid for is kept

    async def _pay(self, prompt: str, request: dict[str, Any], key: str) -> Answer:
        async with self._gate:
            with self._budget.reserve(sum(most_tokens(request))) as spend:
                start = time.monotonic()
                answer = await self._endpoint.send(request, key)
                spend(answer)
                seconds = round(time.monotonic() - start, 3)
                self._calls.put(key, Call(prompt=prompt, request=request, answer=answer, seconds=seconds))
        return answer

    async def close(self) -> None:
        """Waits for the calls under way, for they are paid for, and lets those that still wait in line go."""
        if self._gate.locked():
            self._budget = Budget(TeacherBudget(calls=1), Usage(calls=1))
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        await self._endpoint.close()


@dataclass(frozen=True)
class Teacher:
    """The author of everything, and the judge of it."""

    author: Desk
    judge: Desk
    reasks: int

    def enquiry(self, seed: int) -> "Enquiry":
        """Questions on one item. The seed goes to the model and tells like questions of different items apart."""
        return Enquiry(self, seed)


@dataclass
class Enquiry:
    """The questions on one item, and what they cost by stage."""

    teacher: Teacher
    seed: int
    stage: str = ""
    asked: int = 0
    spent: dict[str, Usage] = field(default_factory=dict)

    async def ask(self, prompt: Prompt[R], *, check: Check[R] | None = None, judge: bool = False, **values: Any) -> R:
        """A reply that could be read and that `check` finds nothing against.

        A reply that fails goes back with what is wrong with it, a bounded number of times. Raises TeacherError.
        """
        desk = self.teacher.judge if judge else self.teacher.author
        asked = prompt.messages(**values)
        messages = asked
        for attempt in range(self.teacher.reasks + 1):
            self.asked += 1  # the same words once more, after a repair that changed nothing, are another question
            answer = await desk.answer(prompt.name, messages, prompt.schema, self.seed + self.asked)
            self.spent[self.stage] = self.spent.get(self.stage, Usage()) + usage_of(answer, desk.spec)
            try:
                reply = _read(prompt, answer)
                if check is None or (wrong := check(reply)) is None:
                    return reply
                raise Unusable(*wrong)
            except (Malformed, CutShort, Unusable) as failure:
                if attempt == self.teacher.reasks:
                    raise
                messages = [*asked, *_again(answer, failure)]
        raise AssertionError("unreachable")


def _read(prompt: Prompt[R], answer: Answer) -> R:
    finish = answer.finish.casefold()
    if answer.refusal or finish in FILTER:
        raise Refused(f"{prompt.name}: {answer.refusal or f'stopped by a content filter ({answer.finish})'}"[:500])
    if finish in LENGTH:
        raise CutShort(f"{prompt.name}: the answer ended early ({answer.finish})")
    try:
        return prompt.read(answer.text)
    except Malformed as error:
        raise Malformed(f"{prompt.name}: {error}") from None


def _again(answer: Answer, failure: CallFailed) -> list[dict[str, str]]:
    said = [{"role": "assistant", "content": answer.text[:_MISREAD]}] if answer.text.strip() else []
    advice = "It has to be shorter." if isinstance(failure, CutShort) else "Mend that, and answer in full again."
    return [*said, {"role": "user", "content": f"That cannot be used: {failure}. {advice} One JSON object, no more."}]


def usage_of(answer: Answer, spec: TeacherSpec) -> Usage:
    price = spec.price
    cost = (answer.prompt_tokens * price.input + answer.completion_tokens * price.output) / 1e6
    return Usage(calls=1, prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens, cost=cost)


@contextlib.asynccontextmanager
async def open_teacher(
    author: TeacherSpec,
    judge: TeacherSpec | None,
    directory: Path,
    *,
    reasks: int = 2,
    environ: Mapping[str, str] = os.environ,
) -> AsyncIterator[Teacher]:
    """A teacher whose answers are kept in `directory`. Keys come from the environment, as a Secret would set them.
    Raises Misconfigured, which shows none of them.

    On leaving, calls under way are waited for and kept.
    """
    calls = Calls(directory)
    key = read_key(environ, TEACHER_KEY)
    desks = [Desk(author, key, calls, "spec.teacher", environ)]
    if judge is not None:
        desks.append(Desk(judge, read_key(environ, JUDGE_KEY) or key, calls, "spec.judge", environ))
    try:
        yield Teacher(desks[0], desks[-1], reasks)
    finally:
        for desk in desks:
            await desk.close()
