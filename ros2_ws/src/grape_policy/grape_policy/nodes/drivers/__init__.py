"""Arm drivers that speak ROS topics."""
