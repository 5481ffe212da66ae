"""Answers that a good vision-language model would give."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from grape_preference.constraints import plan_for_task
from grape_preference.vlm_prompts import document_of


def good_answer(marked: Iterable[str], task: str = "carrot_on_plate") -> dict[str, Any]:
    """The shipped stages as an answer, where the objects ``marked`` are numbered from 1 in this order."""
    document = document_of(plan_for_task(task))
    numbers = {name: number for number, name in enumerate(marked, start=1)}
    keypoints = [{"number": numbers[name], "name": name} for name in document["keypoints"]]
    return {"keypoints": keypoints, "stages": [{"start": None, **stage} for stage in document["stages"]]}
