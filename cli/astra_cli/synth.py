"""`astra synth`: runs a SynthesisRun on this machine."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from astra_api.errors import BadInput
from astra_api.manifests import load_manifests
from astra_api.synthesis_run import SynthesisRun, SynthesisRunStatus

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from astra_synth.tables import Generator


def synth(
    file: Annotated[Path, typer.Option("-f", "--file", help="A manifest with one SynthesisRun.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Directory for what is made.", show_default=False)],
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Toolsets verified at the same time.")] = 4,
) -> int:
    """Make environments, verify each in a sandbox, and write their manifests.

    The same command again goes on where it stopped. Exit code 0: as many as asked for were made. 1: fewer, or the
    sandbox failed. 2: the run or its tables cannot be used.
    """
    from rich.console import Console

    try:
        from astra_synth.run import open_run
    except ImportError as error:
        raise BadInput(f"astra synth needs {error.name}; install astra-farm[sandbox,synth]") from None
    run = _the_run(file)
    err = Console(stderr=True)
    with err.status("reading tables"):
        generator = open_run(run, file.parent)
    status = asyncio.run(_synthesize(run, generator, out, jobs, err))
    console = Console()
    console.print(_summary(status))
    console.print(f"{status.phase}: {out}", markup=False, highlight=False, soft_wrap=True)
    return 0 if status.phase == "Succeeded" else 1


def _the_run(file: Path) -> SynthesisRun:
    found = [manifest.resource for manifest in load_manifests([file])]
    runs = [resource for resource in found if isinstance(resource, SynthesisRun)]
    if len(runs) != 1:
        raise BadInput(f"{file}: holds {len(runs)} documents of kind SynthesisRun; give a file with exactly one")
    return runs[0]


async def _synthesize(
    run: SynthesisRun, generator: "Generator", out: Path, jobs: int, err: "Console"
) -> SynthesisRunStatus:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from astra_sandbox.launching import launch_local
    from astra_synth.run import synthesize

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with launch_local() as sandbox:
        err.print(sandbox.containment, markup=False, highlight=False, soft_wrap=True)
        with Progress(*columns, console=err, transient=True) as progress:
            bar = progress.add_task("making environments", total=run.spec.count)

            def show(produced: int, rejected: int) -> None:
                progress.update(bar, completed=produced, description=f"making environments, {rejected} rejects")

            return await synthesize(run, generator, sandbox, out, show, concurrency=jobs)


def _summary(status: SynthesisRunStatus) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("what")
    table.add_column("count", justify="right")
    rows: list[tuple[str, Any]] = [("verified environments", status.produced), ("rejects", status.rejected)]
    rows += [(f"  {reason}", count) for reason, count in sorted(status.rejected_by.items(), key=lambda item: -item[1])]
    for name, count in rows:
        table.add_row(name, str(count))
    return table
