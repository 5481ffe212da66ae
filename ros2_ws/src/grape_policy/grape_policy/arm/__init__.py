"""The arm: description, kinematics, controller and drivers (no ROS)."""
