"""Pictures of an evaluation: contact sheets, side-by-side films, success with intervals, where it failed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from grape_episodes.export import animate
from PIL import Image, ImageDraw, ImageFont, ImageOps

from grape_training.cells import CellResult
from grape_training.report_files import spoken

GOOD, BAD, TEXT, SOFT, GRID, PAPER = "#0b6b4b", "#b3362d", "#1b2130", "#566074", "#dde2ea", "#ffffff"
POLICY_COLOURS = ("#6b4fd8", "#0a7d63", "#c2571a", "#2468c2", "#a3307f", "#5b6676")
# From the first stage of a task to the last, for all kinds of tasks; the later, the darker.
STAGES = ("start", "reached", "moved", "tilted", "grasped", "carried", "done")
STAGE_COLOURS = ("#d7dbe6", "#f2c14e", "#e8894a", "#e8894a", "#d9603b", "#b3362d", "#0b6b4b")
SHOTS = 3  # images of each episode on a contact sheet
FRAME_MS, LAST_FRAME_MS = 100, 1200  # films run twice as fast as the robot
TILE, GAP, LABEL = (160, 120), 6, 20


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def png(picture: Image.Image) -> bytes:
    """Return a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def side_by_side_film(
    images: Sequence[np.ndarray], results: Sequence[CellResult], names: Sequence[str]
) -> bytes:
    """Return one endless WebP film of several episodes beside each other, each (T, H, W, 3) uint8 RGB.

    An episode that has ended stands still, framed in the colour of its outcome, until the longest ends.
    """
    height, width = images[0].shape[1:3]
    frames = []
    for t in range(max(len(each) for each in images)):
        frame = Image.new("RGB", (len(images) * (width + GAP) - GAP, height + LABEL), PAPER)
        for place, (each, result, name) in enumerate(zip(images, results, names, strict=True)):
            left = place * (width + GAP)
            _paste(frame, each[min(t, len(each) - 1)], (left, LABEL), (width, height))
            ended = t >= len(each) - 1
            if ended:
                _frame(frame, (left, LABEL), (width, height), GOOD if result.success else BAD)
            text = f"{name}: {_outcome(result)}" if ended else name
            ImageDraw.Draw(frame).text((left + 2, 2), _cut(text, width, 13), TEXT, _font(13))
        frames.append(frame)
    return animate(frames, [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS])


def contact_sheet(
    title: str,
    states: Sequence[str],
    names: Sequence[str],
    films: Mapping[tuple[str, str], np.ndarray],
    results: Mapping[tuple[str, str], CellResult],
) -> Image.Image:
    """Return a sheet with a row per initial state: its first image, then ``SHOTS`` images of each policy."""
    columns, (wide, high) = 1 + SHOTS * len(names), TILE
    row = high + LABEL + GAP
    sheet = Image.new("RGB", (columns * (wide + GAP) + GAP, 2 * LABEL + 8 + len(states) * row), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 3), title, TEXT, _font(17))
    for place, name in enumerate(names):
        left = GAP + (1 + place * SHOTS) * (wide + GAP)
        draw.text((left, 24), _cut(name, SHOTS * wide, 14), TEXT, _font(14))
    for index, state in enumerate(states):
        top = 2 * LABEL + 6 + index * row
        _paste(sheet, films[names[0], state][0], (GAP, top), TILE)
        draw.text((GAP, top + high + 2), state.split("/", 1)[-1], SOFT, _font(12))
        for place, name in enumerate(names):
            left = GAP + (1 + place * SHOTS) * (wide + GAP)
            _strip(sheet, films[name, state], results[name, state], (left, top))
    return sheet


def _strip(sheet: Image.Image, film: np.ndarray, result: CellResult, corner: tuple[int, int]) -> None:
    """Draw images from one third, two thirds and the end of an episode, and what became of it."""
    colour = GOOD if result.success else BAD
    for shot in range(SHOTS):
        at = (corner[0] + shot * (TILE[0] + GAP), corner[1])
        _paste(sheet, film[round((len(film) - 1) * (shot + 1) / SHOTS)], at, TILE)
    last = (corner[0] + (SHOTS - 1) * (TILE[0] + GAP), corner[1])
    _frame(sheet, last, TILE, colour)
    text = f"{_outcome(result)}; {100 * result.path_length:.0f} cm"
    ImageDraw.Draw(sheet).text((corner[0], corner[1] + TILE[1] + 2), text, colour, _font(12))


def _outcome(result: CellResult) -> str:
    hits = f", {result.collisions} in collision" if result.collisions else ""
    ended = "success" if result.success else f"failed after '{result.stage}'"
    return f"{ended}, {result.steps} steps{hits}"


