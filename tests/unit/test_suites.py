"""Suites as data: what is shipped, what repeats bit by bit, what a file may say, and that it can be done."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import mujoco
import numpy as np
import pytest
from grape_sim.environment import SimEnvironment
from grape_sim.expert import expert_action
from grape_sim.scene import set_object_pose
from grape_sim.suite import SHIPPED, SuiteError, load_suite
from PIL import Image

DATA = Path(__file__).parent.parent / "data" / "in_domain"
CELLS = [(suite, cell) for suite in SHIPPED for cell in load_suite(suite).cells]
OWN = """
suite: my_kitchen
description: A suite that nobody shipped.
include: [in_domain]
max_steps: 60
colours: {lime: [0.5, 0.8, 0.1]}
textures: {cork: {pattern: speckle, colours: [[0.7, 0.5, 0.3], [0.5, 0.35, 0.2]]}}
objects:
  soap:
    grip: {half_width: 0.013}
    parts:
      - {solid: box, size: [0.022, 0.013, 0.010], mass: 0.04, colour: lime}
  tray:
    surface: {height: 0.006}
    parts:
      - {solid: box, size: [0.05, 0.05, 0.003], at: [0, 0, 0.003], mass: 0.3, colour: white, texture: cork}
  skittle:
    parts:
      - {solid: cylinder, size: [0.013, 0.035], mass: 0.05, colour: white}
tasks:
  soap_on_tray: {source: soap, target: tray, success: {placed: {}}, instructions: [put the soap on the tray]}
  push_soap:
    source: soap
    target: tray
    success: {pushed: {distance: 0.1}}
    instructions: [push the soap to the tray]
  knock_over_skittle: {source: skittle, success: {knocked_over: {}}, instructions: [knock over the skittle]}
cells:
  soap: {tasks: [soap_on_tray], other_tasks: [stack_cube], visual: {tables: [cork]}}
  push:
    tasks: [push_soap]
    layout: {source: {x: [0.25, 0.29], y: [-0.08, 0.08]}, target: {x: [0.36, 0.40]}, apart: 0.14}
  knock: {tasks: [knock_over_skittle], layout: {source: {y: [-0.08, 0.08]}}}
"""


@pytest.fixture(scope="module")
def environments():
    """Environments by suite; closed at the end."""
    opened: dict[str, SimEnvironment] = {}

    def get(suite: str) -> SimEnvironment:
        if suite not in opened:
            opened[suite] = SimEnvironment(suite=suite, depth=True)
        return opened[suite]

    yield get
    for environment in opened.values():
        environment.close()


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "kitchen.yaml"
    path.write_text(OWN)
    return path


def let_expert(environment: SimEnvironment, initial_state_id: str):
    """Run the expert until success or the suite's limit; return the verdict and the steps."""
    environment.reset(initial_state_id)
    steps = 0
    while steps < environment.suite.max_steps and not environment.success_now:
        environment.step(expert_action(environment))
        steps += 1
    return environment.judge(), steps


@pytest.mark.parametrize("name", sorted(json.loads((DATA / "states.json").read_text())))
def test_in_domain_is_what_the_shipped_policy_was_trained_on(environments, name):
    expected = json.loads((DATA / "states.json").read_text())[name]
    environment = environments("in_domain")
    observation = environment.reset(name)
    start = environment.suite.sample(name)
    assert [[p.name, p.x, p.y, p.yaw] for p in start.placements] == expected["placements"]
    for _ in range(expected["steps"]):
        observation = environment.step(expert_action(environment))
    for thing, (position, _) in environment.privileged().items():
        np.testing.assert_allclose(position, expected["positions"][thing], atol=1e-6)
    np.testing.assert_allclose(observation.end_effector_position, expected["end_effector"], atol=1e-6)
    picture = np.asarray(Image.open(DATA / expected["picture"])).astype(int)
    differing = (np.abs(picture - observation.image).max(axis=2) > 2).mean()
    assert differing < 1e-3  # exact with one renderer; another may round an edge


