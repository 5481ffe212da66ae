"""Where a site's camera is: a YAML file, written by ``grape calibrate`` and read when the stack starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from grape_episodes import contract
from grape_episodes.bag import write_durably
from grape_episodes.types import Extrinsics

FARTHEST = 10.0  # m between base and camera; more is a file in millimetres


class CalibrationError(ValueError):
    """A calibration cannot be used or made; the message says what is wrong, where, and what to do."""


def save_extrinsics(path: Path, extrinsics: Extrinsics, details: dict[str, Any]) -> None:
    """Write the file atomically; ``details`` is kept for people, such as residuals."""
    document = {
        "base_frame": contract.document()["frames"]["base"],
        "translation": [round(float(value), 6) for value in extrinsics.translation],
        "quaternion_xyzw": [round(float(value), 8) for value in extrinsics.quaternion_xyzw],
        **details,
    }
    text = (
        "# Pose of the camera's optical frame in the base frame: m, quaternion xyzw. From grape calibrate.\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, text + yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def load_extrinsics(path: Path) -> Extrinsics:
    """Return the pose in ``path``.

    Raises:
        CalibrationError: no such file, a field that is missing or no pose, or another robot's base frame.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CalibrationError(
            f"calibration {path}: {error.strerror}; make it with grape calibrate"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CalibrationError(f"calibration {path} is no YAML file: {error}") from error
    fields = document if isinstance(document, dict) else {}
    translation = _numbers(fields.get("translation"), 3, "translation", path)
    turn = _numbers(fields.get("quaternion_xyzw"), 4, "quaternion_xyzw", path)
    if math.hypot(*translation) > FARTHEST:
        raise CalibrationError(
            f"calibration {path}: the camera is {math.hypot(*translation):g} m away; use metres"
        )
    length = math.hypot(*turn)
    if abs(length - 1.0) > 1e-3:
        raise CalibrationError(f"calibration {path}: the quaternion's length is {length:g}, not 1")
    frame = contract.document()["frames"]["base"]
    if fields.get("base_frame") != frame:
        found = fields.get("base_frame")
        raise CalibrationError(
            f"calibration {path} is in the frame {found!r}, the arm's base frame is {frame!r}"
        )
    x, y, z, w = (value / length for value in turn)
    return Extrinsics((translation[0], translation[1], translation[2]), (x, y, z, w))


def _numbers(value: object, count: int, name: str, path: Path) -> list[float]:
    good = isinstance(value, list) and len(value) == count
    if not good or not all(isinstance(v, int | float) and math.isfinite(v) for v in value):  # type: ignore[attr-defined]
        raise CalibrationError(f"calibration {path}: {name} must be {count} numbers, found {value!r}")
    return [float(v) for v in value]  # type: ignore[attr-defined]
