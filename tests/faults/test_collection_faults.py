"""A short unattended collection while everything goes wrong: nothing lost, nothing unsafe, all explained."""

from __future__ import annotations

from pathlib import Path

import pytest
from vla_factory import tiny_checkpoint

pytest.importorskip("grape_msgs.msg", exc_type=ImportError)

from grape_training.bench_collection import measure
from grape_training.bench_collection_faults import FAULTS, schedule

EPISODES = 10


def test_the_schedule_is_fixed_by_its_seed_and_fair() -> None:
    faults = schedule(200, 0.25, seed=3)
    assert faults == schedule(200, 0.25, seed=3)
    assert faults != schedule(200, 0.25, seed=4)
    assert len({fault.episode for fault in faults}) == len(faults) == 50
    assert {kind: sum(f.kind == kind for f in faults) for kind in FAULTS} == dict.fromkeys(FAULTS, 5)


@pytest.mark.ros
@pytest.mark.slow
def test_nothing_is_lost_or_unsafe_while_faults_are_injected(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "checkpoint")
    found = measure(tmp_path / "checkpoint", tmp_path / "run", EPISODES, 1.0, seed=0, max_steps=12)
    print(found)
    assert set(found["faults"]) == set(FAULTS)
    assert found["starts"] >= 2  # power was lost
    assert found["lost"] == 0
    assert found["unsafe"] == 0
    assert found["processes_left"] == []
    assert found["problems"] == []
    assert found["kept"] + found["given_up"] == found["planned"] >= EPISODES
    assert found["ok"]
