"""``grape bench``: how fast a policy answers and episodes are simulated on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grape_training import cli_bench_collection, cli_bench_headline, cli_bench_loop, cli_bench_preference
from grape_training.cli_common import DEFAULT_POLICY, JsonOption, PolicyOption, print_json
from grape_training.errors import BadInputError

if TYPE_CHECKING:
    from grape_policy.vla.runtime import Runtime

bench = typer.Typer(help="Measure speed.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    cli_bench_preference.add_commands(bench)
    cli_bench_loop.add_commands(bench)
    cli_bench_headline.add_commands(bench)
    cli_bench_collection.add_commands(bench)
    app.add_typer(bench, name="bench")


@bench.callback()
def _group() -> None:
    """Measure speed."""


@bench.command()
def inference(
    policy: Annotated[Path, typer.Option(help="Checkpoint or adapter folder.")] = DEFAULT_POLICY,
    runs: Annotated[int, typer.Option(min=10, help="Timed actions.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Images of the batched measurement.")] = 16,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the tensor library.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<number>.")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32, bfloat16, float16 or 4bit.")] = "float32",
    compile: Annotated[bool, typer.Option(help="Compile towers and projector first.")] = False,
    json: JsonOption = False,
) -> None:
    """Time the policy from image to action, beside plain `generate()` on the same weights.

    Both are timed in turn, so that other programs on the machine slow both alike; `cpu_ms` and
    `cpu_speedup_vs_generate` count processor time only.
    """
    import torch

    torch.set_num_threads(threads)
    from grape_policy.vla.benchmark import measure_inference
    from grape_policy.vla.inference import VlaPolicy

    loaded = VlaPolicy.from_checkpoint(policy, runtime=_runtime(device, precision, compile))
    found = measure_inference(loaded, runs, batch)
    if json:
        print_json({"policy": loaded.version, "threads": threads, "batch": batch, **found})
    else:
        typer.echo(f"policy: {loaded.version}")
        for name, value in found.items():
            typer.echo(f"{name}: {value:.2f}")


def _runtime(device: str, precision: str, compile: bool) -> Runtime:
    from grape_policy.vla.runtime import Runtime

    try:
        return Runtime(device, precision, compile)
    except ValueError as error:
        raise BadInputError(str(error), "Leave the option out for float32 on the processor") from error


@bench.command()
def sim(
    suite: Annotated[str, typer.Option(help="Suite whose initial states are run.")] = "in_domain",
    episodes: Annotated[int, typer.Option(min=8, help="Episodes of 30 steps per measurement.")] = 40,
    json: JsonOption = False,
) -> None:
    """Time rendered episodes without a policy: rate per core, reset, two workers, overhead.

    Overhead is all that is neither physics nor rendering: the arm's controller (also shown apart), judge,
    reset, measures, result file. Times are processor time, but `two_worker_speedup` is by the clock and needs
    two idle cores.
    """
    from grape_training.pool import ENVIRONMENT

    os.environ.update(ENVIRONMENT)  # one thread, as in the workers
    from grape_training.bench_sim import measure_simulation

    found = measure_simulation(suite, episodes)
    if json:
        print_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")


@bench.command()
def tpo(
    policy: PolicyOption = DEFAULT_POLICY,
    steps: Annotated[
        int, typer.Option(min=20, help="Steps of each trajectory of the speed comparison.")
    ] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which all ways take their turn.")] = 3,
    json: JsonOption = False,
) -> None:
    """Measure the TPO gradient: its error, its peak memory, its speed beside other ways (ratios of one run).

    Others: one graph over whole trajectories, the reference run in every step, the 8-step windows of the
    authors' code with a second model, and TRL's DPOTrainer (without and with its own cache of the reference).
    """
    from grape_training.bench_tpo import measure_tpo

    found = measure_tpo(policy, steps, rounds)
    if json:
        print_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
