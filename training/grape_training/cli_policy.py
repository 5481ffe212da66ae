"""``grape promote | rollback | versions``: which version is in use, and what may replace it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from grape_training.cli_common import (
    DEFAULT_REGISTRY,
    TASKS,
    JsonOption,
    RegistryOption,
    TasksOption,
    WorkersOption,
    print_json,
    split_tasks,
)

StatesOption = Annotated[int, typer.Option(min=1, help="Initial states per task.")]
ReloadOption = Annotated[bool, typer.Option("--reload", help="Let the running policy node load it.")]
MaxStepsOption = Annotated[int, typer.Option(min=1, help="Longest episode in steps of 0.2 s.")]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.command()(promote)
    app.command()(rollback)
    app.command()(versions)


def promote(
    candidate: Annotated[str, typer.Argument(help="Version in the registry, or the folder of a checkpoint.")],
    registry: RegistryOption = DEFAULT_REGISTRY,
    tasks: TasksOption = TASKS,
    states: StatesOption = 50,
    max_steps: MaxStepsOption = 50,
    alpha: Annotated[float, typer.Option(min=0.0, max=0.5, help="Significance level of the gate.")] = 0.05,
    margin: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Tolerated rise of the collision rate.")
    ] = 0.05,
    workers: WorkersOption = 2,
    output: Annotated[Path, typer.Option(help="Folder of the evaluation.")] = Path("runs/promote"),
    reload: ReloadOption = False,
    json: JsonOption = False,
) -> None:
    """Evaluate a candidate against the version in use and switch to it if the gate lets it through."""
    from grape_training import evaluation
    from grape_training.gate import GateOptions
    from grape_training.promotion import promote_if_better, register_folder
    from grape_training.registry import Registry

    books = Registry(registry)
    version = candidate if candidate in books.versions() else register_folder(books, Path(candidate))
    if version == books.current:
        typer.echo(f"{version} is in use")
        return
    ids = evaluation.initial_states(split_tasks(tasks), "eval", states)
    decision = promote_if_better(
        books, version, ids, output, GateOptions(alpha, margin), workers=workers, max_steps=max_steps
    )
    if decision.promote and reload:
        load_into_graph(books.folder(version))
    if json:
        print_json(decision.to_dict())
    else:
        typer.echo(f"{'promoted' if decision.promote else 'refused'}: {version}: {decision.reason}")
    if not decision.promote:
        raise typer.Exit(1)


def rollback(
    registry: RegistryOption = DEFAULT_REGISTRY, reload: ReloadOption = False, json: JsonOption = False
) -> None:
    """Go back to the version that was in use before."""
    from grape_training.registry import Registry

    books = Registry(registry)
    version = books.rollback()
    if reload:
        load_into_graph(books.folder(version))
    if json:
        print_json({"version": version})
    else:
        typer.echo(f"{version} is in use again")


def load_into_graph(folder: Path) -> None:
    """Let the running policy node switch to ``folder``."""
    from grape_training.collect_ros import connect

    with connect() as graph:
        graph.load_policy(folder)


def versions(registry: RegistryOption = DEFAULT_REGISTRY, json: JsonOption = False) -> None:
    """List the versions of the registry and the history of the one in use."""
    from grape_training.registry import Registry

    books = Registry(registry)
    pointer = books.pointer()
    if json:
        print_json({"versions": books.versions(), **asdict(pointer)})
        return
    for version in books.versions():
        typer.echo(f"{'*' if version == pointer.version else ' '} {version}")
    for entry in pointer.history:
        typer.echo(f"{entry['time']} {entry['action']}: {entry['version']} ({entry['reason']})")
