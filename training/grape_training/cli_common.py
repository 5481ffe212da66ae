"""Options and output that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

TASKS = "carrot_on_plate,eggplant_in_basket,stack_cube,spoon_on_towel"

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Worker processes.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed.")]
TasksOption = Annotated[str, typer.Option(help="Tasks, separated by commas.")]
PolicyOption = Annotated[
    Path, typer.Option("--policy", help="Checkpoint, adapter or registry version folder.")
]
RegistryOption = Annotated[Path, typer.Option("--registry", help="Folder of the registry of versions.")]

DEFAULT_POLICY = Path("checkpoints/grape-small")
DEFAULT_REGISTRY = Path("runs/registry")
DEFAULT_EPISODES = Path("runs/episodes")


def split_tasks(text: str) -> list[str]:
    """Return the names in a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def print_json(document: Any) -> None:
    """Print ``document`` for a program to read; paths become text."""
    typer.echo(json.dumps(document, indent=2, sort_keys=True, default=str))
