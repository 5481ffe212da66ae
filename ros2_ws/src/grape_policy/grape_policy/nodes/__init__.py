"""The ROS 2 nodes of the stack; the only modules here that import rclpy."""
