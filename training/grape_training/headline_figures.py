"""The figures of a study: success by arm and suite, iterations, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH, DPI = 9.0, 110  # inches; pixels an inch
COLUMNS = 3
CURVES = {"loss": "loss", "margin": "margin", "accuracy": "accuracy", "kl": "KL, nats a step"}
Curves = Mapping[tuple[str, int], Sequence[Mapping[str, float]]]


def draw_figures(document: dict[str, Any], study: dict[str, Any], curves: Curves, folder: Path) -> list[Path]:
    """Write the figures for which there are data as PNG; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = mpl.color_sequences["tab20"]  # strong colours and pale ones in turn
    colours = dict(zip(study["arms"], cycle([*pairs[::2], *pairs[1::2]]), strict=False))
    drawn = {
        "success_by_arm": _success(document, study, colours),
        "iterations": _iterations(document, study),
        "training_curves": _curves(study, curves, colours),
    }
    paths = []
    for name, figure in drawn.items():
        (folder / f"{name}.png").unlink(missing_ok=True)
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
            paths.append(folder / f"{name}.png")
    return paths


def _success(document: dict[str, Any], study: dict[str, Any], colours: Mapping[str, Any]) -> Figure | None:
    """Draw one panel a suite: a bar with its interval for every arm, a dot for every seed."""
    suites = {suite: arms for suite, arms in document["cells"].items() if arms}
    if not suites:
        return None
    rows, columns = -(-len(suites) // COLUMNS), min(COLUMNS, len(suites))
    names = [arm for arm in study["arms"] if any(arm in arms for arms in suites.values())]
    figure = Figure(figsize=(WIDTH, rows * (0.6 + 0.24 * len(names))), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, (suite, arms) in zip(panels, suites.items(), strict=False):
        _bars(panel, [(names.index(arm), cell, colours[arm]) for arm, cell in arms.items()])
        panel.set_title(f"{suite}, {max(arm['states'] for arm in arms.values())} states", fontsize=9)
    panels[0].set_yticks(range(len(names)), [study["arms"][name]["title"] for name in names])
    panels[0].invert_yaxis()
    panels[0].set_xlim(0, 100)
    for panel in panels[len(suites) :]:
        panel.set_axis_off()
    figure.supxlabel("success, % (bar: 95 % interval; dot: one seed)", fontsize=9)
    return figure


def _bars(panel: Axes, bars: Sequence[tuple[int, dict[str, Any], Any]]) -> None:
    """Draw (place, cell, colour)."""
    for place, cell, colour in bars:
        rate = cell["success"]
        low, high = rate["value"] - rate["low"], rate["high"] - rate["value"]
        panel.barh(place, 100 * rate["value"], color=colour, alpha=0.65)
        span = [[100 * low], [100 * high]]
        panel.errorbar(100 * rate["value"], place, xerr=span, color="black", capsize=2, lw=1)
        if len(cell["seeds"]) > 1:
            dots = [100 * seed["success"]["rate"] for seed in cell["seeds"].values()]
            panel.plot(dots, [place] * len(dots), "o", color="white", mec="black", ms=3.5, mew=0.7)
    panel.tick_params(labelsize=7)
    panel.grid(axis="x", alpha=0.3)


def _iterations(document: dict[str, Any], study: dict[str, Any]) -> Figure | None:
    """Draw success over the iterations, one line a suite of the claims.

    All of them of their first seed: a later iteration builds on the first seed of the one before.
    """
    arms, claims = study["claims"]["iterations"], study["claims"]
    wanted = [*claims["in_domain"], *claims["unseen"]] if len(arms) > 1 else []
    suites = [suite for suite in wanted if all(arm in document["cells"][suite] for arm in arms)]
    if not suites:
        return None
    figure = Figure(figsize=(WIDTH * 0.75, 3.6), layout="constrained")
    panel = figure.subplots()
    for number, suite in enumerate(suites):
        cells = [document["cells"][suite][arm] for arm in arms]
        rates = [next(iter(cell["seeds"].values()))["success"] for cell in cells]
        middle = [100 * rate["rate"] for rate in rates]
        spans = [
            [100 * (r["rate"] - r["low"]) for r in rates],
            [100 * (r["high"] - r["rate"]) for r in rates],
        ]
        places = np.arange(len(arms)) + 0.03 * (number - len(suites) / 2)
        panel.errorbar(places, middle, yerr=spans, marker="o", ms=4, capsize=2, lw=1.4, label=suite)
    panel.set_xticks(range(len(arms)), [study["arms"][arm]["title"] for arm in arms], fontsize=8)
    panel.set_ylabel("success of the first seed, %")
    panel.set_ylim(0, 100)
    panel.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _curves(study: dict[str, Any], curves: Curves, colours: Mapping[str, Any]) -> Figure | None:
    """Draw what training did over the optimiser steps: one line a run, smoothed; one panel a quantity."""
    if not curves:
        return None
    figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for panel, (name, title) in zip(panels, CURVES.items(), strict=True):
        for (arm, seed), rows in curves.items():
            values = [row.get(name, np.nan) for row in rows]
            first = seed == study["arms"][arm]["seeds"][0]
            label = study["arms"][arm]["title"] if first and panel is panels[0] else None
            panel.plot(*_smooth(values), color=colours[arm], lw=1.0, alpha=1.0 if first else 0.5, label=label)
        panel.set_title(title, fontsize=9)
        panel.grid(alpha=0.3)
        panel.tick_params(labelsize=7)
    panels[-1].set_yscale("symlog", linthresh=0.1)  # rollouts with a lift have a KL estimate of thousands
    for panel in panels[2:]:
        panel.set_xlabel("optimiser step", fontsize=9)
    figure.legend(loc="outside lower center", fontsize=8, ncols=4)
    return figure


def _smooth(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and the running mean over a twentieth of them."""
    width = max(1, len(values) // 20)
    return np.arange(len(values) - width + 1) + (width - 1) / 2, np.convolve(
        values, np.full(width, 1.0 / width), "valid"
    )
