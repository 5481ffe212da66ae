"""The error of checkpoints and adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SHOWN = 20


class CheckpointError(ValueError):
    """A checkpoint or adapter folder was refused; ``problems`` holds everything that is wrong with it."""

    def __init__(self, folder: Path, problems: Sequence[str]) -> None:
        self.folder, self.problems = folder, list(problems)
        more = [f"(and {len(problems) - SHOWN} more)"] if len(problems) > SHOWN else []
        lines = "".join(f"\n  - {line}" for line in [*problems[:SHOWN], *more])
        super().__init__(f"checkpoint {folder} was refused; nothing was loaded from it:{lines}")
