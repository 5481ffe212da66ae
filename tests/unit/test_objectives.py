"""Objectives, custom weights, own stage files and the template for placing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from grape_preference.constraints import ConstraintError, plan_for_task, template_plan
from grape_preference.objectives import OBJECTIVES, apply_objective
from grape_preference.plans import ScoringOptions
from grape_preference.rewards import find_preset, gcpg
from grape_preference.stage_scoring import external_reward, score_stages
from grape_preference.task_table import TemplateTask
from preference_factory import make_score, make_tracks

PLAN = plan_for_task("carrot_on_plate")


def constraints_of(plan, kind: str) -> list[tuple[float, float]]:
    return [(c.weight, c.threshold) for stage in plan.stages for c in stage.constraints if c.kind == kind]


def test_safety_asks_more_of_collisions_only() -> None:
    safe = apply_objective(PLAN, "safety")
    before, after = constraints_of(PLAN, "collision"), constraints_of(safe, "collision")
    assert after == [(4 * weight, threshold / 4) for weight, threshold in before]
    assert constraints_of(safe, "path") == constraints_of(PLAN, "path")
    assert safe.sha256 != PLAN.sha256
    assert apply_objective(PLAN, "task") is PLAN


def test_efficiency_asks_more_of_paths_only() -> None:
    quick = apply_objective(PLAN, "efficiency")
    assert constraints_of(quick, "path") == [(4 * w, t / 2) for w, t in constraints_of(PLAN, "path")]
    assert constraints_of(quick, "collision") == constraints_of(PLAN, "collision")


def push_or_detour(pushed: float, detour: float):
    """Reach for the carrot; the plate gets pushed, or the hand takes a longer way."""
    frames = 12
    side = detour * np.sin(np.linspace(0, np.pi, frames))
    hand = np.linspace([0.2, 0.0, 0.3], [0.3, 0.0, 0.02], frames) + side[:, None] * [0, 1, 0]
    plate = np.linspace([0.3, 0.2, 0.005], [0.3, 0.2 + pushed, 0.005], frames)
    return make_tracks(hand, {"carrot": [0.3, 0.0, 0.012], "plate": plate})


def test_objectives_change_which_of_two_is_better() -> None:
    pushed, slow = push_or_detour(0.05, 0.0), push_or_detour(0.0, 0.6)

    def rewards(objective: str) -> tuple[float, float]:
        plan = apply_objective(PLAN, objective)
        a, b = (external_reward(score_stages(plan, tracks)) for tracks in (pushed, slow))
        return a, b

    safe, quick = rewards("safety"), rewards("efficiency")
    assert safe[0] < safe[1]
    assert quick[0] > quick[1]


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="choose one of task, safety, efficiency"):
        apply_objective(PLAN, "glory")
    with pytest.raises(ValueError, match="unknown objective 'glory'"):
        ScoringOptions(objective="glory")
    with pytest.raises(ValueError, match="choose one of keypoints, recorded"):
        ScoringOptions(judge="me")
    assert list(OBJECTIVES) == ["task", "safety", "efficiency"]


GROUP = [make_score("a", -0.2, 0.2, True), make_score("b", -0.4, 0.6, False)]


def test_custom_weights() -> None:
    assert gcpg(GROUP, "raw:1,10,100") == pytest.approx([-2 + 2 + 100, -4 + 6])
    assert gcpg(GROUP, "0,1,0") == pytest.approx([-1.0, 1.0])
    assert find_preset(" 0, 1 ,0").standardised


@pytest.mark.parametrize("text", ["1,2", "1,2,3,4", "a,b,c", "nan,1,1", "1,inf,1", "", "raw:", "Balanced"])
def test_other_weights_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unknown preset"):
        gcpg(GROUP, text)


def test_placing_needs_no_file() -> None:
    plan = plan_for_task("eggplant_on_plate")
    assert plan.keypoints == ("eggplant", "plate")
    assert [stage.name for stage in plan.stages] == ["reach", "grasp", "move", "place"]
    assert plan_for_task("green_cube_in_basket").keypoints == ("green_cube", "basket")
    assert template_plan("lid_to_pot", TemplateTask("placed", "lid", "pot")).task == "lid_to_pot"
    push = plan_for_task("push_green_cube_to_plate")
    assert push.keypoints == ("green_cube", "plate")
    assert "< 0.09 and" in push.success.text
    assert plan_for_task("knock_over_carrot").success.text == "fallen(carrot)"
    for task in ("unicorn_on_plate", "carrot_near_plate", "_on_"):
        with pytest.raises(ConstraintError, match="no stages for task"):
            plan_for_task(task)


@pytest.mark.parametrize("name", ["a: b", "x]\nend", "A", "", "x" * 41, "$source"])
def test_the_template_takes_names_only(name: str) -> None:
    with pytest.raises(ConstraintError, match="is not a name"):
        template_plan("t", TemplateTask("placed", name, "plate"))


def test_own_stage_files_come_first(tmp_path: Path) -> None:
    text = "\n".join(
        [
            "version: 1",
            "task: carrot_on_plate",
            "keypoints: [carrot]",
            "unreached_cost: 2",
            "stages: [{name: wait, end: 'time > 1', constraints: []}]",
        ]
    )
    path = tmp_path / "carrot_on_plate.yaml"
    path.write_text(text)
    for source in (path, tmp_path):
        options = ScoringOptions(stages=source)
        assert options.plan("carrot_on_plate").keypoints == ("carrot",)
        assert options.plan("stack_cube") == plan_for_task("stack_cube")
    (tmp_path / "broken.yaml").write_text("stages: 1")
    with pytest.raises(ConstraintError, match=r"broken\.yaml"):
        ScoringOptions(stages=tmp_path / "broken.yaml")
    (tmp_path / "none").mkdir()
    with pytest.raises(ConstraintError, match="no stage files"):
        ScoringOptions(stages=tmp_path / "none")
