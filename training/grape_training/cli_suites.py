"""``grape suites list | check | gallery``: which benchmark suites there are, and what they look like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grape_training.cli_common import JsonOption, print_json

if TYPE_CHECKING:
    from grape_sim.suite import Suite

suites = typer.Typer(help="Benchmark suites: list, check a file, draw first frames.", no_args_is_help=True)

CHECKED_STATES = 20  # per cell and split: enough to notice a layout without room


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.add_typer(suites, name="suites")


@suites.command(name="list")
def list_suites(json: JsonOption = False) -> None:
    """List the shipped suites with their cells and tasks."""
    from grape_sim.suite import SHIPPED, load_suite

    loaded = [load_suite(name) for name in SHIPPED]
    if json:
        print_json([_about(suite) for suite in loaded])
        return
    for suite in loaded:
        typer.echo(f"{suite.name}: {suite.description}")
        for cell in suite.cells.values():
            typer.echo(f"  {cell.name}: {', '.join(task.name for task in cell.tasks)}")


@suites.command()
def check(
    file: Annotated[str, typer.Argument(help="Suite file, or the name of a shipped one.")],
    json: JsonOption = False,
) -> None:
    """Check a suite: schema, names, geometry, and that objects can be laid out in every cell and split."""
    from grape_sim.scene import cell_model
    from grape_sim.suite import load_suite

    suite = load_suite(file)
    for cell in suite.cells.values():
        cell_model(cell)
        for split in suite.splits:
            for initial_state_id in suite.state_ids(split, CHECKED_STATES, cells=[cell.name]):
                suite.sample(initial_state_id)
    if json:
        print_json(_about(suite))
    else:
        typer.echo(f"{suite.name}: in order, {len(suite.cells)} cells, content {suite.content_hash[:8]}")


@suites.command()
def gallery(
    output: Annotated[Path, typer.Argument(help="PNG file to write.")],
    suite: Annotated[
        list[str] | None, typer.Option(help="Suite, name or file; default: all shipped.")
    ] = None,
    index: Annotated[int, typer.Option(min=0, help="Number of the initial state that is drawn.")] = 0,
) -> None:
    """Draw the first image of every cell with what the robot is told."""
    from grape_sim.gallery import save_contact_sheet
    from grape_sim.suite import SHIPPED, load_suite

    loaded = [load_suite(name) for name in suite or SHIPPED]
    save_contact_sheet(loaded, output, index)
    typer.echo(f"{output}: {sum(len(each.cells) for each in loaded)} cells")


def _about(suite: Suite) -> dict[str, object]:
    """Return what a program may want to know of a suite."""
    cells = {
        cell.name: {"tasks": [task.name for task in cell.tasks], "description": cell.description}
        for cell in suite.cells.values()
    }
    return {
        "suite": suite.name,
        "description": suite.description,
        "content_hash": suite.content_hash,
        "max_steps": suite.max_steps,
        "splits": list(suite.splits),
        "cells": cells,
    }
