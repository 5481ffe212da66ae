"""MuJoCo model of the WidowX 250 6-DoF arm, built from the meshes and the xacro in the ``rtb-data`` wheel.

Kinematics and simulation use this one model. The base link sits at the origin of the base frame (x forward,
y left, z up). The gripper's two fingers are slide joints coupled to one opening (metres per finger).
"""

from __future__ import annotations

import itertools
import re
from functools import cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import rtbdata
import xacro

ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
FINGER_JOINTS = ("left_finger", "right_finger")
GRIPPER_CLOSED, GRIPPER_OPEN = 0.015, 0.037
END_EFFECTOR_SITE = "end_effector"

_URDF_PACKAGE = "trossen_descriptions"
_MESHES = "meshes/meshes_wx250s"
# Servo-like gains: stiff enough to follow a 5 Hz delta within a millimetre or two, damped to settle.
_STIFFNESS = {"waist": 500.0, "shoulder": 800.0, "elbow": 600.0, "forearm_roll": 200.0, "wrist_angle": 200.0}
_ARMATURE = 0.02
_DARK = (0.13, 0.13, 0.14, 1.0)
_FINGER = (0.85, 0.05, 0.35, 1.0)  # coloured tape: the camera must see where the fingers are


@cache
def urdf() -> str:
    """Return the arm's URDF (plain mesh names) with the gripper's motor disc fixed."""
    package = Path(rtbdata.__path__[0]) / "xacro" / _URDF_PACKAGE
    source = package / "urdf" / "wx250s.urdf.xacro"
    text: str = xacro.process_file(str(source), mappings={"robot_name": "wx250s"}).toxml()
    text = re.sub(rf"package://{_URDF_PACKAGE}/{_MESHES}/", "", text)
    text = re.sub(
        r'<material name="interbotix_black">.*?</material>|<material name="interbotix_black"/>',
        "",
        text,
        flags=re.S,
    )
    text = re.sub(r'(<joint name="gripper" type=)"continuous"', r'\1"fixed"', text)
    compiler = (
        f'<mujoco><compiler meshdir="{package / _MESHES}" fusestatic="false" discardvisual="false"/></mujoco>'
    )
    return text.replace("</robot>", f"{compiler}</robot>")


def arm_spec() -> mujoco.MjSpec:
    """Return the arm as an ``MjSpec``: 6 hinges, 2 finger slides, 7 position actuators (rad, metres)."""
    spec = mujoco.MjSpec.from_string(urdf())
    spec.option.timestep = 0.002
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    for body in spec.bodies:
        body.gravcomp = 1.0
    _colour_and_collide(spec)
    _add_actuators(spec)
    _exclude_neighbours(spec)
    fingers = spec.body("wx250s/fingers_link")
    fingers.add_site(name=END_EFFECTOR_SITE, pos=[0.027575, 0.0, 0.0], size=[0.004] * 3, group=4)
    return spec


def _colour_and_collide(spec: mujoco.MjSpec) -> None:
    """Colour the links; fingers collide as flat boxes, because a convex hull would fill their hollow side."""
    for geom in list(spec.geoms):
        if not geom.contype:  # the URDF lists each mesh twice: drop the copy that does not collide
            spec.delete(geom)
    for geom in spec.geoms:
        finger = "finger_link" in geom.parent.name
        geom.rgba = _FINGER if finger else _DARK
        geom.name = f"{geom.parent.name}/mesh"
        if finger:
            geom.contype = geom.conaffinity = 0
    for side, sign in (("left", 1.0), ("right", -1.0)):
        spec.body(f"wx250s/{side}_finger_link").add_geom(
            name=f"{side}_pad",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[0.0155, -0.0035 * sign, 0.0],
            size=[0.0275, 0.0065, 0.0125],
            mass=0.0,
            group=3,
            friction=[1.5, 0.05, 0.001],
            condim=4,
            solref=[0.004, 1.0],
        )


def _add_actuators(spec: mujoco.MjSpec) -> None:
    for name in ARM_JOINTS:
        joint = spec.joint(name)
        joint.armature = _ARMATURE
        stiffness = _STIFFNESS.get(name, 100.0)
        actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.set_to_position(kp=stiffness, dampratio=1.0)
        actuator.ctrlrange, actuator.ctrllimited = joint.range, True
    _add_gripper(spec)


def _add_gripper(spec: mujoco.MjSpec) -> None:
    """Couple the fingers and drive them by one tendon whose length is the opening per finger in metres."""
    for name in FINGER_JOINTS:
        spec.joint(name).armature = 0.1
        spec.joint(name).damping = [5.0, 0.0, 0.0]
    for coupling in spec.equalities:  # the URDF's mimic joint: right = -left
        coupling.solref = [0.004, 1.0]
    tendon = spec.add_tendon(name="gripper")
    tendon.wrap_joint("left_finger", 0.5)
    tendon.wrap_joint("right_finger", -0.5)
    actuator = spec.add_actuator(name="gripper", target="gripper", trntype=mujoco.mjtTrn.mjTRN_TENDON)
    actuator.set_to_position(kp=4000.0, kv=80.0)
    actuator.ctrlrange, actuator.ctrllimited = [GRIPPER_CLOSED, GRIPPER_OPEN], True
    actuator.forcerange, actuator.forcelimited = [-25.0, 25.0], True


def _exclude_neighbours(spec: mujoco.MjSpec) -> None:
    """Ignore contacts of links that the convex hulls of their meshes make overlap at rest."""
    links = [
        "base_link",
        "shoulder_link",
        "upper_arm_link",
        "upper_forearm_link",
        "lower_forearm_link",
        "wrist_link",
    ]
    chain = [*links, "gripper_link", "gripper_prop_link", "gripper_bar_link"]
    hand = ["wrist_link", "gripper_link", "gripper_prop_link", "gripper_bar_link"]
    pairs = {(a, b) for a, b in itertools.pairwise(chain)}
    pairs |= {(a, b) for i, a in enumerate(hand) for b in hand[i + 1 :]}
    pairs |= {(link, f"{side}_finger_link") for link in hand for side in ("left", "right")}
    pairs.add(("left_finger_link", "right_finger_link"))
    for first, second in sorted(pairs):
        spec.add_exclude(bodyname1=f"wx250s/{first}", bodyname2=f"wx250s/{second}")


def site_pose(site: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return position (3,) and quaternion xyzw (4,), in the base frame, of what ``MjData.site`` gives."""
    wxyz = np.empty(4)
    mujoco.mju_mat2Quat(wxyz, site.xmat)
    return site.xpos.copy(), wxyz[[1, 2, 3, 0]]
