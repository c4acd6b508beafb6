"""`astra synth`: runs a SynthesisRun on this machine."""

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from astra_api.errors import BadInput
from astra_api.interrupts import interruptible
from astra_api.manifests import load_manifests
from astra_api.synthesis_run import SynthesisRun, SynthesisRunStatus
from astra_api.watching import Display, display
from astra_cli.options import Quiet, Settings, with_settings
from astra_cli.output_folder import alone_in, writable
from astra_cli.shortages import require_limits

if TYPE_CHECKING:
    from rich.table import Table

    from astra_synth.accounts import Accounts
    from astra_synth.run import Source

_MAKING = "environments"
EPILOG = """Examples:

  astra synth -f examples/synthesis/geography.yaml --out runs/geography

  astra synth -f run.yaml --out runs/more --set spec.count=2000 --set spec.seed=1
"""


def synth(
    file: Annotated[Path, typer.Option("-f", "--file", help="A manifest with one SynthesisRun.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Directory for what is made.", show_default=False)],
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Toolsets verified at the same time.")] = 4,
    cache: Annotated[
        Path | None, typer.Option(help="Directory of a teacher's answers, to share by runs. Default: OUT/teacher.")
    ] = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> int:
    """Make environments, verify each in a sandbox, and write their manifests and a report.

    The same command again goes on where it stopped, and pays a teacher for nothing twice. The teacher's key is read
    from ASTRA_TEACHER_API_KEY (the judge's from ASTRA_JUDGE_API_KEY). Exit code 0: as many as asked for were made. 1:
    fewer, or the sandbox or the teacher failed. 2: the run or its source cannot be used.
    """
    from rich.console import Console

    try:
        from astra_synth.accounts import Accounts
        from astra_synth.output import read_unasked
        from astra_synth.report import write_report
        from astra_synth.run import open_run
        from astra_synth.teacher import TeacherError
    except ImportError as error:
        raise BadInput(f"astra synth needs {error.name}; install astra-farm[sandbox,synth]") from None
    run = with_settings(_the_run(file), settings)
    writable(out)
    require_limits()
    accounts = Accounts()
    try:
        with display(sys.stderr, quiet=quiet, keep=False) as shown:
            with shown.doing("reading what to draw from"):
                source = open_run(run, file.parent, cache)
            with alone_in(out):
                status = interruptible(_synthesize(run, source, out, jobs, accounts, shown))
            with shown.doing("writing the report"):
                page = write_report(out)
    except TeacherError as error:
        if isinstance(error, BadInput):
            raise
        problem = f"error: {type(error).__name__}: {error}; the same command goes on from here"
        print(problem, file=sys.stderr)
        return 1
    if not quiet:
        console = Console()
        console.print(_summary(status))
        if accounts.records:
            console.print(_stages(accounts))
        for line in read_unasked(out):
            print(f"never asked: {line}")
        print(f"report: {page}")
    print(f"{status.phase}: {out}")
    return 0 if status.phase == "Succeeded" else 1


def _the_run(file: Path) -> SynthesisRun:
    found = [manifest.resource for manifest in load_manifests([file])]
    runs = [resource for resource in found if isinstance(resource, SynthesisRun)]
    if len(runs) != 1:
        raise BadInput(f"{file}: holds {len(runs)} documents of kind SynthesisRun; give a file with exactly one")
    return runs[0]


async def _synthesize(
    run: SynthesisRun, source: "Source", out: Path, jobs: int, accounts: "Accounts", shown: Display
) -> SynthesisRunStatus:
    from astra_sandbox.launching import launch_local
    from astra_synth.run import synthesize

    async with AsyncExitStack() as stack:
        with shown.doing("starting a sandbox"):
            sandbox = await stack.enter_async_context(launch_local())
        shown.note(sandbox.containment)
        shown.begin(_MAKING, run.spec.count)

        def show(produced: int, rejected: int) -> None:
            total = accounts.total
            cost = f", {total.calls} calls, {total.tokens} tokens" if total.calls else ""
            shown.advance(_MAKING, produced, f"{rejected} rejects{cost}")

        return await synthesize(
            run, source, sandbox, out, show, concurrency=jobs, on_done=lambda done: accounts.add(done.record)
        )


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


def _stages(accounts: "Accounts") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", "entered", "passed", "yield", "calls", "tokens", "cost"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in accounts.stages():
        used = stage.usage
        figures = (stage.entered, stage.passed, stage.yielded, used.calls, used.tokens, f"{used.cost:.4f}")
        table.add_row(stage.name, *map(str, figures))
    total = accounts.total
    table.add_row("all", "", "", "", str(total.calls), str(total.tokens), f"{total.cost:.4f}")
    return table
