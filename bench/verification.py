"""How many environments a second are verified here, at each containment that this machine offers.

    python bench/verification.py [--count 300] [--toolsets 30]

Each environment has three steps: two look-ups in a table of 400 rows, and a sum.
"""

import argparse
import asyncio
import time

from astra_api.environment import Environment
from astra_sandbox.interface import Isolation, SandboxUnavailable
from astra_sandbox.launching import launch_local
from astra_sandbox.verification import verify_all


def environment(index: int, toolsets: int) -> Environment:
    """Environment `index`; its table is that of toolset `index % toolsets`."""
    table = {f"Place {index % toolsets}-{row}": (row * 7919 + index % toolsets) % 100_003 for row in range(400)}
    names = list(table)
    first, second = names[index % 400], names[(index * 7 + 1) % 400]
    total = table[first] + table[second]
    text = {"type": "string"}
    number = {"type": "integer"}
    steps = [
        {"id": "a", "question": "A?", "answer": table[first], "call": _call("population", place=first)},
        {"id": "b", "question": "B?", "answer": table[second], "call": _call("population", place=second)},
        {
            "id": "c",
            "question": "Sum?",
            "answer": total,
            "dependsOn": ["a", "b"],
            "call": _call("add", left=table[first], right=table[second]),
        },
    ]
    spec = {
        "question": f"How many people live in {first} and {second} together?",
        "answer": total,
        "domain": "bench",
        "scenario": "parallel-multi-hop",
        "steps": steps,
        "tools": [
            _tool("population", "Population of a place.", place=text),
            _tool("add", "Sum of two whole numbers.", left=number, right=number),
        ],
        "source": f"_ROWS = {table!r}\n\ndef population(place):\n    return _ROWS[place]\n\n"
        "def add(left, right):\n    return left + right\n",
    }
    return Environment.model_validate({"metadata": {"name": f"bench-{index}"}, "spec": spec})


def _call(tool: str, **arguments: object) -> dict[str, object]:
    return {"tool": tool, "arguments": arguments}


def _tool(name: str, description: str, **properties: object) -> dict[str, object]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"name": name, "description": description, "parameters": parameters}


async def measure(environments: list[Environment], level: Isolation, jobs: int) -> None:
    """Prints one line for one containment."""
    try:
        async with launch_local(level=level) as sandbox:
            start = time.perf_counter()
            verdicts = await verify_all(environments, sandbox, concurrency=jobs)
            seconds = time.perf_counter() - start
    except SandboxUnavailable as error:
        print(f"{level.name.lower():<11} not here: {error}")
        return
    verified = sum(verdict.verified for verdict in verdicts)
    figures = f"{verified}/{len(verdicts)} verified in {seconds:6.2f} s: {len(verdicts) / seconds:6.1f} a second"
    print(f"{level.name.lower():<11} jobs {jobs:<3} {figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--toolsets", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=16)
    options = parser.parse_args()
    environments = [environment(index, options.toolsets) for index in range(options.count)]
    for level in Isolation:
        asyncio.run(measure(environments, level, options.jobs))


if __name__ == "__main__":
    main()
