"""Task lists: what they stand for, and that nonsense is refused with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from grape_policy.collection.task_list import TaskListError, load_task_list, simulated_task_list

GOOD: dict[str, Any] = {
    "name": "night_shift",
    "rollouts": 2,
    "tasks": [
        {"task": "carrot_on_plate", "states": 2},
        {
            "task": "stack_cube",
            "forward": "stack the cubes",
            "backward": "take the green cube down",
            "states": 1,
            "reset": ["inverse", "scatter", "ask"],
        },
    ],
    "limits": {"hours": 8, "quiet_hours": ["22:00-07:00"]},
}


def written(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "tasks.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def test_a_list_is_a_plan_of_rollouts(tmp_path: Path) -> None:
    wanted = load_task_list(written(tmp_path, GOOD))
    states = [rollout.initial_state_id for rollout in wanted.plan()]
    assert states == [
        *["carrot_on_plate/collect/0000"] * 2,
        *["carrot_on_plate/collect/0001"] * 2,
        *["stack_cube/night_shift/0000"] * 2,  # no simulator puts it there: the name is the list's
    ]
    assert len(set(wanted.plan())) == 6
    assert wanted.find("stack_cube").backward == "take the green cube down"


def test_the_command_line_stands_for_the_same_plan_as_the_episode_manager_runs() -> None:
    from grape_policy.collection.rollouts import plan

    wanted = simulated_task_list(["stack_cube"], states=2, rollouts=3, seed=7)
    states = ["stack_cube/collect/0000", "stack_cube/collect/0001"]
    assert wanted.plan() == plan(["stack_cube"] * 2, states, 3, 7)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tasks": []}, "tasks: .*at least 1"),
        ({"rollouts": 0}, "rollouts: .*greater than or equal to 1"),
        ({"temprature": 1.0}, "temprature: .*not permitted"),
        ({"name": "../up"}, "name: "),
        ({"limits": {"quiet_hours": ["22 to 7"]}}, "limits.quiet_hours: .*22:00-07:00"),
        ({"limits": {"quiet_hours": ["07:00-07:00"]}}, "begin when they end"),
        ({"tasks": [{"task": "a"}, {"task": "a"}]}, "listed twice"),
        ({"tasks": [{"task": "a", "reset": ["magic"]}]}, r"tasks.0.reset.0: "),
        ({"tasks": [{"task": "a", "reset": ["inverse", "ask"], "forward": "do"}]}, "needs .*backward"),
        ({"tasks": [{"task": "a", "reset": ["ask"]}]}, "forward"),
        ({"tasks": [{"task": "a", "reset": ["scatter"], "forward": "do"}]}, "set rollouts to 1"),
        (
            {"tasks": [{"task": "a", "reset": ["inverse"], "forward": "do", "backward": "undo"}]},
            "no reset can make a first scene",
        ),
        (
            {"tolerance": 0, "tasks": [{"task": "a", "reset": ["ask"], "forward": "do"}]},
            "tolerance must not be 0",
        ),
    ],
)
def test_a_wrong_list_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(TaskListError, match=complaint) as caught:
        load_task_list(written(tmp_path, GOOD | change))
    assert "tasks.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["- a", "tasks: [", "42", ""])
def test_what_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TaskListError, match=r"tasks\.yaml"):
        load_task_list(written(tmp_path, text))
    with pytest.raises(TaskListError, match="cannot be read"):
        load_task_list(tmp_path / "absent.yaml")
