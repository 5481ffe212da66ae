#!/usr/bin/env bash
# Source ROS 2 and the workspace, then run the command.
set -e
. "/opt/ros/${ROS_DISTRO:-jazzy}/setup.bash"
. /opt/grape/ros2_ws/install/setup.bash
exec "$@"
