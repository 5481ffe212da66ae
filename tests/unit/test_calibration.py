"""The camera's pose from rendered boards; what is refused; the file that the stack reads."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from calibration_scene import INTRINSICS, Scene, make_scene, pose
from grape_episodes.calibration import CalibrationError, load_extrinsics, save_extrinsics
from grape_episodes.manifest import start_manifest
from grape_episodes.types import Extrinsics
from grape_policy.camera.board import Board
from grape_policy.camera.captures import load_captures, save_capture, save_setup, usable_views
from grape_policy.camera.hand_eye import HandEye, calibrate, check_poses, difference
from grape_training.cli import app
from typer.testing import CliRunner

TOLERANCE_MM, TOLERANCE_DEGREES = 2.0, 0.3


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(0)


def solved(scene: Scene) -> HandEye:
    return calibrate(usable_views(scene.board, scene.captures)[0], INTRINSICS)


@pytest.mark.parametrize("seed", range(4))
def test_the_camera_is_found_from_noisy_blurred_images(seed: int) -> None:
    scene = make_scene(seed, poses=12)
    result = solved(scene)
    millimetres, degrees = difference(result.base_from_camera, scene.base_from_camera)
    assert millimetres < TOLERANCE_MM
    assert degrees < TOLERANCE_DEGREES
    assert result.pixels < 1.0
    assert len(result.residuals) == 12
    assert max(r.pixels for r in result.residuals) < 1.5
    assert result.left_out[0] < 5.0


def test_exact_corners_and_poses_give_the_exact_pose(scene: Scene) -> None:
    from grape_policy.camera.hand_eye import View, project

    board = pose([3, -88, 5], [0.05, 0.01, 0.0])
    corners = scene.board.corners()
    views = []
    for capture in scene.captures:
        blank = View(capture.name, capture.base_from_gripper, corners, np.zeros((len(corners), 2)))
        seen = project(blank, INTRINSICS, scene.base_from_camera, board)
        views.append(dataclasses.replace(blank, pixels=seen))
    result = calibrate(views, INTRINSICS)
    np.testing.assert_allclose(result.base_from_camera, scene.base_from_camera, atol=1e-6)
    np.testing.assert_allclose(result.gripper_from_board, board, atol=1e-6)


def test_the_projection_is_opencvs(scene: Scene) -> None:
    import cv2
    from grape_policy.camera.hand_eye import project

    view = usable_views(scene.board, scene.captures[:1])[0][0]
    board = pose([3, -88, 5], [0.05, 0.01, 0.0])
    in_camera = np.linalg.inv(scene.base_from_camera) @ view.base_from_gripper @ board
    turn, _ = cv2.Rodrigues(in_camera[:3, :3])
    lens = np.array(INTRINSICS.distortion)
    expected, _ = cv2.projectPoints(view.corners, turn, in_camera[:3, 3], INTRINSICS.matrix, lens)
    found = project(view, INTRINSICS, scene.base_from_camera, board)
    np.testing.assert_allclose(found, expected.reshape(-1, 2), atol=1e-6)


def test_too_few_poses_are_refused(scene: Scene) -> None:
    with pytest.raises(CalibrationError, match="7 usable poses, at least 8 are needed"):
        calibrate(usable_views(scene.board, scene.captures[:7])[0], INTRINSICS)


@pytest.mark.parametrize("axis", range(3))
def test_turns_about_one_axis_only_are_refused(axis: int) -> None:
    rng = np.random.default_rng(0)
    poses = []
    for angle in np.linspace(-30, 30, 12):
        turn = rng.normal(0, 1.0, 3)
        turn[axis] = angle
        poses.append(pose(turn.tolist(), rng.uniform(-0.1, 0.1, 3).tolist()))
    with pytest.raises(CalibrationError, match="tilted"):
        check_poses(poses)


def test_a_board_that_slipped_is_refused() -> None:
    with pytest.raises(CalibrationError, match="nothing slipped"):
        solved(make_scene(0, poses=10, slip=0.02))


def test_a_wrong_square_size_shows(scene: Scene) -> None:
    wrong = dataclasses.replace(scene.board, square=0.033)
    views = usable_views(wrong, scene.captures)[0]
    with pytest.raises(CalibrationError, match="square size"):
        calibrate(views, INTRINSICS)


def test_one_wrong_pose_is_seen_in_its_residual(scene: Scene) -> None:
    views = usable_views(scene.board, scene.captures)[0]
    off = views[3].base_from_gripper @ pose([0, 0, 0], [0.004, 0, 0])
    views[3] = dataclasses.replace(views[3], base_from_gripper=off)
    result = calibrate(views, INTRINSICS)
    assert max(result.residuals, key=lambda r: r.pixels).name == views[3].name
    assert max(result.residuals, key=lambda r: r.millimetres).name == views[3].name
    millimetres, _ = difference(result.base_from_camera, scene.base_from_camera)
    assert millimetres < TOLERANCE_MM


def test_images_without_the_board_are_left_out(scene: Scene) -> None:
    blank = dataclasses.replace(scene.captures[0], image=np.full_like(scene.captures[0].image, 90))
    views, skipped = usable_views(scene.board, [blank, scene.captures[1]])
    assert [view.name for view in views] == ["0001"]
    assert skipped == {"0000": "0 corners seen, 8 needed"}


@pytest.mark.parametrize("fields", [{"columns": 2}, {"columns": 12, "rows": 12}, {"square": 30.0}])
def test_a_board_that_cannot_be_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="sizes are in metres"):
        Board(**fields)  # type: ignore[arg-type]


def test_from_captures_to_the_file_the_stack_reads(scene: Scene, tmp_path: Path) -> None:
    folder, output = tmp_path / "captures", tmp_path / "site" / "calibration.yaml"
    save_setup(folder, INTRINSICS, scene.board)
    for capture in scene.captures[:10]:
        save_capture(folder, capture)
    camera, board, captures = load_captures(folder)
    assert board == scene.board
    np.testing.assert_array_equal(camera.matrix, INTRINSICS.matrix)
    np.testing.assert_array_equal(captures[3].image, scene.captures[3].image)
    run = CliRunner().invoke(app, ["calibrate", "solve", str(folder), "--output", str(output), "--json"])
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["poses"] == len(report["residuals"]) == 10
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    extrinsics = load_extrinsics(output)
    shift = np.array(extrinsics.translation) - scene.base_from_camera[:3, 3]
    assert np.linalg.norm(shift) * 1e3 < TOLERANCE_MM
    manifest = start_manifest(
        episode_id="one", task="t", instruction="i", initial_state_id="s", policy_version="v",
        temperature=0.0, seed=0, source="ros", extrinsics=extrinsics,
    )  # fmt: skip
    assert manifest.extrinsics == extrinsics


def test_damaged_captures_are_named(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=re.escape("setup.json")):
        load_captures(tmp_path)
    save_setup(tmp_path, INTRINSICS, scene.board)
    save_capture(tmp_path, scene.captures[0])
    (tmp_path / "0000.png").unlink()
    with pytest.raises(CalibrationError, match=re.escape("0000.png")):
        load_captures(tmp_path)
    with pytest.raises(CalibrationError, match="another camera or board"):
        save_setup(tmp_path, INTRINSICS, Board(6, 5, 0.03))


GOOD = {"base_frame": "wx250s/base_link", "translation": [0.9, 0.0, 0.6], "quaternion_xyzw": [0, 0, 0, 1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"translation": [900.0, 0.0, 600.0]}, "use metres"),
        ({"translation": [0.9, 0.0]}, "translation must be 3 numbers"),
        ({"translation": [0.9, 0.0, ".nan"]}, "translation must be 3 numbers"),
        ({"quaternion_xyzw": [0, 0, 0, 2]}, "length is 2"),
        ({"base_frame": "other/base"}, "base frame"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "calibration.yaml"
    path.write_text(json.dumps({**GOOD, **change}).replace('".nan"', ".nan"), encoding="utf-8")
    with pytest.raises(CalibrationError, match=message):
        load_extrinsics(path)


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Extrinsics((0.9, -0.1, 0.6), (0.5, -0.5, 0.5, -0.5))
    save_extrinsics(tmp_path / "site.yaml", written, {"poses": 12})
    assert load_extrinsics(tmp_path / "site.yaml") == written
    with pytest.raises(CalibrationError, match="grape calibrate"):
        load_extrinsics(tmp_path / "absent.yaml")
