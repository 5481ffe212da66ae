"""``grape bench loop``: the simulated graph from image to motion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from grape_training.cli_common import DEFAULT_POLICY, JsonOption, print_json


def add_commands(bench: typer.Typer) -> None:
    """Add this module's command to the group ``grape bench``."""
    bench.command()(loop)


def loop(
    policy: Annotated[Path, typer.Option(help="Checkpoint or adapter folder.")] = DEFAULT_POLICY,
    seconds: Annotated[float, typer.Option(min=5.0, help="Time of acting per measurement.")] = 20.0,
    scale: Annotated[int, typer.Option(min=1, max=4, help="Size of the images, times 320x240.")] = 2,
    json: JsonOption = False,
) -> None:
    """Time the simulated graph: image to action, action to motion, jitter, processor time per node.

    Overhead is from the image's stamp to the published action, less the model's time: it holds the camera's
    rendering (`image_delay_p99_ms`), transport, and the wait for the action's turn. The top-level figures are
    those with recording.
    """
    from grape_policy.nodes.loop_bench import measure

    found = measure(policy, seconds, scale)
    if json:
        keys = ("overhead_p50_ms", "overhead_p99_ms", "controller_jitter_p99_ms", "cpu_cores")
        print_json({**{key: found["recording_on"][key] for key in keys}, **found})
        return
    typer.echo(f"image: {found['image']}")
    for name in ("recording_off", "recording_on"):
        typer.echo(f"{name}:")
        for key, value in found[name].items():
            typer.echo(f"  {key}: {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {share:.2f}" for name, share in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)
