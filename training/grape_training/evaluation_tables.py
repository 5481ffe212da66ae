"""The tables of an evaluation's report: figures as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grape_training.report_charts import interval_bar
from grape_training.report_files import DASH, percent_with_interval, spoken

MEANS = {  # key of a summary: title, digits, factor
    "steps": ("steps of 0.2 s", 1, 1.0),
    "steps_to_success": ("steps to success", 1, 1.0),
    "path_length": ("path of the end effector, cm", 1, 100.0),
    "jerk": ("jerk, RMS, m/s³", 2, 1.0),
    "collision_steps": ("steps in collision", 2, 1.0),
    "seconds": ("computing time of an episode, s", 2, 1.0),
}
Summaries = Mapping[str, dict[str, Any]]


def success_rows(policies: Summaries) -> list[dict[str, Any]]:
    """Return success per cell, then micro and macro; each policy's as text and bar."""
    first = next(iter(policies.values()))
    rows = [
        _success(
            spoken(cell),
            first["tasks"][cell]["episodes"],
            [p["tasks"][cell]["success"] for p in policies.values()],
        )
        for cell in first["tasks"]
    ]
    micro = [found["pooled"]["success"] for found in policies.values()]
    macro = [
        {**found["macro"]["success"], "rate": found["macro"]["success"]["value"]}
        for found in policies.values()
    ]
    rows.append(_success("all episodes (micro)", first["pooled"]["episodes"], micro) | {"total": True})
    return [*rows, _success("mean over cells (macro)", DASH, macro) | {"total": True}]


def _success(title: str, episodes: Any, shares: list[dict[str, Any]]) -> dict[str, Any]:
    cells = [
        {
            "text": percent_with_interval(share),
            "bar": interval_bar(share["rate"], share["low"], share["high"], style),
        }
        for style, share in enumerate(shares)
    ]
    return {"title": title, "episodes": episodes, "cells": cells, "total": False}


def motion_rows(policies: Summaries) -> list[tuple[str, list[str]]]:
    """Return grasps, collisions and means of motion, one column per policy."""
    pooled = [found["pooled"] for found in policies.values()]
    titles = {"grasped": "episodes that grasped the object", "collided": "episodes with a collision"}
    rows = [(title, [percent_with_interval(each[key]) for each in pooled]) for key, title in titles.items()]
    for key, (title, digits, factor) in MEANS.items():
        rows.append((title, [_figure(each[key], digits, factor) for each in pooled]))
    return rows


def _figure(value: float | None, digits: int, factor: float, sign: str = "") -> str:
    return DASH if value is None else f"{factor * value:{sign}.{digits}f}"


def difference_tables(comparisons: Mapping[str, dict[str, Any]], base: str) -> list[dict[str, Any]]:
    """Return each policy's differences from ``base``: success per cell, means over all episodes."""
    return [
        {"name": name, "base": base, "success": _success_changes(found), "means": _mean_changes(found)}
        for name, found in comparisons.items()
    ]


def _success_changes(found: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [_change(spoken(cell), each["success"]) for cell, each in found["tasks"].items()]
    rows.append(_change("all episodes (micro)", found["success"]) | {"total": True})
    macro = found["macro"]["success"]
    points = _points(macro["value"], macro["low"], macro["high"])
    return [*rows, {"title": "mean over cells (macro)", "total": True, "figures": [*points, *[DASH] * 4]}]


def _change(title: str, change: dict[str, Any]) -> dict[str, Any]:
    figures = [
        *_points(change["difference"], change["low"], change["high"]),
        str(change["gained"]),
        str(change["lost"]),
        f"{change['p_two_sided']:.3f}",
        f"{change['p_holm']:.3f}" if "p_holm" in change else DASH,
    ]
    return {"title": title, "total": False, "figures": figures}


def _points(value: float, low: float, high: float) -> list[str]:
    return [f"{100 * value:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"]


def _mean_changes(found: dict[str, Any]) -> list[dict[str, Any]]:
    titles = {key: title for key, (title, _, _) in MEANS.items() if key in found}
    titles["steps_both_succeed"] = "steps where both succeed"
    rows = []
    for key, title in titles.items():
        change = found[key]
        if change is None:
            continue
        _, digits, factor = MEANS.get(key, MEANS["steps"])
        low, high = (_figure(change[end], digits, factor, "+") for end in ("low", "high"))
        figures = [_figure(change[side], digits, factor) for side in ("candidate", "incumbent")]
        figures += [_figure(change["difference"], digits, factor, "+"), f"{low} to {high}"]
        rows.append({"title": title, "figures": figures})
    return rows
