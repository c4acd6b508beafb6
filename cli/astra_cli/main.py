"""The `astra` command line: registers the commands and turns what went wrong into an exit code.

Exit codes everywhere: 0 done, 1 ran and failed (or rejected something), 2 bad input or usage, 130 interrupted.
"""

import os
import sys
from typing import Any, cast

import typer

from astra_api.errors import BadInput, RunFailed
from astra_cli import demo, env, plan, synth, train
from astra_sandbox.interface import SandboxError

app = typer.Typer(
    name="astra",
    help="The farm in which tool-using language-model agents are made: environments, sandboxes, SFT and online RL.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("demo", epilog="Example:\n\n  astra demo --out runs/demo --seed 0")(demo.demo)
app.command("train", epilog="Example:\n\n  astra train -f examples/train-tiny.yaml -f runs/small --out runs/tiny")(
    train.train
)
app.command("synth", epilog="Example:\n\n  astra synth -f examples/synthesis/geography.yaml --out runs/geography")(
    synth.synth
)
app.command("plan", epilog=plan.EPILOG)(plan.plan)
app.add_typer(env.app, name="env")


def main() -> None:
    """Runs the command line and exits."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command; the exit code. The only place where errors end: bad input prints without a traceback."""
    code = _run(arguments)
    if code == 130:
        print("interrupted; the same command goes on from here", file=sys.stderr)
    return code


def _run(arguments: list[str]) -> int:
    # gRPC, loaded later, tells of every connection that a stopping sandbox closes
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="astra", standalone_mode=False)
        return result if isinstance(result, int) else 0  # typer makes 130 of an interrupt
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except typer.TyperException as error:  # bad usage: the error knows how to show itself and its command's help
        cast(Any, error).show()
        return 2
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SandboxError as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
