"""The camera, the initial states and the random scenes of the simulation."""

from __future__ import annotations

import itertools

import mujoco
import numpy as np
import pytest
from grape_episodes import contract
from grape_sim.initial_state import SPLITS, make_id, sample
from grape_sim.layout import occupied_half_extents
from grape_sim.random_scene import RandomSceneRenderer
from grape_sim.rendering import OBJECT_IDS, CameraRenderer
from grape_sim.scene import build_spec
from grape_sim.suite import load_suite
from grape_sim.tasks import TASKS

LOW = itertools.product((0.24, 0.32, 0.39), (-0.12, 0.0, 0.13), (0.02,))
HIGH = itertools.product((0.26, 0.38), (-0.06, 0.06), (0.09,))
MARKERS = [*LOW, *HIGH]
RADIUS = 0.006


@pytest.fixture(scope="module")
def marked_scene():
    """The scene with small spheres at known points and without the arm in the way."""
    spec = build_spec()
    for index, point in enumerate(MARKERS):
        kind = mujoco.mjtGeom.mjGEOM_SPHERE
        spec.worldbody.add_geom(
            name=f"marker{index}", type=kind, size=[RADIUS, 0, 0], pos=point, rgba=[1, 0, 0, 1]
        )
    model = spec.compile()
    data = mujoco.MjData(model)
    data.qpos[model.joint("waist").qposadr[0]] = np.pi  # arm turned away
    mujoco.mj_forward(model, data)
    renderer = CameraRenderer(model)
    renderer._mask_ids = np.append(np.arange(model.ngeom), 255).astype(np.uint8)  # geom ids instead
    yield model, renderer.masks(data), renderer.depth(data)
    renderer.close()


def project(point):
    camera = contract.camera()
    in_camera = np.linalg.inv(camera.base_from_camera) @ np.append(point, 1.0)
    u, v, w = camera.intrinsics @ in_camera[:3]
    return np.array([u / w, v / w]), in_camera[2]


def test_the_rendered_image_agrees_with_the_contract_to_half_a_pixel(marked_scene):
    model, geoms, _ = marked_scene
    for index, point in enumerate(MARKERS):
        rows, columns = np.nonzero(geoms == model.geom(f"marker{index}").id)
        assert rows.size > 15
        expected, _ = project(point)
        assert np.hypot(*(expected - [columns.mean(), rows.mean()])) < 0.5


def test_depth_is_the_distance_along_the_optical_axis_in_millimetres(marked_scene):
    _, _, depth = marked_scene
    for point in MARKERS:
        (u, v), distance = project(point)
        assert depth[round(v), round(u)] == pytest.approx((distance - RADIUS) * 1000.0, abs=2.0)


def test_back_projected_table_pixels_lie_on_the_table(marked_scene):
    _, _, depth = marked_scene
    camera = contract.camera()
    u, v = 5, 230
    ray = np.linalg.inv(camera.intrinsics) @ [u, v, 1.0]
    point = camera.base_from_camera @ np.append(ray * depth[v, u] / 1000.0, 1.0)
    assert abs(point[2]) < 0.002


def test_the_same_name_gives_the_same_state_and_other_names_other_states():
    first = sample("stack_cube/train/0007")
    assert first == sample("stack_cube/train/0007")
    layouts = {
        sample(make_id(task, split, i)).placements for task in TASKS for split in SPLITS for i in range(15)
    }
    assert len(layouts) == len(TASKS) * len(SPLITS) * 15


def test_no_two_objects_overlap_and_two_tasks_are_on_the_table():
    objects = load_suite("in_domain").objects
    for index, task in itertools.product(range(60), TASKS):
        state = sample(make_id(task, "eval", index))
        names = {placement.name for placement in state.placements}
        assert names == {
            state.task.source,
            state.task.target,
            state.other_task.source,
            state.other_task.target,
        }
        for a, b in itertools.combinations(state.placements, 2):
            box_a, box_b = (
                occupied_half_extents(objects[a.name], a.yaw),
                occupied_half_extents(objects[b.name], b.yaw),
            )
            assert abs(a.x - b.x) > box_a[0] + box_b[0] or abs(a.y - b.y) > box_a[1] + box_b[1]


def test_every_other_task_appears_beside_a_task():
    for task in TASKS:
        others = {sample(make_id(task, "train", index)).other_task.name for index in range(40)}
        assert others == set(TASKS) - {task}


@pytest.mark.parametrize(
    "name", ["carrot_on_plate/test/0001", "carrot_on_plate/train/1", "juggle/train/0001", ""]
)
def test_a_wrong_name_is_refused_with_a_hint(name):
    with pytest.raises(ValueError, match=r"carrot_on_plate"):
        sample(name)


def test_random_scenes_repeat_with_the_seed_and_carry_consistent_labels():
    first, second = RandomSceneRenderer(5), RandomSceneRenderer(5)
    kinds = set()
    for _ in range(25):
        a, b = first.sample(), second.sample()
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.masks, b.masks)
        assert len(a.actions) == 2
        for task, action in a.actions.items():
            assert np.array_equal(action, b.actions[task])
            assert np.linalg.norm(action[:3]) <= 0.0401
        present = {OBJECT_IDS[name] for name in a.positions}
        assert set(np.unique(a.masks)) - {0, 1, 2} <= present
        if a.held is not None:
            assert np.linalg.norm(a.positions[a.held] - a.end_effector_position) < 0.03
        kinds.add(a.kind)
    assert len(kinds) > 3
    first.close()
    second.close()
