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
    SeedOption,
    TasksOption,
    WorkersOption,
    print_json,
    split_tasks,
)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.command()(collect)
    app.command()(confirm)
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
    start: Annotated[
        bool, typer.Option("--start", help="Start the simulated graph as well, and stop it at the end.")
    ] = False,
    task_list: Annotated[
        Path | None, typer.Option(help="Task list (YAML) instead of the simple options.")
    ] = None,
    policy: Annotated[Path, typer.Option(help="Policy (--start, --no-ros).")] = DEFAULT_POLICY,
    output: Annotated[
        Path, typer.Option(help="Episodes' folder: that of the running graph, or of what starts here.")
    ] = DEFAULT_EPISODES,
    workers: WorkersOption = 2,
    json: JsonOption = False,
) -> None:
    """Collect rollouts of the policy; the same command again runs only what is missing.

    Through the graph the collection is an unattended one: it checks each reset and each episode, tries again,
    and shows how it goes on a status page below the episodes' folder.
    """
    if ros:
        from grape_training.collect_unattended import collect_through_graph, make_task_list

        fields = {"split": split, "states": states, "rollouts": rollouts, "temperature": temperature}
        wanted = make_task_list(task_list, split_tasks(tasks), **fields, seed=seed, max_steps=max_steps)
        found = collect_through_graph(wanted, output, policy if start else None)
        _show_collected({**vars(found), "folder": str(output)}, found.done, found.successes, output, json)
        if found.done < found.planned:
            typer.echo(f"{found.given_up} given up; {found.reason or 'see the status page'}", err=True)
            raise typer.Exit(1)
        return
    from grape_training.collect import RolloutPlan, collect_in_simulation
    from grape_training.evaluation import initial_states

    ids = tuple(initial_states(split_tasks(tasks), split, states))
    plan = RolloutPlan(ids, rollouts, temperature, seed, max_steps)
    made = collect_in_simulation(str(policy), plan, output, workers=workers)
    document = {"episodes": made.episodes, "successes": made.successes, "folder": str(made.root)}
    _show_collected(document, made.episodes, made.successes, made.root, json)


def _show_collected(
    document: dict[str, object], episodes: int, successes: int, folder: Path, json: bool
) -> None:
    if json:
        print_json(document)
    else:
        typer.echo(f"{episodes} episodes, {successes} successful, in {folder}")


def confirm(
    refuse: Annotated[bool, typer.Option("--refuse", help="Say that it could not be done.")] = False,
) -> None:
    """Tell a waiting collection that what it asked a person to do has been done."""
    from grape_training.collect_ros import connect

    with connect() as graph:
        typer.echo(graph.confirm(not refuse))


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
