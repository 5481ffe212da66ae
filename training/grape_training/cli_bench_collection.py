"""``grape bench collection``: an unattended collection while things go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grape_training.cli_common import DEFAULT_POLICY, JsonOption, PolicyOption, SeedOption, print_json


def add_commands(bench: typer.Typer) -> None:
    """Add this module's command to the group ``grape bench``."""
    bench.command()(collection)


def collection(
    policy: PolicyOption = DEFAULT_POLICY,
    output: Annotated[Path, typer.Option(help="Folder of the run; must be new.")] = Path("runs/faults"),
    episodes: Annotated[int, typer.Option(min=2, help="Rollouts to collect, at least.")] = 200,
    faults: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of episodes with a fault.")] = 0.25,
    max_steps: Annotated[int, typer.Option(min=5, help="Longest episode in steps of 0.2 s.")] = 20,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Collect in the simulated graph while faults are injected; then check that nothing is lost or unsafe.

    Policy and recorder are killed, the policy is suspended, the camera freezes or falls silent, the arm is
    disconnected, clocks jump, resets go wrong, the disk is full, and power is lost. Exit code 1 when an
    episode is lost, run twice, unreadable or unexplained, a motion broke a limit, or a process is left.
    """
    from grape_training.bench_collection import measure, summary_text
    from grape_training.errors import BadInputError

    if output.exists() and any(output.iterdir()):
        raise BadInputError(f"{output} is not empty", "Give a new folder with --output")
    found = measure(policy, output.absolute(), episodes, faults, seed, max_steps)
    print_json(found) if json else typer.echo(summary_text(found))
    if not found["ok"]:
        raise typer.Exit(1)
