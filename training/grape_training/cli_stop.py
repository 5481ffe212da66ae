"""``grape stop``: the arm's emergency stop from a terminal."""

from __future__ import annotations

from typing import Annotated

import typer


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    app.command()(stop)


def stop(
    clear: Annotated[bool, typer.Option("--clear", help="Release a latched stop; never arms.")] = False,
    keyboard: Annotated[
        bool, typer.Option("--keyboard", help="Stay connected: any key stops, c clears, q leaves.")
    ] = False,
    domain: Annotated[int | None, typer.Option(help="ROS domain; default: ROS_DOMAIN_ID, else 0.")] = None,
) -> None:
    """Latch the arm's emergency stop (no replacement for a hardware stop); exit code 1 if not confirmed."""
    import os

    from grape_policy import stack

    os.environ.update(stack.environment())
    from grape_policy.nodes.stop_tool import StopTool, watch_keys

    tool = StopTool(domain)
    try:
        if keyboard:
            raise typer.Exit(watch_keys(tool, typer.echo))
        done, message = tool.clear() if clear else tool.engage()
        typer.echo(message, err=not done)
        raise typer.Exit(0 if done else 1)
    finally:
        tool.close()
