"""The constraint language: what it computes, what it refuses and where it points."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from grape_preference.constraints import (
    ConstraintError,
    check_expression,
    check_file,
    plan_for_task,
    plan_from_document,
    shipped_tasks,
)
from grape_preference.language_docs import render
from grape_preference.language_functions import FUNCTIONS
from grape_preference.language_types import Context
from preference_factory import make_tracks

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "constraint-language.md"
TRACKS = make_tracks(
    [[0.0, 0.0, 0.30], [0.0, 0.0, 0.20], [0.0, 0.04, 0.10], [0.03, 0.04, 0.10]],
    {"carrot": [0.3, 0.0, 0.01], "plate": [0.3, 0.4, 0.005]},
    {"plate": (0.1, 0.1, 0.01)},
    gripper=np.array([1.0, 1.0, 0.5, 0.5]),
)


def value(text: str, tracks=TRACKS, stage_start: int = 0) -> np.ndarray:
    return check_expression(text, tracks.names).evaluate(Context(tracks, stage_start))


OFFSETS = [(0.3, 0.0, 0.29), (0.3, 0.0, 0.19), (0.3, 0.04, 0.09), (0.27, 0.04, 0.09)]
ANGLES = [math.atan2(math.hypot(x, y), z) for x, y, z in OFFSETS]  # off the vertical, hand over carrot
DIAGONAL = math.hypot(0.04, 0.1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("distance(carrot, plate)", [math.hypot(0.4, 0.005)] * 4),
        ("horizontal_distance(carrot, plate) - 0.1", [0.3] * 4),
        ("height(end_effector) * 2", [0.6, 0.4, 0.2, 0.2]),
        ("lift(end_effector)", [0.0, -0.1, -0.2, -0.2]),
        ("height_above(end_effector, carrot)", [0.29, 0.19, 0.09, 0.09]),
        ("clearance(carrot, plate)", [0.4 - 0.06] * 4),
        ("alignment(end_effector, carrot)", ANGLES),
        ("gripper_tilt()", [0.0] * 4),
        ("approach_direction(carrot)", ANGLES),
        ("path_length(end_effector)", [0.0, 0.1, 0.1 + DIAGONAL, 0.13 + DIAGONAL]),
        ("displacement(end_effector)", [0.0, 0.1, math.hypot(0.04, 0.2), math.hypot(0.03, 0.04, 0.2)]),
        ("speed(end_effector)", [0.0, 0.5, math.hypot(0.04, 0.1) / 0.2, 0.15]),
        ("smoothness(carrot)", [0.0] * 4),
        ("abs(0.2 - height(end_effector))", [0.1, 0.0, 0.1, 0.1]),
        ("min(gripper, 0.7, 2 - gripper)", [0.7, 0.7, 0.5, 0.5]),
        ("max(-1, time / 0.2 - 2)", [-1.0, -1.0, 0.0, 1.0]),
        ("-(1 + 2) * 3 / 6", [-1.5] * 4),
        ("gripper < 0.7 and not height(end_effector) > 0.25", [False, False, True, True]),
        ("time <= 0 or time >= 0.6", [True, False, False, True]),
    ],
)  # fmt: skip
def test_values(text: str, expected: list[float]) -> None:
    np.testing.assert_allclose(value(text), expected, atol=1e-12)


def test_functions_since_the_stage_began() -> None:
    np.testing.assert_allclose(value("path_length(end_effector)", stage_start=2), [0.0, 0.0, 0.0, 0.03])
    np.testing.assert_allclose(value("displacement(end_effector)", stage_start=3)[3], 0.0)
    np.testing.assert_allclose(value("stage_time", stage_start=1), [-0.2, 0.0, 0.2, 0.4], atol=1e-12)


def test_one_episode_evaluates_each_stage_by_its_own_start() -> None:
    context, expression = Context(TRACKS), check_expression("path_length(end_effector)", TRACKS.names)
    whole = expression.evaluate(context)[3]
    context.stage_start = 2
    assert expression.evaluate(context)[3] == pytest.approx(0.03)
    assert whole > 0.2


def test_grasped_needs_a_closed_gripper_at_the_object() -> None:
    hand = [[0.3, 0.0, 0.03]] * 2
    near = make_tracks(hand, {"carrot": [0.3, 0.0, 0.01]}, gripper=np.array([1.0, 0.4]))
    np.testing.assert_array_equal(value("grasped(carrot)", near), [False, True])
    far = make_tracks(hand, {"carrot": [0.3, 0.06, 0.01]}, gripper=np.array([1.0, 0.4]))
    assert not value("grasped(carrot)", far).any()


def test_fingers_that_widen_or_meet_hold_nothing() -> None:
    """Jammed beside the plate, or closed again over what they let go: seen in the policy's own successes."""
    opening = np.array([0.9, 0.5, 0.3, 0.32, 0.43, 0.3, 0.0, 0.3])
    tracks = make_tracks([[0.3, 0.0, 0.03]] * 8, {"carrot": [0.3, 0.0, 0.01]}, gripper=opening)
    np.testing.assert_array_equal(
        value("grasped(carrot)", tracks), [False, True, True, True, False, True, False, True]
    )


