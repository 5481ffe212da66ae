"""The ``grape`` command line: one clear line for every error, exit code 0 done, 1 failed, 2 bad input.

Heavy libraries are imported inside the commands, so that ``grape --help`` is immediate.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (a clear line instead of a failing import)
    sys.exit("error: grape needs Python 3.11 or newer. Install it, remove .venv and run: make setup")

import os
from collections.abc import Callable

import typer

from grape_training import (
    cli_bench,
    cli_calibrate,
    cli_checkpoint,
    cli_data,
    cli_eval,
    cli_policy,
    cli_propose,
    cli_run,
    cli_score,
    cli_sft,
    cli_stop,
    cli_suites,
    cli_train,
)
from grape_training.errors import UserError

INTERRUPTED = 130
# Idle threads sleep: spinning ones steal time from whatever runs beside. Set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

app = typer.Typer(
    name="grape",
    help="A robot that gets better between sessions: collect, score, train, evaluate, promote.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    cli_run,
    cli_stop,
    cli_data,
    cli_propose,
    cli_score,
    cli_sft,
    cli_train,
    cli_eval,
    cli_suites,
    cli_policy,
    cli_checkpoint,
    cli_calibrate,
    cli_bench,
):
    module.add_commands(app)


def describe(error: BaseException) -> tuple[str, int]:
    """Return the one line and the exit code for an error that reached the top.

    Errors of our packages, of files and of values say what is wrong and what to do; anything else is a fault
    of the program and says how to see where.
    """
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno == 28:
        return (
            f"no space left on the disk ({error.filename or 'while writing'}). Free some and run it again",
            1,
        )
    if isinstance(error, (ValueError, OSError)) or hasattr(error, "remedy"):
        return str(error) or type(error).__name__, 2 if isinstance(error, ValueError) else 1
    return f"{type(error).__name__}: {error}. This is a fault; GRAPE_TRACEBACK=1 shows where", 1


def main() -> None:
    """Run the command line."""
    run_safely(lambda: app(standalone_mode=False))


def run_safely(function: Callable[[], object]) -> None:
    """Run ``function`` and end the process with its exit code; an error becomes one line."""
    try:
        code = function()
        sys.exit(code if isinstance(code, int) else 0)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if hasattr(error, "show"):  # wrong usage: the library prints usage and reason
            error.show()
            sys.exit(2)
        if os.environ.get("GRAPE_TRACEBACK"):
            raise
        text, exit_code = describe(error)
        print("error:", " ".join(text.split()), file=sys.stderr)
        sys.exit(exit_code)


if __name__ == "__main__":
    main()
