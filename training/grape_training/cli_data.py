"""``grape collect | report | export``: episodes and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grape_training.cli_common import (
    DEFAULT_EPISODES,
    DEFAULT_POLICY,
    TASKS,
    JsonOption,
    PolicyOption,
    SeedOption,
    TasksOption,
    WorkersOption,
    print_json,
    split_tasks,
)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.command()(collect)
    app.command()(report)
    app.command()(export)


def collect(
    tasks: TasksOption = TASKS,
    split: Annotated[
        str, typer.Option(help="Split of the initial states: train, collect or eval.")
    ] = "collect",
    states: Annotated[int, typer.Option(min=1, help="Initial states per task.")] = 4,
    rollouts: Annotated[int, typer.Option(min=1, help="Rollouts per initial state.")] = 5,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0: greedy.")] = 0.7,
    max_steps: Annotated[int, typer.Option(min=1, help="Longest episode in steps of 0.2 s.")] = 50,
    seed: SeedOption = 0,
    ros: Annotated[
        bool, typer.Option(help="Through the running graph (grape up); else in processes here.")
    ] = True,
    policy: PolicyOption = DEFAULT_POLICY,
    output: Annotated[Path, typer.Option(help="Episodes' folder (--no-ros; the graph has its own).")] = (
        DEFAULT_EPISODES
    ),
    workers: WorkersOption = 2,
    json: JsonOption = False,
) -> None:
    """Collect rollouts of the policy; the same command again runs only what is missing."""
    from grape_training.collect import RolloutPlan, collect_in_simulation
    from grape_training.evaluation import initial_states

    ids = tuple(initial_states(split_tasks(tasks), split, states))
    wanted = RolloutPlan(ids, rollouts, temperature, seed, max_steps)
    if ros:
        from grape_training.collect_ros import connect

        with connect() as graph:
            outcome = graph.collect(wanted)
        episodes, successes, place = outcome.episodes, outcome.successes, "the recorder's folder"
    else:
        found = collect_in_simulation(str(policy), wanted, output, workers=workers)
        episodes, successes, place = found.episodes, found.successes, str(found.root)
    if json:
        print_json({"episodes": episodes, "successes": successes, "folder": place})
    else:
        typer.echo(f"{episodes} episodes, {successes} successful, in {place}")


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, e.g. runs/demo.")] = Path("runs/demo"),
    json: JsonOption = False,
) -> None:
    """Write the HTML report of a run and print its path."""
    from grape_training.report import write_report

    path = write_report(run)
    if json:
        print_json({"report": str(path)})
    else:
        typer.echo(str(path))


def export(
    episodes: Annotated[Path, typer.Argument(help="Folder of episodes.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    json: JsonOption = False,
) -> None:
    """Export episodes as plain arrays (safetensors), images (PNG) and JSON, for tools without ROS."""
    from grape_training.export import export_episodes

    count = export_episodes(episodes, output)
    if json:
        print_json({"episodes": count, "folder": str(output)})
    else:
        typer.echo(f"{count} episodes in {output}")
