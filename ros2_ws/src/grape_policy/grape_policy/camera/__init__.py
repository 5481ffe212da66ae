"""Cameras without ROS: RealSense devices, recordings and episodes, and the time stamps of their frames."""
