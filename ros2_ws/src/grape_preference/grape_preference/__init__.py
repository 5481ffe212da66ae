"""Keypoints, staged constraints, scores and preference pairs."""
