"""Episodes: write, read, recover, catalogue, export; no ROS needed."""
