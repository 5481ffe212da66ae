"""One evaluated episode as a compact row, and back."""

from __future__ import annotations

from typing import Any

from grape_training.cells import CellResult

DECIMALS = {"path_length": 5, "jerk": 4, "seconds": 3, "policy_seconds": 3}
FIELDS = (
    "initial_state_id",
    "success",
    "grasped",
    "collisions",
    "steps",
    "path_length",
    "jerk",
    "stage",
    "seconds",
    "policy_seconds",
)


def row_of(cell: CellResult) -> list[Any]:
    """Return the values of ``FIELDS``; flags as 0 or 1, lengths and times rounded."""
    return [_plain(name, getattr(cell, name)) for name in FIELDS]


def _plain(name: str, value: Any) -> Any:
    if name in DECIMALS:
        return round(float(value), DECIMALS[name])
    return int(value) if isinstance(value, bool) else value


def cell_of(row: dict[str, str]) -> CellResult:
    """Return the episode of a row of text by column name.

    Raises:
        ValueError: a value is no number.
        KeyError: a column is missing.
    """
    return CellResult(
        initial_state_id=row["initial_state_id"],
        success=row["success"] == "1",
        grasped=row["grasped"] == "1",
        collisions=int(row["collisions"]),
        steps=int(row["steps"]),
        stage=row["stage"],
        **{name: float(row[name]) for name in DECIMALS},
    )
