"""The MuJoCo model of each arm, from a wheel's files: joints, collision shapes, site ``end_effector``.

The base link sits at the origin of the base frame (x forward, y left, z up). Joints are named as in the
robot's description. Only the WidowX 250's model has motors and colours too (``model.py``); the others serve
kinematics and clearance.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import mujoco
import rtbdata
import xacro

from . import model as wx250s
from .description import DescriptionError
from .model import END_EFFECTOR_SITE

_FRANKA_TIP = (0.0, 0.0, 0.1034)  # m, between the finger tips, in the frame of the hand
_FRANKA_FINGER = (
    (0.0, 0.0, 0.029),
    (0.011, 0.010, 0.025),
)  # m, centre and half size of a box around a finger
_WXAI_TIP = (0.156, 0.0, 0.0)  # m, between the finger tips, in the frame of link_6
_WXAI_LINKS = tuple(f"link_{number}" for number in range(1, 7))


def arm_spec(name: str, joints: Sequence[str]) -> mujoco.MjSpec:
    """Return the model ``name`` (wx250s, franka or wxai) of the arm with these ``joints``.

    Raises:
        DescriptionError: no such model, or the package that has its files is missing.
    """
    if name == "wx250s":
        return wx250s.arm_spec()
    if name == "franka":
        return _franka(joints[0].removesuffix("_joint1"))
    if name == "wxai":
        return _wxai()
    raise DescriptionError(f"robot description: model {name!r} is not one of wx250s, franka, wxai")


def _franka(arm_id: str) -> mujoco.MjSpec:
    """Return Franka's arm and hand (Panda and FR3 are built alike) from the xacro in ``rtb-data``."""
    folder = Path(rtbdata.__path__[0]) / "xacro" / "qut_frankie_description" / "robots"
    document = xacro.parse(
        f'<robot xmlns:xacro="http://www.ros.org/wiki/xacro" name="{arm_id}">'
        f'<xacro:include filename="{folder / "panda_arm.xacro"}"/>'
        f'<xacro:include filename="{folder / "hand.xacro"}"/>'
        f'<xacro:panda_arm arm_id="{arm_id}"/>'
        f'<xacro:hand ns="{arm_id}" rpy="0 0 ${{-pi/4}}" connected_to="{arm_id}_link8"/></robot>'
    )
    xacro.process_doc(document)
    text = re.sub(r"<visual>.*?</visual>", "", document.toxml(), flags=re.S)
    compiler = '<mujoco><compiler fusestatic="false"/></mujoco>'
    spec = mujoco.MjSpec.from_string(text.replace("</robot>", f"{compiler}</robot>"))
    _add_franka_hand(spec, arm_id)
    return spec


def _add_franka_hand(spec: mujoco.MjSpec, arm_id: str) -> None:
    """Add what the xacro lacks: fingers to collide with, the site, masses, and who always touches whom."""
    for body in spec.bodies:  # any mass will do, nothing falls here
        body.mass, body.inertia, body.explicitinertial = 1.0, [1.0, 1.0, 1.0], True
    fingers = [f"{arm_id}_{side}finger" for side in ("left", "right")]
    centre, half = _FRANKA_FINGER
    for name, side in zip(fingers, (1.0, -1.0), strict=True):
        position = [centre[0], side * half[1], centre[2]]
        spec.body(name).add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, pos=position, size=half)
    spec.body(f"{arm_id}_hand").add_site(name=END_EFFECTOR_SITE, pos=_FRANKA_TIP)
    wrist = [f"{arm_id}_{name}" for name in ("link6", "link7", "link8", "hand")]
    _exclude(spec, [(f"{arm_id}_link1", f"{arm_id}_link3"), (f"{arm_id}_link5", f"{arm_id}_link7")])
    _exclude(spec, itertools.combinations([*wrist, *fingers], 2))


def _wxai() -> mujoco.MjSpec:
    """Return Trossen's WidowX AI from the model in ``trossen-arm-sim``; its links collide as their hulls."""
    found = find_spec("trossen_arm_sim")
    if found is None or not found.submodule_search_locations:
        hint = ".venv/bin/pip install trossen-arm-sim -c constraints.txt"
        raise DescriptionError(f"the WidowX AI's model is missing; install it:  {hint}")
    assets = Path(found.submodule_search_locations[0]) / "assets"
    spec = mujoco.MjSpec.from_file(str(assets / "wxai_follower.xml"))
    spec.meshdir = str(assets)
    for geom in list(spec.geoms):  # the vendor's cylinders and boxes leave parts of the links out
        link = geom.parent.name
        if geom.type == mujoco.mjtGeom.mjGEOM_MESH and link in ("base_link", *_WXAI_LINKS):
            geom.contype = geom.conaffinity = 1
        elif not link.startswith("carriage"):
            spec.delete(geom)
    spec.body("link_6").add_site(name=END_EFFECTOR_SITE, pos=_WXAI_TIP)
    hand = ("link_4", "link_5", "link_6", "carriage_left", "carriage_right")
    # Folded at rest the hull of link_5 touches that of link_2; link_4 and link_6 around it keep away from it.
    _exclude(spec, [*itertools.combinations(hand, 2), ("link_3", "link_5"), ("link_2", "link_5")])
    return spec


def _exclude(spec: mujoco.MjSpec, pairs: Iterable[tuple[str, str]]) -> None:
    """Ignore contacts of links that touch, or nearly, wherever the joints are."""
    for first, second in pairs:
        spec.add_exclude(bodyname1=first, bodyname2=second)
