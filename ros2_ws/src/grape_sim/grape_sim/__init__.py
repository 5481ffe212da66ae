"""MuJoCo WidowX 250 with an RGB-D camera: tasks, expert and node."""
