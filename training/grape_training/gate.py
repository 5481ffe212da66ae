"""The gate: a candidate replaces the incumbent only if a paired test says that it is better and no less safe.

Rule, on the same initial states for both:

1. success: the paired difference is above zero and its one-sided exact McNemar p-value is at most ``alpha``;
2. collisions: the one-sided upper bound (confidence ``1 - alpha``, Agresti-Min) of the increase of the share
   of episodes with a collision is below ``collision_margin``.

A version that only looks better by luck is refused at rate ``1 - alpha``. The short demo has too few episodes
for ``alpha = 0.05`` and uses :data:`DEMO`; its reason says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from grape_training.statistics import PairedDifference, agresti_min, paired_difference
from grape_training.tables import p_text


@dataclass(frozen=True)
class GateOptions:
    """Significance level of both tests and the tolerated increase of the collision rate (0..1)."""

    alpha: float = 0.05
    collision_margin: float = 0.05
    label: str = ""


DEMO = GateOptions(alpha=0.2, collision_margin=0.15, label="demo thresholds: few episodes, weak evidence")


@dataclass(frozen=True)
class Decision:
    """What the gate decided, for which pair of versions, on which evidence."""

    candidate: str
    incumbent: str | None
    promote: bool
    reason: str
    success: PairedDifference
    collisions: PairedDifference
    collision_bound: float
    options: GateOptions

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


class Cell(Protocol):
    """The part of an evaluated episode that the gate looks at."""

    @property
    def initial_state_id(self) -> str: ...  # noqa: D102
    @property
    def success(self) -> bool: ...  # noqa: D102
    @property
    def collisions(self) -> int: ...  # noqa: D102


def decide(
    candidate: str,
    incumbent: str | None,
    candidate_cells: Sequence[Cell],
    incumbent_cells: Sequence[Cell],
    options: GateOptions | None = None,
) -> Decision:
    """Compare two evaluations over the same initial states.

    Raises:
        ValueError: the evaluations are empty or cover different initial states.
    """
    options = options or GateOptions()
    new, old = _aligned(candidate_cells), _aligned(incumbent_cells)
    if [cell.initial_state_id for cell in new] != [cell.initial_state_id for cell in old]:
        raise ValueError("candidate and incumbent were evaluated on different initial states")
    success = paired_difference([c.success for c in new], [c.success for c in old])
    collisions = paired_difference([c.collisions > 0 for c in new], [c.collisions > 0 for c in old])
    bound = agresti_min(collisions.gained, collisions.lost, collisions.total, 1 - 2 * options.alpha)[1]
    promote, reason = _judge(success, bound, options)
    return Decision(candidate, incumbent, promote, reason, success, collisions, bound, options)


def _aligned(cells: Sequence[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: cell.initial_state_id)


def _judge(success: PairedDifference, bound: float, options: GateOptions) -> tuple[bool, str]:
    gain = f"success {success.difference:+.1%} over {success.total} pairs ({p_text(success.p_greater)})"
    safety = f"collision increase below {bound:.1%} at confidence {1 - options.alpha:.0%}"
    note = f" [{options.label}]" if options.label else ""
    if success.difference <= 0 or success.p_greater > options.alpha:
        return False, f"{gain}: not better at alpha = {options.alpha}{note}"
    if bound >= options.collision_margin:
        return (
            False,
            f"{gain}, but {safety}, margin {options.collision_margin:.1%}: not shown to be as safe{note}",
        )
    return True, f"{gain}; {safety}{note}"
