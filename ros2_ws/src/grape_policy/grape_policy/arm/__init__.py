"""The arm: description, kinematics, controller and drivers (no ROS)."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # read when MuJoCo is first imported; there may be no display
