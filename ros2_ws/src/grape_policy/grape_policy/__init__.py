"""VLA policy, arm control and the nodes of the GRAPE stack."""
