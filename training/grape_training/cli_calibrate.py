"""``grape calibrate``: where the camera is, from a board that the gripper holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from grape_training.cli_common import JsonOption, print_json

ColumnsOption = Annotated[int, typer.Option(help="Squares of the board along its longer side.")]
RowsOption = Annotated[int, typer.Option(help="Squares along its shorter side.")]
SquareOption = Annotated[float, typer.Option(help="Side of a square in m, measured on the printed board.")]
FolderArgument = Annotated[Path, typer.Argument(help="Folder of the captures.")]
MILLIMETRES_PER_INCH = 25.4


def add_commands(app: typer.Typer) -> None:
    """Add this module's group to ``app``."""
    group = typer.Typer(
        no_args_is_help=True, help="Where the camera is: print a board, capture poses, solve (eye to hand)."
    )
    app.add_typer(group, name="calibrate")
    group.command()(board)
    group.command()(capture)
    group.command()(solve)


def board(
    output: Annotated[Path, typer.Option(help="Picture to write (PNG).")] = Path("board.png"),
    columns: ColumnsOption = 7,
    rows: RowsOption = 5,
    square: SquareOption = 0.03,
) -> None:
    """Write the ChArUco board to print at 100 %; then measure a square and give its size to capture."""
    from grape_policy.camera.board import Board
    from PIL import Image

    pixels = 120
    picture = Image.fromarray(Board(columns, rows, square).picture(pixels))
    dots = pixels / (square * 1e3) * MILLIMETRES_PER_INCH
    output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(output, dpi=(dots, dots))
    typer.echo(f"{output}: {columns * square * 1e3:g} x {rows * square * 1e3:g} mm at 100 %")


def capture(
    folder: FolderArgument,
    poses: Annotated[int, typer.Option(min=1, help="Poses to take; 12 to 20 are good.")] = 15,
    columns: ColumnsOption = 7,
    rows: RowsOption = 5,
    square: SquareOption = 0.03,
) -> None:
    """Take images and poses from the running graph: hold each new pose still for a second."""
    from grape_policy.camera.board import Board
    from grape_policy.nodes.calibration_capture import BoardCapture

    session = BoardCapture(folder, Board(columns, rows, square), typer.echo)
    try:
        session.run(poses)
    finally:
        session.close()
    typer.echo(f"done; now: grape calibrate solve {folder}")


def solve(
    folder: FolderArgument,
    output: Annotated[Path, typer.Option(help="Calibration to write, for calibration:=.")] = Path(
        "runs/calibration.yaml"
    ),
    report: Annotated[Path | None, typer.Option(help="Picture of corners and residuals (PNG).")] = None,
    json: JsonOption = False,
) -> None:
    """Compute the camera's pose in the arm's base frame; refuses poses from which it cannot be told."""
    from grape_episodes.calibration import save_extrinsics
    from grape_episodes.types import Extrinsics
    from grape_policy.camera.calibration_report import draw
    from grape_policy.camera.captures import load_captures, usable_views
    from grape_policy.camera.hand_eye import calibrate
    from scipy.spatial.transform import Rotation

    intrinsics, pattern, captures = load_captures(folder)
    views, skipped = usable_views(pattern, captures)
    for name, reason in skipped.items():
        typer.echo(f"{name} left out: {reason}", err=True)
    result = calibrate(views, intrinsics)
    pose = result.base_from_camera
    x, y, z = pose[:3, 3].tolist()
    quaternion = tuple(Rotation.from_matrix(pose[:3, :3]).as_quat().tolist())
    millimetres, degrees = result.left_out
    details = {
        "poses": len(views),
        "reprojection_px": round(result.pixels, 4),
        "left_out_mm": round(millimetres, 3),
        "left_out_degrees": round(degrees, 4),
    }
    draw(report or output.with_suffix(".png"), result, views, captures, intrinsics)
    save_extrinsics(output, Extrinsics((x, y, z), quaternion), details)
    if json:
        print_json({**details, "translation": [x, y, z], "quaternion_xyzw": list(quaternion),
                    "residuals": [asdict(r) for r in result.residuals]})  # fmt: skip
        return
    typer.echo("pose       px     mm   degrees   without it: mm  degrees")
    for r in result.residuals:
        typer.echo(
            f"{r.name:8} {r.pixels:5.2f} {r.millimetres:6.2f} {r.degrees:9.3f} "
            f"{r.left_out_millimetres:16.3f} {r.left_out_degrees:8.4f}"
        )
    typer.echo(f"{len(views)} poses, {result.pixels:.2f} px; written to {output}")