def _paste(sheet: Image.Image, image: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> None:
    sheet.paste(ImageOps.pad(Image.fromarray(image), size, Image.Resampling.LANCZOS, PAPER), corner)


def _frame(sheet: Image.Image, corner: tuple[int, int], size: tuple[int, int], colour: str) -> None:
    box = (corner[0], corner[1], corner[0] + size[0] - 1, corner[1] + size[1] - 1)
    ImageDraw.Draw(sheet).rectangle(box, outline=colour, width=3)


def _cut(text: str, width: int, size: int) -> str:
    font = _font(size)
    while font.getlength(text) > width and len(text) > 4:
        text = text[:-2].rstrip(".") + "."
    return text


def success_chart(policies: Mapping[str, dict[str, Any]]) -> Image.Image:
    """Draw success with its 95 % interval per cell and policy, from their summaries."""
    cells = list(next(iter(policies.values()))["tasks"])
    titles = [*(spoken(cell) for cell in cells), "all episodes"]
    canvas = _Bars("Success with 95 % Wilson intervals", titles, list(policies))
    for line, found in enumerate(policies.values()):
        shares = [*(found["tasks"][cell]["success"] for cell in cells), found["pooled"]["success"]]
        for row, share in enumerate(shares):
            canvas.interval(row, line, share["low"], share["rate"], share["high"])
    return canvas.picture


def stage_chart(policies: Mapping[str, dict[str, Any]]) -> Image.Image:
    """Draw the share of episodes per furthest stage that was reached, per cell and policy."""
    cells = list(next(iter(policies.values()))["tasks"])
    used = {stage for found in policies.values() for stage in found["pooled"]["stages"]}
    legend = [stage for stage in STAGES if stage in used] + sorted(used - set(STAGES))
    canvas = _Bars(
        "Furthest stage reached, share of episodes", [spoken(cell) for cell in cells], list(policies)
    )
    for row, cell in enumerate(cells):
        for line, found in enumerate(policies.values()):
            summary, begin = found["tasks"][cell], 0.0
            for stage in legend:
                share = summary["stages"].get(stage, 0) / summary["episodes"]
                canvas.block(row, line, begin, begin + share, _stage_colour(stage))
                begin += share
    canvas.legend([(stage, _stage_colour(stage)) for stage in legend])
    return canvas.picture


def _stage_colour(stage: str) -> str:
    return STAGE_COLOURS[STAGES.index(stage)] if stage in STAGES else SOFT


class _Bars:
    """Horizontal bars from 0 to 100 %: one group of lines per row, one line per policy."""

    LEFT, RIGHT, LINE, TOP = 250, 30, 16, 64

    def __init__(self, title: str, rows: Sequence[str], names: Sequence[str]) -> None:
        self.group = self.LINE * len(names) + 14
        self.width, self.bottom = 900, self.TOP + self.group * len(rows)
        self.picture = Image.new("RGB", (self.width, self.bottom + 58), PAPER)
        self.draw = ImageDraw.Draw(self.picture)
        self.draw.text((12, 8), title, TEXT, _font(18))
        self._names(names)
        for percent in range(0, 101, 20):
            x = self.x(percent / 100)
            self.draw.line((x, self.TOP, x, self.bottom), GRID)
            self.draw.text((x, self.bottom + 4), f"{percent} %", SOFT, _font(12), anchor="ma")
        for row, text in enumerate(rows):
            middle = self.TOP + self.group * (row + 0.5)
            cut = _cut(text, self.LEFT - 22, 14)
            self.draw.text((self.LEFT - 12, middle), cut, TEXT, _font(14), anchor="rm")

    def x(self, share: float) -> float:
        return self.LEFT + share * (self.width - self.LEFT - self.RIGHT)

    def y(self, row: int, line: int) -> float:
        return self.TOP + self.group * row + 7 + self.LINE * (line + 0.5)

    def interval(self, row: int, line: int, low: float, rate: float, high: float) -> None:
        y, colour = self.y(row, line), POLICY_COLOURS[line % len(POLICY_COLOURS)]
        self.draw.line((self.x(low), y, self.x(high), y), colour, 3)
        for end in (low, high):
            self.draw.line((self.x(end), y - 4, self.x(end), y + 4), colour, 2)
        self.draw.ellipse((self.x(rate) - 5, y - 5, self.x(rate) + 5, y + 5), colour)

    def block(self, row: int, line: int, begin: float, end: float, colour: str) -> None:
        y, mark = self.y(row, line), POLICY_COLOURS[line % len(POLICY_COLOURS)]
        self.draw.rectangle((self.LEFT - 8, y - 6, self.LEFT - 4, y + 6), mark)
        if end > begin:
            self.draw.rectangle((self.x(begin), y - 6, self.x(end) - 1, y + 6), colour)

    def _names(self, names: Sequence[str]) -> None:
        self._keys([(name, POLICY_COLOURS[i % len(POLICY_COLOURS)]) for i, name in enumerate(names)], 36)

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        self._keys(entries, self.bottom + 28)

    def _keys(self, entries: Sequence[tuple[str, str]], y: float) -> None:
        x = 12.0
        for text, colour in entries:
            self.draw.rectangle((x, y + 2, x + 12, y + 14), colour)
            self.draw.text((x + 18, y), text, TEXT, _font(13))
            x += 36 + _font(13).getlength(text)