@pytest.mark.parametrize("name", SHIPPED)
def test_every_initial_state_of_a_shipped_suite_is_a_pure_function_of_its_name(name):
    suite = load_suite(name)
    assert suite == load_suite(name)
    for split in suite.splits:
        ids = suite.state_ids(split, 6)
        states = [suite.sample(initial_state_id) for initial_state_id in ids]
        assert states == [suite.sample(initial_state_id) for initial_state_id in ids]
        assert len({state.placements for state in states}) == len(ids)
        assert {suite.cell_of(each).name for each in ids} == set(suite.cells)
        for state in states:
            on_table = {placement.name for placement in state.placements}
            assert {state.task.source, state.task.target} <= on_table
            assert state.instruction
            assert state.other_instruction != state.instruction


@pytest.mark.parametrize(
    ("suite", "cell"), [("unseen_visual", "table"), ("unseen_visual", "camera"), ("obstacle", "stack_cube")]
)
def test_resetting_twice_gives_the_same_bits_also_after_another_cell(environments, suite, cell):
    environment = environments(suite)
    state = environment.suite.state_id(cell, "eval", 3)

    def run():
        seen = [environment.reset(state)]
        seen += [environment.step(expert_action(environment)) for _ in range(3)]
        return seen, environment.get_state().physics

    first, physics = run()
    environment.reset(environment.suite.state_ids("train", 1)[-1])
    second, again = run()
    assert np.array_equal(physics, again)
    for a, b in zip(first, second, strict=True):
        for field in dataclasses.fields(a):
            assert np.array_equal(getattr(a, field.name), getattr(b, field.name)), field.name


@pytest.mark.parametrize(("suite", "cell"), CELLS, ids=lambda value: str(value))
def test_the_expert_solves_every_cell_without_a_collision(environments, suite, cell):
    environment = environments(suite)
    verdict, _ = let_expert(environment, environment.suite.state_id(cell, "eval", 1))
    assert verdict.success, verdict.message
    assert verdict.collisions == 0
    assert verdict.stage == "done"


def test_a_suite_of_ones_own_with_new_objects_and_tasks_runs(own):
    environment = SimEnvironment(suite=own)
    assert environment.suite.name == "my_kitchen"
    for cell in environment.suite.cells:
        for index in range(2):
            state = f"my_kitchen.{cell}/eval/{index:04d}"
            assert environment.suite.state_id(cell, "eval", index) == state
            verdict, _ = let_expert(environment, state)
            assert verdict.success, f"{state}: {verdict.message}"
            assert environment.instruction == environment.cell.tasks[0].instruction
    environment.close()


