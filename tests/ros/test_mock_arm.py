"""The scenarios of the stack with a mock arm under our supervisor, which ``grape up`` runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grape_policy.domain import reserved_domain
from grape_policy.supervisor import running_stack
from vla_factory import tiny_checkpoint

pytest.importorskip("grape_msgs.msg", exc_type=ImportError)
from probe import probe_node
from scenarios import REACH, SCENARIOS, Graph

pytestmark = [pytest.mark.ros, pytest.mark.slow]
SCENE = Path(__file__).parents[1] / "mock_scene.py"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """On a domain of its own: its nodes have the names of those of other tests."""
    root = tmp_path_factory.mktemp("mock_arm")
    for seed, name in enumerate(("checkpoint", "other")):
        tiny_checkpoint(root / name, seed, REACH)
    arguments = {"driver": "mock", "checkpoint": str(root / "checkpoint")}
    arguments["episodes_folder"] = str(root / "episodes")
    with reserved_domain() as domain_id, running_stack(arguments, domain_id, root / "logs") as stack:
        scene = subprocess.Popen([sys.executable, str(SCENE)])
        with probe_node(domain_id) as probe:
            probe.listen("action", "safety_state")
            yield Graph(probe, domain_id, root / "episodes", root / "other")
        scene.terminate()
        scene.wait(20)
        assert stack.failure() == ""
    assert list((root / "episodes").glob("*.part")) == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(graph: Graph, scenario: Callable[[Graph], None]) -> None:
    scenario(graph)
