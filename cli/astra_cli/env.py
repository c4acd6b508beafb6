"""`astra env`: verify environments in a sandbox, list them, and show one."""

import json
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.interrupts import interruptible
from astra_api.manifests import Manifest, ManifestError, read_manifests
from astra_api.watching import Display, display
from astra_api.yaml_writing import manifest_value
from astra_cli.options import Quiet
from astra_cli.shortages import require_limits

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Verify, list and show environments.")

_VERIFYING = "verifying"

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH...", help="Manifest files (of one or many documents) or folders.", show_default=False),
]


@app.command(epilog="Examples:\n\n  astra env verify envs/\n\n  astra env verify a.yaml b.yaml --json > verdicts.json")
def verify(
    paths: Paths,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Environments verified at the same time.")] = 16,
    quiet: Quiet = False,
) -> int:
    """Run every check of every environment in a sandbox.

    Exit code 0: all verified. 1: some were rejected, or could not be verified because the sandbox failed.
    2: a file or document cannot be read (the others are verified all the same).
    """
    from astra_cli.env_report import verdict_table

    require_limits()
    loaded, errors = _environments(paths)
    _tell(errors)
    verdicts: list[Any] = []
    if loaded:
        start = time.monotonic()
        with display(sys.stderr, quiet=quiet, keep=False) as shown:
            verdicts = interruptible(_verify([environment for _, environment in loaded], jobs, shown))
        print(_counts(verdicts, time.monotonic() - start), file=sys.stdout if quiet and not as_json else sys.stderr)
    rows = [
        {
            "file": str(manifest.file),
            "document": manifest.document,
            **verdict.model_dump(mode="json", exclude={"toolset"}),
        }
        for (manifest, _), verdict in zip(loaded, verdicts, strict=True)
    ]
    if as_json:
        _print_json(rows)
    elif rows and not quiet:
        _print_table(verdict_table(rows))
    if errors:
        return 2
    return 0 if all(verdict.verified for verdict in verdicts) else 1


async def _verify(environments: list[Environment], jobs: int, shown: Display) -> list[Any]:
    """Verdicts in order."""
    from astra_sandbox.launching import launch_local
    from astra_sandbox.verification import Verdict, verify_all

    phases: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        with shown.doing("starting a sandbox"):
            sandbox = await stack.enter_async_context(launch_local())
        shown.note(sandbox.containment)
        shown.begin(_VERIFYING, len(environments))

        def show(verdict: Verdict) -> None:
            phases[verdict.phase] += 1
            shown.advance(_VERIFYING, phases.total(), f"{phases['Rejected']} rejected")

        return await verify_all(environments, sandbox, concurrency=jobs, on_done=show)


def _counts(verdicts: list[Any], seconds: float) -> str:
    phases = Counter(verdict.phase for verdict in verdicts)
    counts = ", ".join(
        f"{phases[phase]} {phase.lower()}" for phase in ("Verified", "Rejected", "Pending") if phases[phase]
    )
    return f"{counts} in {seconds:.1f} s ({len(verdicts) / seconds:.0f} a second)"


@app.command(
    "list", epilog="Examples:\n\n  astra env list runs/small\n\n  astra env list envs/ --json | jq '.[] | .question'"
)
def list_(
    paths: Paths,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> int:
    """List environments: one row each, with its verdict where its file says one.

    Nothing is run. Exit code 2: a file or document cannot be read (the others are listed all the same).
    """
    from astra_cli.env_report import entry, environment_table

    loaded, errors = _environments(paths)
    _tell(errors)
    rows = [{"file": str(manifest.file), **entry(environment)} for manifest, environment in loaded]
    if as_json:
        _print_json(rows)
    elif rows:
        _print_table(environment_table(rows))
    return 2 if errors else 0


@app.command(
    epilog="Examples:\n\n  astra env show city.yaml\n\n  astra env show envs/ --name city-trip-0007 --png city.png\n\n"
    "  astra env show envs/ --json > all.json"
)
def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A manifest file or a folder.", show_default=False)],
    png: Annotated[Path | None, typer.Option(help="Draw the step graph into this file.", show_default=False)] = None,
    name: Annotated[
        str | None, typer.Option(help="Which environment, where there are several.", show_default=False)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print its manifest as JSON; a List, where there are several.")
    ] = False,
) -> int:
    """Show the question of an environment, its steps, and its tools."""
    from rich.console import Console

    from astra_cli.env_report import describe

    loaded, errors = _environments([path])
    if errors:
        raise errors[0]
    environments = [environment for _, environment in loaded if name in (None, environment.name)]
    if not environments:
        raise BadInput(f"--name {name}: {path} holds {_listed([environment.name for _, environment in loaded])}")
    if len(environments) > 1 and png is not None:
        raise BadInput(
            f"--png draws one environment: choose it with --name ({_listed([e.name for e in environments])})"
        )
    if png is not None:
        from astra_cli.step_drawing import draw_steps

        draw_steps(environments[0], png)
    if as_json:
        _print_json(_as_manifest(environments))
    else:
        console = Console()
        for environment in environments:
            console.print(describe(environment))
    if png is not None:
        print(f"drawn: {png}", file=sys.stderr if as_json else sys.stdout)
    return 0


def _as_manifest(environments: list[Environment]) -> Any:
    """The environment as `kubectl get -o json` would print it, with the status that its file has."""
    items = [manifest_value(environment) for environment in environments]
    return items[0] if len(items) == 1 else {"apiVersion": "v1", "kind": "List", "items": items}


def _tell(errors: list[BadInput]) -> None:
    for error in errors:
        print(f"error: {error}", file=sys.stderr)


def _print_json(value: Any) -> None:
    everything = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(value, ensure_ascii=not everything, indent=2))


def _print_table(table: Any) -> None:
    """Prints a table: as wide as a terminal is; in a file or a pipe one line a row, for `grep` and `cut`."""
    from rich.console import Console

    console = Console()
    if not sys.stdout.isatty():
        console = Console(width=max(console.width, console.measure(table, options=_endless(console)).maximum))
    console.print(table)


def _endless(console: Any) -> Any:
    return console.options.update(max_width=100_000)


def _environments(paths: list[Path]) -> tuple[list[tuple[Manifest, Environment]], list[BadInput]]:
    """The environments at the paths, and what could not be read. Runs that stand beside them are passed over."""
    loaded: list[tuple[Manifest, Environment]] = []
    errors: list[BadInput] = []
    for item in read_manifests(paths):
        if isinstance(item, ManifestError):
            errors.append(item)
        elif isinstance(item.resource, Environment):
            loaded.append((item, item.resource))
    if not loaded and not errors:
        errors.append(
            BadInput(f"{', '.join(map(str, paths))}: no document of kind Environment; give a file that has one")
        )
    return loaded, errors


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
