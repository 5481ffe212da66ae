"""Which stages an episode is scored with: those given by the user, else the shipped ones of its task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from grape_preference.constraints import ConstraintError, StagePlan, check_file, plan_for_task
from grape_preference.judge import JUDGES, KEYPOINTS
from grape_preference.objectives import DEFAULT_OBJECTIVE, OBJECTIVES


@dataclass(frozen=True)
class ScoringOptions:
    """How each episode is scored; plain data, so that it can be sent to other processes.

    objective: see ``objectives.OBJECTIVES``. judge: see ``judge.JUDGES``. stages: a stage file (used for its
    own task) or a folder with ``<task>.yaml``; other tasks use the shipped stages.

    Raises:
        ValueError: unknown objective or judge, or the stage file or a file of the folder is not valid.
    """

    objective: str = DEFAULT_OBJECTIVE
    judge: str = KEYPOINTS
    stages: Path | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {self.objective!r}; choose one of {', '.join(OBJECTIVES)}")
        if self.judge not in JUDGES:
            raise ValueError(f"unknown judge {self.judge!r}; choose one of {', '.join(JUDGES)}")
        if self.stages is not None:
            _own_plans(self.stages)

    def plan(self, task: str) -> StagePlan:
        """Return the stages of ``task``; raise ConstraintError when there are none."""
        own = _own_plans(self.stages) if self.stages is not None else {}
        return own[task] if task in own else plan_for_task(task)


@lru_cache(maxsize=8)
def _own_plans(path: Path) -> dict[str, StagePlan]:
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    if not files:
        raise ConstraintError(f"{path}: no stage files (<task>.yaml) in it")
    return {plan.task: plan for plan in map(check_file, files)}
