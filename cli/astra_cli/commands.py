"""The commands of `astra`, and the exit code of whatever goes wrong in one.

Exit codes everywhere: 0 done, 1 ran and failed (or rejected something), 2 bad input or usage, 130 interrupted, by
whichever signal.
"""

import contextlib
import errno
import os
import signal
import stat
import sys
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Annotated, Any, cast

import typer

from astra_api.errors import BadInput, RunFailed
from astra_api.interrupts import EXIT_CODE, Interrupted
from astra_cli import demo, env, plan, report, synth, train
from astra_cli.shortages import cut_short, shortage
from astra_sandbox.interface import SandboxError

app = typer.Typer(
    name="astra",
    help="The farm in which tool-using language-model agents are made: environments, sandboxes, SFT and online RL.",
    epilog="Shell completion:\n\n  astra --install-completion    (then start a new shell)",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("demo", epilog=demo.EPILOG)(demo.demo)
app.command("train", epilog=train.EPILOG)(train.train)
app.command("synth", epilog=synth.EPILOG)(synth.synth)
app.command("report", epilog=report.EPILOG)(report.report)
app.command("plan", epilog=plan.EPILOG)(plan.plan)
app.add_typer(env.app, name="env")

_RESUMED = ("demo", "train", "synth")  # the same command again goes on


def _say_version(asked: bool) -> None:
    if asked:
        try:
            print(f"astra {version('astra-farm')}")
        except PackageNotFoundError:
            print("astra, not installed: run from its sources")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    pass


def run_command(arguments: list[str]) -> int:
    """Runs one command; the exit code. Errors that nobody foresaw pass through."""
    try:
        return _run(arguments)
    except (Interrupted, KeyboardInterrupt) as error:
        return _interrupted(arguments, error)
    except Exception as error:
        if _is_hangup(error):
            return _interrupted(arguments, Interrupted(signal.SIGHUP))
        said = shortage(error, _out(arguments))
        if said is None:
            raise
        return _failed(said + _goes_on(arguments))


def _run(arguments: list[str]) -> int:
    # gRPC, loaded later, tells of every connection that a stopping sandbox closes
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="astra", standalone_mode=False)
    except typer.Exit as error:
        result = error.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:  # bad usage: the error knows how to show itself and its command's help
        cast(Any, error).show()
        return 2
    except BadInput as error:
        if (said := cut_short(error, _out(arguments))) is not None:
            return _failed(said + _goes_on(arguments))
        return _failed(str(error), 2)
    except RunFailed as error:
        return _failed(str(error))
    except SandboxError as error:
        if (said := shortage(error, _out(arguments))) is not None:
            return _failed(said + _goes_on(arguments))
        return _failed(f"{type(error).__name__}: {error}")
    if result == EXIT_CODE:  # typer makes it of an interrupt
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _is_hangup(error: Exception) -> bool:
    """Whether it comes of writing to a terminal that is gone, just before the signal that tells of it."""
    if not isinstance(error, OSError) or error.errno != errno.EIO or error.filename is not None:
        return False
    return any(stat.S_ISCHR(os.fstat(stream).st_mode) for stream in (1, 2))


def _failed(message: str, code: int = 1) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def _interrupted(arguments: list[str], error: BaseException) -> int:
    what = error.word if isinstance(error, Interrupted) else "interrupted"
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(what + _goes_on(arguments), file=sys.stderr)
    return EXIT_CODE


def _out(arguments: list[str]) -> str | None:
    """The folder that the command writes into, where it names one."""
    if arguments[0] == "report":
        return arguments[-1]
    following = dict(pairwise(arguments))
    return following.get("--out") or next((a.removeprefix("--out=") for a in arguments if a.startswith("--out=")), None)


def _goes_on(arguments: list[str]) -> str:
    return "; the same command goes on from here" if arguments[:1] and arguments[0] in _RESUMED else ""
