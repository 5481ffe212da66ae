"""A picture of a calibration: every view with its corners, and the residuals of all poses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from grape_policy.camera.captures import Capture
from grape_policy.camera.hand_eye import HandEye, View, project
from grape_policy.camera.types import Intrinsics

COLUMNS = 4
MAGNIFIED = 30  # times: residuals are fractions of a pixel


def draw(
    path: Path, result: HandEye, views: list[View], captures: list[Capture], intrinsics: Intrinsics
) -> None:
    """Write the picture (PNG)."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    images = {capture.name: capture.image for capture in captures}
    rows = -(-len(views) // COLUMNS)
    figure = plt.figure(figsize=(4 * COLUMNS, 3 * rows + 4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[3 * rows, 4])
    top, bottom = parts
    grid = top.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, view in zip(grid, views, strict=False):
        _draw_view(axes, view, images[view.name], result, intrinsics)
    for axes in grid[len(views) :]:
        axes.axis("off")
    _draw_residuals(bottom.subplots(1, 3), result)
    millimetres, degrees = result.left_out
    bottom.suptitle(
        f"{len(views)} poses, {result.pixels:.2f} px root mean square; leaving one out moves the camera by "
        f"at most {millimetres:.2f} mm and {degrees:.3f} degrees"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".tmp")
    figure.savefig(part, format="png", dpi=80)
    plt.close(figure)
    part.replace(path)


def _draw_view(axes: Any, view: View, image: np.ndarray, result: HandEye, intrinsics: Intrinsics) -> None:
    expected = project(view, intrinsics, result.base_from_camera, result.gripper_from_board)
    error = (expected - view.pixels) * MAGNIFIED
    residual = next(r for r in result.residuals if r.name == view.name)
    axes.imshow(image)
    axes.plot(*view.pixels.T, "o", mfc="none", mec="lime", ms=4)
    axes.quiver(*view.pixels.T, *error.T, color="red", angles="xy", scale_units="xy", scale=1, width=0.004)
    axes.set_title(f"{view.name}: {residual.pixels:.2f} px (red: x{MAGNIFIED})", fontsize=9)
    axes.axis("off")


def _draw_residuals(panels: np.ndarray, result: HandEye) -> None:
    names = [r.name for r in result.residuals]
    series = (
        ("corners, px", {"root mean square": [r.pixels for r in result.residuals]}),
        (
            "board's pose in one image against expected",
            {
                "mm": [r.millimetres for r in result.residuals],
                "degrees": [r.degrees for r in result.residuals],
            },
        ),
        (
            "camera moves when this view is left out",
            {
                "mm": [r.left_out_millimetres for r in result.residuals],
                "degrees": [r.left_out_degrees for r in result.residuals],
            },
        ),
    )
    for axes, (title, bars) in zip(panels, series, strict=True):
        width = 0.8 / len(bars)
        for index, (label, values) in enumerate(bars.items()):
            axes.bar(np.arange(len(names)) + index * width, values, width, label=label)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=8)
