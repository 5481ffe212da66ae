"""How often and how soon a node that ended by itself is started again."""

from __future__ import annotations

RESPAWN_DELAY_SECONDS = 1.0
WINDOW_SECONDS = 600.0


class RespawnBudget:
    """Allows ``limit`` starts within the last ten minutes, so that a run of days outlives rare crashes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._granted: list[float] = []

    def grant(self, now: float) -> bool:
        """Return whether another start is allowed at ``now`` (monotonic s), and count it."""
        self._granted = [time for time in self._granted if now - time < WINDOW_SECONDS]
        if len(self._granted) >= self._limit:
            return False
        self._granted.append(now)
        return True
