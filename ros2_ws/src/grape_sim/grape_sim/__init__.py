"""MuJoCo WidowX 250 with an RGB-D camera: tasks, expert and node."""

import os

# MuJoCo reads these when it is first imported: off-screen rendering without a display, and no threads inside
# the software renderer, which only slow small images down.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")
