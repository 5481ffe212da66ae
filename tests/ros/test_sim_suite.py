"""The simulated robot with another suite: initial states of cells with models of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from grape_sim.environment import SimEnvironment

pytestmark = pytest.mark.ros
pytest.importorskip("grape_msgs.msg", exc_type=ImportError)


def test_the_node_shows_and_names_the_states_of_a_suite(start: Any, probe: Any) -> None:
    from grape_policy.nodes.messages import from_image

    start("grape_sim.node", suite="unseen_action")
    probe.listen("color_image")
    probe.wait_for("color_image", seconds=60)
    environment = SimEnvironment(suite="unseen_action")
    try:
        for cell in ("knock_over_tower", "push_can"):
            state = f"unseen_action.{cell}/eval/0002"
            expected = environment.reset(state)
            probe.received["color_image"].clear()
            answer = probe.call("reset_scene", task="", initial_state_id=state)
            assert answer.success, answer.message
            assert answer.instruction == environment.instruction
            probe.wait_for("color_image", lambda m, seen=expected: close(from_image(m), seen.image))
    finally:
        environment.close()
    refused = probe.call("reset_scene", task="", initial_state_id="carrot_on_plate/eval/0000")
    assert not refused.success
    assert "unseen_action" in refused.message


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two images show the same scene; it may have settled a little since."""
    return bool((np.abs(a.astype(int) - b).max(axis=2) > 8).mean() < 0.002)
