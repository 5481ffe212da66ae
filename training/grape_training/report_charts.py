"""Small charts as inline SVG, coloured by the page's style sheet (classes ``s0`` .. ``s5``).

Every chart carries a title and a description for screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 230
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 14, 40
STYLES = 6  # classes of lines in the style sheet


@dataclass(frozen=True)
class Band:
    """A stretch [begin, end] of the x axis with a name, drawn behind the lines."""

    begin: float
    end: float
    name: str


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float  # px
    stop: float  # px

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def line_chart(
    series: Mapping[str, Sequence[float]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    step: float = 1.0,
    top: float | None = None,
    bands: Sequence[Band] = (),
) -> Markup:
    """Return one line per series over x = 0, ``step``, 2 ``step`` ...; a value not finite leaves a gap.

    Args:
        series: name -> values.
        title: what the chart shows, for screen readers and as a tooltip.
        x_label: name and unit of the x axis.
        y_label: name and unit of the y axis.
        step: distance of two values on the x axis.
        top: highest value of the y axis if the data stay below, so that two charts can share a scale.
        bands: named stretches of the x axis.
    """
    values = [value for line in series.values() for value in line if math.isfinite(value)]
    if not values:
        return Markup('<p class="missing">No data.</p>')
    longest = max(len(line) for line in series.values())
    ticks_x = _ticks(0.0, max(step * (longest - 1), step))
    ticks_y = _ticks(min(0.0, *values), max(top if top is not None else -math.inf, *values))
    x = _Axis(0.0, max(step * (longest - 1), step), LEFT, WIDTH - RIGHT)
    y = _Axis(ticks_y[0], ticks_y[-1], HEIGHT - BOTTOM, TOP)
    parts = [_band(band, x) for band in bands]
    parts += [_horizontal(tick, y) for tick in ticks_y]
    parts += [_x_tick(tick, x) for tick in ticks_x if tick <= x.high * 1.0001]
    parts += [_line(index, line, step, x, y) for index, line in enumerate(series.values())]
    parts.append(
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}">{escape(x_label)}</text>'
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="label" transform="translate(13 {middle}) rotate(-90)">{escape(y_label)}</text>'
    )
    return _figure(parts, title, list(series))


def interval_bar(rate: float, low: float, high: float, style: int) -> Markup:
    """Return a rate in [0, 1] with its interval on a short bar from 0 to 100 %."""
    width, height = 120, 14
    middle = height / 2
    return Markup(
        f'<svg class="interval" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'aria-hidden="true">'
        f'<line class="track" x1="2" x2="{width - 2}" y1="{middle}" y2="{middle}"/>'
        f'<line class="s{style} range" x1="{2 + low * (width - 4):.1f}" x2="{2 + high * (width - 4):.1f}" '
        f'y1="{middle}" y2="{middle}"/>'
        f'<circle class="s{style} dot" cx="{2 + rate * (width - 4):.1f}" cy="{middle}" r="4"/></svg>'
    )


def _figure(parts: Sequence[str], title: str, names: Sequence[str]) -> Markup:
    legend = "".join(
        f'<li><svg width="26" height="10" aria-hidden="true"><line class="s{index % STYLES}" x1="1" y1="5" '
        f'x2="25" y2="5"/></svg>{escape(name)}</li>'
        for index, name in enumerate(names)
    )
    listed = f'<ul class="legend">{legend}</ul>' if len(names) > 1 else ""
    body = "".join(parts)
    return Markup(
        f'<div class="chart"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{body}</svg>{listed}</div>'
    )


def _band(band: Band, x: _Axis) -> str:
    start, stop = x(band.begin), x(min(band.end, x.high))
    return (
        f'<rect class="band" x="{start:.1f}" y="{TOP}" width="{max(stop - start, 1):.1f}" '
        f'height="{HEIGHT - BOTTOM - TOP}"><title>{escape(band.name)}</title></rect>'
    )


def _horizontal(tick: float, y: _Axis) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick end" x="{LEFT - 6}" y="{y(tick) + 4:.1f}">{tick:g}</text>'
    )


def _x_tick(tick: float, x: _Axis) -> str:
    return f'<text class="tick" x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}">{tick:g}</text>'


def _line(index: int, line: Sequence[float], step: float, x: _Axis, y: _Axis) -> str:
    """Return the polylines of one series; a lone value becomes a dot."""
    points = [
        (x(step * place), y(value)) if math.isfinite(value) else None for place, value in enumerate(line)
    ]
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    style = f"s{index % STYLES}"
    drawn = []
    for run in runs:
        if len(run) == 1:
            drawn.append(f'<circle class="{style} dot" cx="{run[0][0]:.1f}" cy="{run[0][1]:.1f}" r="3"/>')
        elif run:
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in run)
            drawn.append(f'<polyline class="{style}" points="{path}"/>')
    return "".join(drawn)


def _ticks(low: float, high: float) -> list[float]:
    """Return 3 to 7 round values whose first and last enclose [low, high]."""
    span = high - low if high > low else max(abs(high), 1.0)
    exponent = 10.0 ** math.floor(math.log10(span))
    size = next(factor * exponent for factor in (0.2, 0.5, 1.0, 2.0) if span / (factor * exponent) <= 5.0)
    first, last = math.floor(low / size), max(math.ceil(high / size), math.floor(low / size) + 1)
    ticks = [round(index * size, 10) for index in range(first, last + 1)]
    assert all(before < after for before, after in pairwise(ticks))
    return ticks
