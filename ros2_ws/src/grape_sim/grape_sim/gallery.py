"""A contact sheet of suites: the first image of each cell's tasks with what the robot is told."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from grape_sim.environment import SimEnvironment
from grape_sim.suite_types import Suite

COLUMNS = 6  # tiles a row
TILE, CAPTION = 200, 44  # pixels: side of the square picture, height of the words below it
_BACKGROUND, _INK, _GREY = (255, 255, 255), (20, 20, 20), (110, 110, 110)


def contact_sheet(suites: Iterable[Suite], index: int = 0) -> Image.Image:
    """Return one picture (the policy's view) of a state of the last split for every task of every cell."""
    tiles = [tile for suite in suites for tile in _tiles(suite, index)]
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (TILE + 4), rows * (TILE + CAPTION)), _BACKGROUND)
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % COLUMNS * (TILE + 4), number // COLUMNS * (TILE + CAPTION)))
    return sheet


def save_contact_sheet(suites: Iterable[Suite], output: Path, index: int = 0) -> None:
    """Write the contact sheet to a PNG file, whole or not at all."""
    sheet = contact_sheet(suites, index)
    partial = output.with_name(f".{output.name}.part")
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256, dither=Image.Dither.NONE).save(partial, format="PNG", optimize=True)
    partial.replace(output)


def _tiles(suite: Suite, index: int) -> list[Image.Image]:
    environment = SimEnvironment(suite=suite)
    tiles = []
    try:
        for cell in suite.cells.values():
            for number in range(len(cell.tasks)):  # the index chooses the task
                state = suite.state_id(cell.name, suite.splits[-1], index * len(cell.tasks) + number)
                image = environment.reset(state).image
                tiles.append(_tile(image, state.split("/")[0], environment.instruction))
    finally:
        environment.close()
    return tiles


def _tile(image: np.ndarray, label: str, instruction: str) -> Image.Image:
    side = (image.shape[1] - image.shape[0]) // 2
    tile = Image.new("RGB", (TILE, TILE + CAPTION), _BACKGROUND)
    tile.paste(Image.fromarray(image[:, side:-side]).resize((TILE, TILE), Image.Resampling.BICUBIC), (0, 0))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(11)
    draw.text((2, TILE + 1), label, fill=_INK, font=_fitting_font(label))
    words = textwrap.wrap(instruction, 34)[:2]
    for row, line in enumerate(words):
        draw.text((2, TILE + 14 + 13 * row), line, fill=_GREY, font=font)
    return tile


def _fitting_font(text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the largest font in which ``text`` does not run into the next tile."""
    fonts = [ImageFont.load_default(size) for size in range(11, 5, -1)]
    return next((font for font in fonts if font.getlength(text) <= TILE - 4), fonts[-1])