def test_the_example_in_the_manual_is_a_suite(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "how-to" / "write-suites.md"
    path = tmp_path / "kitchen.yaml"
    path.write_text(page.read_text().split("```yaml\n")[1].split("```")[0])
    load_and_sample(path)


def test_the_content_of_a_suite_decides_its_hash(own, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(OWN)
    assert load_suite(other).content_hash == load_suite(own).content_hash
    other.write_text(OWN.replace("max_steps: 60", "max_steps: 61"))
    assert load_suite(other).content_hash != load_suite(own).content_hash


def load_and_sample(path: Path) -> None:
    suite = load_suite(path)
    for name in suite.state_ids("eval", 1):
        suite.sample(name)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("description: A suite that nobody shipped.", "", ("description", "required")),
        ("max_steps: 60", "max_steps: 0", ("max_steps", "minimum")),
        ("max_steps: 60", "speed: 3", ("speed", "Known here: suite")),
        ("grip: {half_width: 0.013}", "grip: {half_width: 0.2}", ("objects.soap.grip.half_width", "0.2")),
        ("grip: {half_width: 0.013}", "", ("tasks.soap_on_tray.source", "no grip")),
        ("    surface: {height: 0.006}\n", "", ("tasks.soap_on_tray.target", "surface")),
        ("source: soap, target", "source: soup, target", ("tasks.soap_on_tray.source", "soup", "Known")),
        ("colour: lime", "colour: lemon", ("objects.soap.parts[0].colour", "lemon", "lime")),
        ("size: [0.022, 0.013, 0.010]", "size: [0.022, 0.013]", ("objects.soap.parts[0].size", "box has 3")),
        ("mass: 0.04, ", "", ("objects.soap.parts[0]", "solid")),
        ("placed: {}", "glued: {}", ("tasks.soap_on_tray.success", "glued")),
        ("include: [in_domain]", "include: [nowhere.yaml]", ("nowhere.yaml", "Shipped")),
        ("suite: my_kitchen", "suite: in_domain", ("suite", "shipped")),
        ("  skittle:", "  table:", ("objects.table", "Choose another name")),
        ("  soap:\n    grip", "  carrot:\n    grip", ("objects.carrot", "included")),
        ("apart: 0.14", "apart: 0.4", ("layout", "no free layout")),
        ("x: [0.25, 0.29]", "x: [0.29, 0.25]", ("cells.push.layout.source.x", "0.29 is above 0.25")),
        ("apart: 0.14", "reach: 0.2", ("cells.push.layout", "farther from the arm than reach, 0.2 m")),
        ("x: [0.25, 0.29]", "x: [-0.3, -0.2]", ("cells.push.layout.source.x", "0.15 to 0.45")),
        ("apart: 0.14", "apart: .nan", ("YAML", ".nan is no finite number")),
        ("target: tray, success: {placed", "target: soap, success: {placed", ("put on soap", "surface")),
        ("target: tray\n    success: {pushed", "target: soap\n    success: {pushed", ("to itself",)),
        ("{half_width: 0.013}\n    parts:\n      - {solid: box, size: [0.022, 0.013",
         "{}\n    parts:\n      - {solid: box, size: [0.022, 0.030", ("tasks.soap_on_tray.source", "48 mm")),
        ("put the soap on the tray", '"put\\tthe soap"', ("tasks.soap_on_tray.instructions[0]", "printable")),
        ("tables: [cork]", "tables: [oak]", ("cells.soap.visual.tables", "oak", "cork")),
        ("cells:\n", "cells:\n  soap: {tasks: [stack_cube]}\n", ("YAML", "more than once")),
        ("other_tasks: [stack_cube]", "other_tasks: &a [*a]", ("YAML", "aliases")),
        ("cells:", "cells: [", ("YAML",)),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_file_place_and_remedy(tmp_path, old, new, words):
    assert old in OWN
    path = tmp_path / "bad.yaml"
    path.write_text(OWN.replace(old, new, 1))
    with pytest.raises(SuiteError) as error:
        load_and_sample(path)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "bad.yaml" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "name",
    [
        "obstacle.carrot_on_plate/eval/1",
        "obstacle.juggle/eval/0001",
        "carrot_on_plate/eval/0001",
        "obstacle/eval/0001",
    ],
)
def test_a_name_that_is_not_of_the_suite_is_refused(name):
    with pytest.raises(SuiteError, match="obstacle"):
        load_suite("obstacle").sample(name)


def test_the_words_alone_tell_the_candidates_apart(environments):
    environment = environments("language_grounding")
    for state in environment.suite.state_ids("eval", 4):
        start = environment.suite.sample(state)
        assert start.other_task is not None
        asked = environment.reset(state)
        told = environment.instruction
        other = environment.reset(state, start.other_task.name)
        assert environment.instruction == start.other_instruction != told
        for field in dataclasses.fields(asked):  # nothing in an observation says what is judged
            assert np.array_equal(getattr(asked, field.name), getattr(other, field.name))


def test_the_tasks_of_a_cell_and_the_wordings_all_occur():
    suite = load_suite("unseen_semantic")
    told = {suite.sample(suite.state_id("stack_cube", "eval", i)).instruction for i in range(60)}
    assert told == set(suite.cells["stack_cube"].instructions["stack_cube"])
    assert not told & set(suite.tasks["stack_cube"].instructions)
    suite = load_suite("unseen_physical")
    asked = [suite.sample(suite.state_id("half", "eval", i)).task.name for i in range(8)]
    assert {name: asked.count(name) for name in asked} == dict.fromkeys(asked, 2)


def test_other_sizes_are_other_sizes(environments):
    environment = environments("unseen_physical")
    plain = load_suite("in_domain").objects["green_cube"].parts[0]
    environment.reset("unseen_physical.half/eval/0002")
    half = environment.model.geom_size[environment.model.body("half_cube").geomadr[0]]
    np.testing.assert_allclose(half, np.multiply(plain.size, 0.5))
    objects = environment.suite.objects
    assert objects["taller_cube"].top == pytest.approx(1.5 * objects["green_cube"].top)
    assert objects["wider_carrot"].grip.half_width == pytest.approx(1.35 * 0.012)


def test_an_obstacle_stands_on_the_straight_way():
    suite = load_suite("obstacle")
    for state in suite.state_ids("eval", 10):
        start = suite.sample(state)
        places = {p.name: np.array([p.x, p.y]) for p in start.placements}
        source, target = places[start.task.source], places[start.task.target]
        (obstacle,) = start.obstacles
        way = (target - source) / np.linalg.norm(target - source)
        offset = places[obstacle] - source
        assert abs(way[0] * offset[1] - way[1] * offset[0]) < 0.012
        assert 0.3 < offset @ way / np.linalg.norm(target - source) < 0.7


def test_going_straight_through_an_obstacle_is_a_collision(environments):
    environment = environments("obstacle")
    environment.reset("obstacle.carrot_on_plate/eval/0000")
    place = environment.privileged()[
        environment.suite.sample("obstacle.carrot_on_plate/eval/0000").obstacles[0]
    ][0]
    for _ in range(10):
        error = (
            np.add(place, [0.0, 0.0, 0.03]) - environment.situation(environment.task).end_effector_position
        )
        environment.step(np.array([*(error * min(1.0, 0.04 / np.linalg.norm(error))), 0, 0, 0, 1.0]))
    assert environment.judge().collisions > 0


def test_lifting_does_not_count_as_pushing_and_standing_not_as_knocked_over(environments):
    environment = environments("unseen_action")
    environment.reset("unseen_action.push_can/eval/0000")
    beside = environment.privileged()["plate"][0] + [-0.09, 0.0, 0.029]
    set_object_pose(environment._data, "can", beside, (0.0, 0.0, 0.0, 1.0))
    mujoco.mj_forward(environment.model, environment._data)
    stay = np.array([0.0] * 6 + [1.0])
    environment.step(stay)
    assert environment.success_now
    environment._judge.record = dataclasses.replace(environment._judge.record, grasped=True)
    environment.step(stay)
    assert not environment.success_now
    assert "lifted" in environment.judge().message
    environment.reset("unseen_action.knock_over_bottle/eval/0000")
    environment.step(stay)
    assert not environment.success_now
    assert "tilted by 0 degrees" in environment.judge().message


def test_a_nudged_camera_says_where_it_stands_and_the_others_stand_still(environments):
    environment = environments("unseen_visual")
    environment.reset("unseen_visual.camera/eval/0000")
    nudged = environment.camera.base_from_camera
    environment.reset("unseen_visual.table/eval/0000")
    plain = environment.camera.base_from_camera
    assert 1e-4 < np.linalg.norm(nudged[:3, 3] - plain[:3, 3]) < 0.03
    pose = environment.model.cam_pos[0]
    np.testing.assert_allclose(pose, plain[:3, 3])


def test_a_saved_state_of_another_cell_is_restored_with_its_look(environments):
    environment = environments("unseen_visual")
    environment.reset("unseen_visual.light/eval/0000")
    environment.step(expert_action(environment))
    saved, image = environment.get_state(), environment.observe().image
    environment.reset("unseen_visual.table/eval/0000")
    environment.set_state(saved)
    assert np.array_equal(environment.observe().image, image)
