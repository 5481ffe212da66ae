"""`grape bench sim`: one JSON object whose shares add up."""

from __future__ import annotations

import json

import pytest
from grape_training import bench_sim, cli
from typer.testing import CliRunner


def test_figures_are_complete_and_consistent(monkeypatch):
    monkeypatch.setattr(bench_sim, "ROUNDS", 1)
    result = CliRunner().invoke(cli.app, ["bench", "sim", "--episodes", "8", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    shares = [found[f"{name}_share"] for name in ("physics", "rendering", "overhead")]
    assert sum(shares) == pytest.approx(1.0)
    assert all(0.0 < share < 1.0 for share in shares)
    assert 0.0 < found["controller_share"] < found["overhead_share"] < 0.4
    assert found["episodes_per_core_minute"] > 20.0
    assert 1.0 < found["reset_ms"] < 100.0
    assert 0.3 < found["two_worker_speedup"] < 2.5
    assert (found["episodes"], found["steps_per_episode"], found["image"]) == (8, 30, [240, 320])
