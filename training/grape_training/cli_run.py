"""``grape doctor | up | loop``: the machine, the graph, and everything in one go."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from grape_training.cli_common import DEFAULT_EPISODES, DEFAULT_POLICY, JsonOption, print_json


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.command()(doctor)
    app.command()(up)
    app.command()(loop)


def doctor(
    checkpoint: Annotated[Path, typer.Option(help="Policy checkpoint to check.")] = DEFAULT_POLICY,
    runs: Annotated[Path, typer.Option(help="Folder for results; its disk is checked.")] = Path("runs"),
    control_rate: Annotated[
        bool, typer.Option(help="Also run the simulated graph for some seconds and measure its rate.")
    ] = True,
    live: Annotated[
        bool, typer.Option("--live", help="Instead, show what the nodes of the running graph report.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check this machine: Python, rendering, ROS, disk, memory, checkpoint, and the 5 Hz control rate."""
    if live:
        raise typer.Exit(show_live(json))
    from grape_policy.doctor import run_checks

    def show(check: object) -> None:
        if not json:
            typer.echo(check_line(check))

    checks = run_checks(checkpoint, runs, control_rate, show)
    if json:
        print_json({"ok": all(check.ok for check in checks), "checks": [asdict(check) for check in checks]})
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def show_live(json: bool) -> int:
    """Print state and loop timing of the running graph; return 1 when no node is heard or one has failed."""
    import os

    from grape_policy import stack
    from grape_policy.live_table import LEVELS, live_table

    os.environ.update(stack.environment())
    from grape_policy.nodes.live_report import listen

    reports = listen()
    if json:
        print_json({"nodes": [asdict(report) for report in reports]})
    elif reports:
        typer.echo(live_table(reports))
    else:
        typer.echo("no node of the stack is heard; start it (grape up), or set its ROS_DOMAIN_ID", err=True)
    return int(not reports or any(LEVELS[report.level] == "ERROR" for report in reports))


def check_line(check: object) -> str:
    """Return a check of the doctor as one line."""
    mark = "ok  " if getattr(check, "ok") else "FAIL"  # noqa: B009
    remedy = getattr(check, "remedy", "")
    line = f"{mark} {getattr(check, 'name')}: {getattr(check, 'detail')}"  # noqa: B009
    return f"{line}\n     -> {remedy}" if remedy else line


def up(
    driver: Annotated[str, typer.Option(help="Arm driver: sim, mock or that of a real arm.")] = "sim",
    robot: Annotated[str, typer.Option(help="The arm: wx250s, panda, fr3, wxai or a YAML file.")] = "wx250s",
    address: Annotated[
        str, typer.Option(help="Of the arm's controller, for driver trossen.")
    ] = "192.168.1.2",
    camera: Annotated[
        str, typer.Option(help="Camera to start: none, realsense, realsense2_camera or playback.")
    ] = "none",
    serials: Annotated[str, typer.Option(help="Serial number of the camera; several: 0123,wrist=4567.")] = "",
    playback: Annotated[str, typer.Option(help="Recording or episode folder for --camera playback.")] = "",
    calibration: Annotated[str, typer.Option(help="Where the camera is: file of grape calibrate.")] = "",
    checkpoint: Annotated[Path, typer.Option(help="Policy to start with.")] = DEFAULT_POLICY,
    episodes: Annotated[Path, typer.Option(help="Folder that receives the episodes.")] = DEFAULT_EPISODES,
    domain: Annotated[int | None, typer.Option(help="ROS domain; default: ROS_DOMAIN_ID, else 0.")] = None,
) -> None:
    """Start the ROS graph (simulated by default) on machines without the launch packages; Ctrl+C stops it."""
    from grape_policy.supervisor import run_stack

    arguments = {
        "driver": driver,
        "robot": robot,
        "address": address,
        "camera": camera,
        "serials": serials,
        "playback": playback,
        "calibration": calibration,
        "checkpoint": str(checkpoint),
        "episodes_folder": str(episodes),
    }
    raise typer.Exit(run_stack(arguments, domain))


def loop(
    output: Annotated[Path, typer.Option(help="Folder of the run; the same folder resumes it.")] = Path(
        "runs/demo"
    ),
    checkpoint: Annotated[Path, typer.Option(help="Policy to improve.")] = DEFAULT_POLICY,
    tries: Annotated[int, typer.Option(min=1, help="Initial states per task to run greedily from.")] = 6,
    states: Annotated[
        int, typer.Option(min=1, help="Of them, so many per task to sample from, failures first.")
    ] = 3,
    rollouts: Annotated[int, typer.Option(min=1, help="Sampled rollouts from each of those.")] = 3,
    eval_states: Annotated[int, typer.Option(min=1, help="Initial states per task to evaluate on.")] = 20,
    max_steps: Annotated[int, typer.Option(min=1, help="Longest episode in steps of 0.2 s.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling and training.")] = 0,
    ros: Annotated[bool, typer.Option(help="Collect through the ROS graph and reload it.")] = True,
    json: JsonOption = False,
) -> None:
    """Collect, score, train, evaluate, promote, reload and report, in one resumable run."""
    from grape_training.loop import LoopOptions, run_loop

    options = LoopOptions(
        output=output,
        checkpoint=checkpoint,
        tries=tries,
        states=states,
        rollouts=rollouts,
        eval_states=eval_states,
        max_steps=max_steps,
        seed=seed,
        ros=ros,
    )
    summary = run_loop(options, quiet=json)
    if json:
        print_json(summary)
