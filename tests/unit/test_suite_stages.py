"""Every task of every shipped suite has stages over objects whose appearance is declared."""

from __future__ import annotations

import pytest
from grape_preference.appearance import appearances, relaxed
from grape_preference.constraints import plan_for_task
from grape_sim.suite import SHIPPED, load_suite


@pytest.mark.parametrize("suite", SHIPPED)
def test_tasks_have_stages_and_objects_colours(suite: str) -> None:
    for task in load_suite(suite).tasks.values():
        plan = plan_for_task(task.name)
        assert plan.task == task.name
        one_object = task.success.kind == "knocked_over"
        assert plan.keypoints == ((task.source,) if one_object else (task.source, task.target))
        assert set(plan.keypoints) <= appearances().keys()
        if task.success.kind == "pushed":
            assert f"< {task.success.distance:g} and" in plan.success.text
        if one_object:
            assert plan.success.text == f"fallen({task.source})"


def test_relaxed_colours_contain_the_declared_ones() -> None:
    for item in appearances().values():
        for narrow, wide in zip(item.body + item.parts, sum_of(relaxed(item)), strict=True):
            assert all(a >= b for a, b in zip(narrow.lower, wide.lower, strict=True))
            assert all(a <= b for a, b in zip(narrow.upper, wide.upper, strict=True))


def sum_of(item):
    return item.body + item.parts
