"""Results that no JSON holds, or that say what they are not."""

from adversary.arenas import Arena
from adversary.probing import Topic, attacker

probe = Topic("results")


async def _accepted(arena: Arena, expression: str) -> bool:
    outcome = await (await attacker(arena, f"def attack(): return {expression}")).call("attack")
    if outcome.text is None:
        return outcome.error in ("DEAD", "HANGS")
    return True


@probe
async def not_a_number(arena: Arena) -> bool:
    return await _accepted(arena, "{'x': float('nan')}")


@probe
async def a_huge_integer(arena: Arena) -> bool:
    return await _accepted(arena, "10 ** 400")


@probe
async def a_lone_surrogate(arena: Arena) -> bool:
    return await _accepted(arena, "'\\ud800'")


@probe
async def deep_nesting(arena: Arena) -> bool:
    return await _accepted(arena, "__import__('functools').reduce(lambda inner, _: [inner], range(500), 1)")


@probe
async def a_subclass_that_lies(arena: Arena) -> bool:
    """A number whose text is another one when it is written."""
    outcome = await (
        await attacker(
            arena,
            """
            class Liar(int):
                def __repr__(self): return "1e999"
                __str__ = __repr__
            class Late(dict):
                def items(self): return [("a", float("nan"))]
            def attack(): return [Liar(1), Late(a=1)]
            """,
        )
    ).call("attack")
    if outcome.text is None:
        return outcome.error in ("DEAD", "HANGS")
    return outcome.text not in ('[1,{"a":1}]', '[1, {"a": 1}]')
