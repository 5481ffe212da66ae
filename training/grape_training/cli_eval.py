"""``grape eval``: policies on the same initial states, with intervals, exact tests, checks, films."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grape_training.cli_common import JsonOption, SeedOption, WorkersOption, print_json, split_tasks


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.command(name="eval")(evaluate)


def evaluate(
    policies: Annotated[
        list[str],
        typer.Argument(
            help="Checkpoint, adapter or version folders, or: expert, random, zero. The first is the "
            "one the others are compared with."
        ),
    ],
    suite: Annotated[
        str, typer.Option(help="Shipped suite, your own suite's YAML file, or libero_spatial and so on.")
    ] = "in_domain",
    tasks: Annotated[
        str, typer.Option(help="Only these cells (tasks) of the suite, separated by commas. Default: all.")
    ] = "",
    split: Annotated[str, typer.Option(help="Split of the initial states.")] = "eval",
    states: Annotated[int, typer.Option(min=1, help="Initial states per cell.")] = 200,
    max_steps: Annotated[
        int, typer.Option(min=0, help="Longest episode in steps of 0.2 s. 0: what the suite says.")
    ] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0: greedy.")] = 0.0,
    shuffle: Annotated[
        str, typer.Option(help="Give all policies wrong inputs: none, instruction or image.")
    ] = "none",
    mirror_images: Annotated[
        bool,
        typer.Option(
            help="Show the policies all images mirrored left to right: OpenVLA's LIBERO checkpoints want it."
        ),
    ] = False,
    seed: SeedOption = 0,
    workers: WorkersOption = 2,
    ray: Annotated[
        str, typer.Option(help="Run on a Ray cluster: local, auto or HOST:PORT. Same results.")
    ] = "",
    checks: Annotated[
        bool,
        typer.Option(help="Run expert, idle, random and shuffled policies too, and repeat episodes."),
    ] = True,
    check_states: Annotated[int, typer.Option(min=1, help="Initial states per cell for the checks.")] = 10,
    films: Annotated[int, typer.Option(min=0, help="Initial states per cell that are filmed.")] = 2,
    output: Annotated[
        Path, typer.Option(help="Folder of results, pictures and report; the same folder resumes.")
    ] = Path("runs/eval"),
    json: JsonOption = False,
) -> None:
    """Run policies on the same initial states and compare them with exact paired tests.

    Every finished episode is kept: the same command goes on where it was interrupted, and with a higher
    --states adds to what is there. The report is evaluation.html in the output folder.
    """
    from grape_training.checks import RunOptions
    from grape_training.evaluation_run import choose_states, name_policies, run_evaluation
    from grape_training.suites import load_suite
    from grape_training.tables import print_evaluation

    loaded = load_suite(suite)
    ids = choose_states(loaded, split_tasks(tasks), split, states)
    specs = name_policies(policies, temperature, shuffle, mirror_images)
    run = RunOptions(loaded.source, workers, ray, max_steps or loaded.max_steps, seed)
    document = run_evaluation(
        specs, ids, output, run, check_states=check_states if checks else 0, film_states=films
    )
    if json:
        print_json(document)
    else:
        print_evaluation(document)
