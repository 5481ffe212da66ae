"""The picture of a score: what was seen, what each stage cost, and when."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from grape_episodes.types import Episode
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from grape_preference.drawing import draw_keypoints
from grape_preference.scoring import Score
from grape_preference.stage_scoring import StageScore
from grape_preference.tracks import KeypointTracks

PICTURES = 4  # images shown: the first, the ends of stages in between, the last
_KIND_COLOURS = {"path": "#3b7dd8", "sub_goal": "#e08e0b", "collision": "#c0392b", "unreached": "#777777"}
_STAGE_COLOURS = ("#4c9f70", "#3b7dd8", "#9b59b6", "#e08e0b", "#c0392b", "#16a085")


def save_plot(path: Path | str, episode: Episode, score: Score, tracks: KeypointTracks | None) -> Path:
    """Write one PNG with images and keypoints, stage costs by kind, and all of it over time; return its path.

    Without keypoints, or with another verdict than "ok", it shows what there is and says why.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = _figure(episode, score, tracks)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    unfinished = path.with_suffix(".partial")
    unfinished.write_bytes(picture.getvalue())
    os.replace(unfinished, path)
    return path


def _figure(episode: Episode, score: Score, tracks: KeypointTracks | None) -> Figure:
    figure = Figure(figsize=(13, 10), layout="constrained")
    figure.suptitle(_title(score), fontsize=11)
    grid = GridSpec(3, PICTURES, figure=figure, height_ratios=(1.1, 1, 1))
    for column, t in enumerate(_frames(score, episode.steps)):
        _image(figure.add_subplot(grid[0, column]), episode, tracks, t)
    times = (episode.stamps_ns - episode.stamps_ns[0]) * 1e-9
    costs, bars = figure.add_subplot(grid[1, : PICTURES - 1]), figure.add_subplot(grid[1:, PICTURES - 1])
    _stage_costs(costs, score, times)
    _bars(bars, score)
    _motion(figure.add_subplot(grid[2, : PICTURES - 1]), score, tracks, times)
    return figure


def _title(score: Score) -> str:
    head = f"{score.episode_id}   task {score.task}, outcome {score.outcome}"
    if score.verdict != "ok":
        return f"{head}\nno score, verdict {score.verdict}: {score.message}"
    return (
        f"{head}\nR_ext {score.r_ext:.3f}   R_self {score.r_self_mean:.3f} per token   "
        f"I_success {score.i_success:.0f} (judge: {score.judge})   objective: {score.objective}"
    )


def _frames(score: Score, last: int) -> list[int]:
    """Return at most PICTURES frames: first, last, ends of stages between, else evenly spaced ones."""
    ends = sorted({stage.end for stage in score.stages if stage.end is not None} - {0, last})
    even = np.linspace(0, last, PICTURES).round().astype(int)
    chosen = {0, last, *ends[: PICTURES - 2]}
    for frame in even.tolist():
        if len(chosen) < PICTURES:
            chosen.add(frame)
    return sorted(chosen)


def _image(axes: Axes, episode: Episode, tracks: KeypointTracks | None, t: int) -> None:
    picture = episode.images[t]
    axes.imshow(draw_keypoints(picture, tracks, t, episode.camera) if tracks is not None else picture)
    axes.set_title(f"frame {t}", fontsize=9)
    axes.set_axis_off()


def _stage_costs(axes: Axes, score: Score, times: np.ndarray) -> None:
    for colour, stage in zip(_STAGE_COLOURS * 3, score.stages, strict=False):
        axes.plot(times, stage.cost_over_time, color=colour, label=_label(stage))
        if stage.begin is not None and stage.end is not None:
            axes.axvspan(times[stage.begin], times[stage.end], color=colour, alpha=0.12)
    axes.set(xlabel="time, s (shaded: when the stage was under way)", ylabel="weighted violation")
    axes.set_title("Violations of each stage's constraints over time", fontsize=9)
    if score.stages:
        axes.legend(fontsize=8)


def _label(stage: StageScore) -> str:
    fate = "completed" if stage.completed else "never begun" if stage.begin is None else "not completed"
    return f"{stage.name}: {fate}, cost {stage.cost:.2f}"


def _bars(axes: Axes, score: Score) -> None:
    """Stack each stage's cost from its kinds; what is left over is the cost of not completing it."""
    names = [stage.name for stage in score.stages]
    base = np.zeros(len(names))
    for kind, colour in _KIND_COLOURS.items():
        values = np.array([_share(stage, kind) for stage in score.stages])
        axes.bar(names, values, bottom=base, color=colour, label=kind.replace("_", "-"))
        base = base + values
    axes.set(ylabel="cost C of the stage; R_ext = exp(-sum)")
    axes.set_title("What each stage cost", fontsize=9)
    axes.tick_params(axis="x", rotation=30)
    axes.legend(fontsize=8)


def _share(stage: StageScore, kind: str) -> float:
    return stage.cost - sum(stage.kinds.values()) if kind == "unreached" else stage.kinds[kind]


def _motion(axes: Axes, score: Score, tracks: KeypointTracks | None, times: np.ndarray) -> None:
    axes.set_title("Heights and gripper (dotted: keypoint not seen, only kept)", fontsize=9)
    axes.set(xlabel="time, s", ylabel="height above the table, m")
    if tracks is None:
        axes.text(0.5, 0.5, score.message, ha="center", transform=axes.transAxes)
        return
    for colour, (index, name) in zip(_STAGE_COLOURS * 3, enumerate(tracks.names), strict=False):
        heights, seen = tracks.positions[:, index, 2], tracks.confidence[:, index] > 0
        axes.plot(times, np.where(seen, heights, np.nan), color=colour, label=name)
        axes.plot(times, heights, ":", color=colour)
    axes.plot(times, tracks.end_effector_positions[:, 2], color="black", label="end effector")
    twin = axes.twinx()
    twin.plot(times, tracks.gripper, color="#999999", linestyle="--", label="gripper")
    twin.set(ylim=(-0.05, 1.05), ylabel="gripper opening (dashed)")
    axes.legend(fontsize=8, loc="upper left")
