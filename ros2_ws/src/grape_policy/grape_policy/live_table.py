"""The diagnostics of the running graph as text: one line per node, and the timing of each loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEVELS = ("ok", "WARN", "ERROR", "STALE")  # of diagnostic_msgs/DiagnosticStatus
TIMES = {"period_ms": "period", "jitter_p99_ms": "jitter p99", "work_p99_ms": "work p99"}
SHARE = "share_"


@dataclass(frozen=True)
class NodeReport:
    """What one node said last: name, level (index into ``LEVELS``), message and key-value pairs."""

    name: str
    level: int
    message: str
    values: dict[str, str]

    @property
    def shares(self) -> dict[str, float]:
        """Section of the loop -> its share of the loop's work."""
        return {key.removeprefix(SHARE): float(v) for key, v in self.values.items() if key.startswith(SHARE)}


def live_table(reports: Sequence[NodeReport]) -> str:
    """Return both tables as text."""
    states = [("node", "level", "message")] + [(r.name, LEVELS[r.level], r.message) for r in reports]
    loops = [("loop", *TIMES.values(), "starved", "share of the work")]
    loops += [_timing(report) for report in reports if "period_ms" in report.values]
    return "\n".join([*_aligned(states), "", *_aligned(loops)])


def _timing(report: NodeReport) -> tuple[str, ...]:
    times = [f"{float(report.values[key]):.1f} ms" if key in report.values else "-" for key in TIMES]
    sections = sorted(report.shares.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {share:.0%}" for name, share in sections) or "-"
    return (report.name, *times, report.values.get("starved_ticks", "-"), shares)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(r, widths, strict=True)).rstrip() for r in rows
    ]
