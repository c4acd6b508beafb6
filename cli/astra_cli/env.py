"""`astra env`: verify environments in a sandbox, and show one."""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.manifests import Manifest, ManifestError, read_manifests

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Verify and show environments.")

_PIPE_WIDTH = 240  # columns of a table that goes to a file or a pipe

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH...", help="Manifest files (of one or many documents) or folders.", show_default=False),
]


@app.command(epilog="Examples:\n\n  astra env verify envs/\n\n  astra env verify a.yaml b.yaml --json > verdicts.json")
def verify(
    paths: Paths,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Environments verified at the same time.")] = 16,
) -> int:
    """Run every check of every environment in a sandbox.

    Exit code 0: all verified. 1: some were rejected, or could not be verified because the sandbox failed.
    2: a file or document cannot be read (the others are verified all the same).
    """
    from rich.console import Console

    from astra_cli.env_report import verdict_table

    err = Console(stderr=True)
    loaded, errors = _environments(paths)
    for error in errors:
        err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    verdicts = asyncio.run(_verify([environment for _, environment in loaded], jobs, err)) if loaded else []
    rows = [
        {
            "file": str(manifest.file),
            "document": manifest.document,
            **verdict.model_dump(mode="json", exclude={"toolset"}),
        }
        for (manifest, _), verdict in zip(loaded, verdicts, strict=True)
    ]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
    elif rows:
        Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(verdict_table(rows))
    if errors:
        return 2
    return 0 if all(verdict.verified for verdict in verdicts) else 1


async def _verify(environments: list[Environment], jobs: int, err: Any) -> list[Any]:
    """Verdicts in order, with a progress bar and a closing line on standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from astra_sandbox.launching import launch_local
    from astra_sandbox.verification import Verdict, verify_all

    phases: Counter[str] = Counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with launch_local() as sandbox:
        err.print(sandbox.containment, markup=False, highlight=False, soft_wrap=True)
        start = time.monotonic()
        with Progress(*columns, console=err, transient=True) as progress:
            bar = progress.add_task("verifying", total=len(environments))

            def show(verdict: Verdict) -> None:
                phases[verdict.phase] += 1
                progress.update(bar, advance=1, description=f"verifying, {phases['Rejected']} rejected")

            verdicts = await verify_all(environments, sandbox, concurrency=jobs, on_done=show)
    seconds = time.monotonic() - start
    counts = ", ".join(
        f"{phases[phase]} {phase.lower()}" for phase in ("Verified", "Rejected", "Pending") if phases[phase]
    )
    err.print(f"{counts} in {seconds:.1f} s ({len(verdicts) / seconds:.0f} a second)", highlight=False)
    return verdicts


@app.command(
    epilog="Examples:\n\n  astra env show city.yaml\n\n  astra env show envs/ --name city-trip-0007 --png city.png"
)
def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A manifest file or a folder.", show_default=False)],
    png: Annotated[Path | None, typer.Option(help="Draw the step graph into this file.", show_default=False)] = None,
    name: Annotated[
        str | None, typer.Option(help="Which environment, where there are several.", show_default=False)
    ] = None,
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
    console = Console()
    for environment in environments:
        console.print(describe(environment))
    if png is not None:
        console.print(f"drawn: {png}", markup=False, highlight=False, soft_wrap=True)
    return 0


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
