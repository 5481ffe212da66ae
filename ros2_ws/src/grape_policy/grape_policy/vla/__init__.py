"""OpenVLA at any size, without ROS and without remote code."""
