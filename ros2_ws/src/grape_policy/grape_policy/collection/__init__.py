"""Unattended collection without ROS: task list, journal, checks, limits, status page, and the session."""