def test_a_second_grasp_is_measured_by_itself() -> None:
    opening = np.array([0.3, 0.3, 1.0, 0.5, 0.5])
    tracks = make_tracks([[0.3, 0.0, 0.03]] * 5, {"carrot": [0.3, 0.0, 0.01]}, gripper=opening)
    np.testing.assert_array_equal(value("grasped(carrot)", tracks), [True, True, False, True, True])


def test_fallen_and_above() -> None:
    tall = {"carrot": (0.03, 0.03, 0.1), "plate": (0.1, 0.1, 0.01)}
    places = {"carrot": [[0.3, 0.0, 0.05], [0.3, 0.0, 0.015], [0.3, 0.4, 0.2]], "plate": [0.3, 0.4, 0.005]}
    tracks = make_tracks([[0, 0, 0.3]] * 3, places, tall)
    np.testing.assert_array_equal(value("fallen(carrot)", tracks), [False, True, False])
    np.testing.assert_array_equal(value("above(carrot, plate)", tracks), [False, False, True])


@pytest.mark.parametrize(
    ("z", "inside", "on_top"), [(0.015, True, True), (0.035, False, True), (0.06, False, False)]
)
def test_resting_relations(z: float, inside: bool, on_top: bool) -> None:
    target = {"plate": (0.1, 0.1, 0.02)}
    tracks = make_tracks([[0, 0, 0.3]], {"carrot": [0.3, 0.04, z], "plate": [0.3, 0.0, 0.01]}, target)
    assert bool(value("inside(carrot, plate)", tracks)[0]) is inside
    assert bool(value("on_top_of(carrot, plate)", tracks)[0]) is on_top
    beside = make_tracks([[0, 0, 0.3]], {"carrot": [0.3, 0.06, z], "plate": [0.3, 0.0, 0.01]}, target)
    assert not value("inside(carrot, plate) or on_top_of(carrot, plate)", beside)[0]


def test_what_lies_on_the_edge_is_on_top_and_what_lies_below_is_not_inside() -> None:
    """An edge is seen to millimetres only; under a basket that was tipped over is not inside it."""
    target = {"plate": (0.1, 0.1, 0.02)}
    edge = make_tracks([[0, 0, 0.3]], {"carrot": [0.3, 0.053, 0.03], "plate": [0.3, 0.0, 0.01]}, target)
    assert value("on_top_of(carrot, plate)", edge)[0]
    assert not value("above(carrot, plate)", edge)[0]
    below = make_tracks([[0, 0, 0.3]], {"carrot": [0.3, 0.0, 0.01], "plate": [0.3, 0.0, 0.11]}, target)
    assert not value("inside(carrot, plate)", below)[0]


def test_division_by_zero_is_not_hidden() -> None:
    assert np.isinf(value("1 / time")[0])
    assert np.isnan(value("0 / 0")).all()


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("distance(carot, plate) - 0.03", 10, "did you mean 'carrot'"),
        ("distnce(carrot, plate)", 1, "did you mean 'distance'"),
        ("  height(carrot) + gripper_tilt()", 20, "do not go together"),
        ("height(carrot) > time", 18, "do not go together"),
        ("distance(carrot)", 1, "write distance(a, b)"),
        ("height(0.3)", 8, "takes a point"),
        ("height(carrot) and gripper < 1", 1, "a condition is needed"),
        ("inside(carrot, plate) * 2", 1, "a number is needed"),
        ("carrot", 1, "is a point"),
        ("height", 1, "is a function"),
        ("height(carrot) ** 2", 19, "only + - * /"),
        ("1 < gripper < 2", 5, "join comparisons with 'and'"),
        ("gripper == 1", 12, "compare two numbers"),
        ("height(carrot", 7, "never closed"),
        ("height)carrot(", 7, "closes nothing"),
        ("gripper > 2e6", 11, "numbers must lie within"),
        ("+" * 40 + "1", 33, "nested deeper"),
        ("max(" + "1," * 180 + "1)", 0, "terms"),
        ("1" + " " * 400, 0, "at most 400"),
        ("   ", 0, "empty"),
        ("gripper > 1 gripper", 0, "not an expression"),
    ],
)
def test_refusals_point_at_the_place(text: str, column: int, message: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        check_expression(text, ["carrot", "plate"])
    assert message in str(caught.value)
    assert column in (0, caught.value.column)
    assert "\n" not in str(caught.value)


ESCAPES = [
    "__import__('os').system('id')",
    "().__class__.__bases__[0].__subclasses__()",
    "(lambda: 1)()",
    "[x for x in (1,)]",
    "{1: 2}",
    "f'{carrot}'",
    "carrot.__class__",
    "carrot.positions",
    "height.__globals__",
    "getattr(carrot, height)",
    "eval(carrot)",
    "exec(carrot)",
    "open(carrot)",
    "globals()",
    "breakpoint()",
    "exit()",
    "height(*carrot)",
    "height(**carrot)",
    "height(a=carrot)",
    "(height)(carrot)(plate)",
    "1 if gripper else 2",
    "(x := 1)",
    "await carrot",
    "(yield)",
    "carrot[0]",
    "9 ** 9 ** 9",
    "1 << 9999999",
    "10 % 3",
    "~1",
    "1 @ 2",
    "1 // 0",
    "9" * 390,
    "1e999",
    "1j",
    "0x41",
    "True",
    "None",
    "...",
    "'a' * 999999999",
    "b'a'",
    "1, 2",
    "1; import os",
    "1\nimport os",
    "1 # comment",
    "\\x41",
    "carrot\x00",
    "héight(carrot)",
    "\uff48eight(carrot)",
    "(" * 200 + "1" + ")" * 200,
    "-" * 390 + "1",
    "not " * 90 + "gripper > 1",
    "max(" * 90 + "1" + ",1)" * 70,
    "1)+(2",
    "carrot is plate",
    "carrot in plate",
    "assert 1",
    "import os",
    "del carrot",
    "lambda: 1",
]  # fmt: skip


@pytest.mark.parametrize("text", ESCAPES)
def test_escape_tricks_are_refused(text: str) -> None:
    if text == "0x41":
        assert check_expression(text, []).evaluate(Context(TRACKS))[0] == 65.0  # just a number
        return
    with pytest.raises(ConstraintError):
        check_expression(text, ["carrot", "plate"])


@pytest.mark.parametrize("value", [None, 3, b"1", ["1"], {"a": 1}])
def test_only_text_is_an_expression(value: object) -> None:
    with pytest.raises(ConstraintError, match="is text"):
        check_expression(value)  # type: ignore[arg-type]


def test_without_keypoints_the_declared_objects_are_known() -> None:
    assert str(check_expression("distance(green_cube, basket) - 0.03").kind) == "m"
    with pytest.raises(ConstraintError, match="unknown name 'unicorn'"):
        check_expression("height(unicorn)")


def document(**changes: object) -> dict[str, object]:
    constraint = {"kind": "path", "expression": "height(carrot)", "weight": 1, "threshold": 0, "unit": "m"}
    stage = {"name": "reach", "end": "gripper < 0.5", "constraints": [{**constraint, **changes}]}
    return {"version": 1, "task": "t", "keypoints": ["carrot"], "unreached_cost": 1, "stages": [stage]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "goal"}, "stage 1 'reach', constraint 1, kind: 'goal' is not one of"),
        ({"weight": -1}, "stage 1 'reach', constraint 1, weight: -1 is less than"),
        ({"threshold": "low"}, "constraint 1, threshold: 'low' is not of type"),
        ({"colour": 1}, "constraint 1: Additional properties"),
        ({"unit": "rad"}, "constraint 1: the unit is declared as 'rad' but the expression is in 'm'"),
        ({"expression": "height(plate)"}, "stage 1 'reach', constraint 1, column 8: unknown name 'plate'"),
        ({"weight": float("nan")}, "constraint 1, weight: nan is not a finite number"),
    ],
)
def test_stage_documents_are_refused_with_the_place(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        plan_from_document(document(**changes), "my.yaml")
    assert str(caught.value).startswith("my.yaml")
    assert message in str(caught.value)


LOOKS = {"body": [{"lower": [7, 225, 110], "upper": [16, 255, 255]}], "size": 0.1}


@pytest.mark.parametrize(
    ("looks", "message"),
    [
        ({"tomato": LOOKS}, "'tomato' is no keypoint"),
        ({"carrot": {**LOOKS, "size": math.nan}}, "not a finite number"),
        ({"carrot": {**LOOKS, "size": 0}}, "size"),
        ({"carrot": {**LOOKS, "body": []}}, "body"),
        ({"carrot": {**LOOKS, "body": [{"lower": [180, 0, 0], "upper": [180, 0, 0]}]}}, "180"),
        ({"carrot": {**LOOKS, "body": [{"lower": [0, 0], "upper": [1, 1, 1]}]}}, "too short"),
        ({"carrot": {**LOOKS, "code": "x"}}, "code"),
        ({"Carrot!": LOOKS}, "Carrot!"),
        ([LOOKS], "object"),
    ],
)
def test_looks_in_a_stage_file_are_refused_with_the_place(looks: object, message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        plan_from_document({**document(), "appearances": looks}, "x.yaml")


def test_looks_in_a_stage_file_are_read() -> None:
    (item,) = plan_from_document({**document(), "appearances": {"carrot": LOOKS}}, "x.yaml").appearances
    assert (item.name, item.size, item.parts) == ("carrot", 0.1, ())
    assert item.body[0].upper == (16, 255, 255)


def test_stage_conditions_must_be_conditions() -> None:
    broken = document()
    broken["stages"][0]["end"] = "height(carrot)"  # type: ignore[index]
    with pytest.raises(ConstraintError, match="stage 1 'reach', end: a condition is needed"):
        plan_from_document(broken, "my.yaml")


@pytest.mark.parametrize("junk", [None, 3, [], "text", {}, {"version": 2}])
def test_other_data_is_not_a_plan(junk: object) -> None:
    with pytest.raises(ConstraintError, match=r"^my.yaml"):
        plan_from_document(junk, "my.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"column \d+: not YAML"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("!!python/object/apply:os.system ['id']", "not YAML"),
        ("a: " + "[" * 3000, "nested deeper"),
        ("x" * 70_000, "larger than 64 kB"),
        ("\x00", "not YAML"),
        ("2001-99-99", "not YAML"),
    ],
)
def test_bad_files_give_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "stages.yaml"
    path.write_text(text)
    with pytest.raises(ConstraintError, match=message) as caught:
        check_file(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConstraintError, match=r"nowhere\.yaml: cannot be read"):
        check_file(tmp_path / "nowhere.yaml")


def test_shipped_stages_are_valid_and_cover_the_tasks() -> None:
    assert set(shipped_tasks()) == {"carrot_on_plate", "eggplant_in_basket", "stack_cube", "spoon_on_towel"}
    for task in shipped_tasks():
        plan = plan_for_task(task)
        assert plan.task == task
        assert {c.kind for stage in plan.stages for c in stage.constraints} == {
            "path",
            "sub_goal",
            "collision",
        }
    with pytest.raises(ConstraintError, match="there are stages for"):
        plan_for_task("fold_laundry")


def test_reference_page_says_what_the_table_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run python -m grape_preference.language_docs " + str(PAGE)
    )
    assert all(f"`{name}(" in render() for name in FUNCTIONS)
