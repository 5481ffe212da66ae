"""Paired evaluation: same numbers for any number of workers, resume, baselines, summaries."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from grape_training import evaluation
from grape_training.cells import Cell, run_cell, shared_environment
from grape_training.comparison import compare_cells
from grape_training.errors import BadInputError, UserError
from grape_training.evaluation import CellResult, compare, evaluate, initial_states, summarise
from grape_training.policies import PolicySpec
from grape_training.pool import run_parallel
from vla_factory import tiny_checkpoint

STATES = ["stack_cube/eval/0000", "carrot_on_plate/eval/0001"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_checkpoint(folder)
    return folder


def run(checkpoint: Path, output: Path, workers: int, ray: str = "") -> dict[str, list[CellResult]]:
    specs = {"tiny": PolicySpec(str(checkpoint), temperature=1.0), "random": PolicySpec("random")}
    return evaluate(specs, STATES, output, workers=workers, ray=ray, max_steps=3, progress=False)


def test_results_are_the_same_for_one_and_two_workers_and_resume(checkpoint, tmp_path, monkeypatch):
    one, two = run(checkpoint, tmp_path / "one", 1), run(checkpoint, tmp_path / "two", 2)
    assert one == two
    assert [cell.initial_state_id for cell in one["tiny"]] == STATES
    path = next((tmp_path / "one").glob("random-*.jsonl"))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:20])  # killed while the second line was written
    asked: list[object] = []

    def recorded(function, items, workers, ray):
        asked.extend(items)
        return ((item, function(item)) for item in items)

    monkeypatch.setattr(evaluation, "run_parallel", recorded)
    assert run(checkpoint, tmp_path / "one", 1) == one
    assert len(asked) == 1
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install -r requirements-ray.txt"
)
def test_a_ray_cluster_gives_the_same_results(checkpoint, tmp_path):
    cluster = run(checkpoint, tmp_path / "ray", 2, "local")
    assert cluster == run(checkpoint, tmp_path / "one", 1)
    assert all(cell.path_length > 0.0 for cell in cluster["random"])
    with pytest.raises(BadInputError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        run(checkpoint, tmp_path / "nowhere", 1, "127.0.0.1:1")


def test_without_ray_it_is_said_what_to_install(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # what an absent package looks like to import
    with pytest.raises(BadInputError, match=r"requirements-ray\.txt"):
        run(checkpoint, tmp_path, 1, "local")


def test_expert_succeeds_where_zero_random_and_shuffled_do_not(checkpoint):
    def cell(**spec: str) -> CellResult:
        source = spec.pop("source", str(checkpoint))
        made = Cell("x", PolicySpec(source, **spec), STATES[0])
        return run_cell(made, max_steps=40 if source == "expert" else 4, seed=0)

    expert = cell(source="expert")
    assert expert.success
    assert expert.grasped
    assert expert.stage == "done"
    assert 0.2 < expert.path_length < 1.5
    assert expert.jerk > 0.0
    assert 0.0 < expert.policy_seconds < expert.seconds
    for result in (cell(source="zero"), cell(source="random"), cell(shuffle="image")):
        assert not result.success
        assert result.steps == 4
    assert cell(shuffle="instruction") == cell(shuffle="instruction")


def test_shuffled_instruction_is_that_of_the_other_task_on_the_table(checkpoint):
    from grape_sim.initial_state import sample
    from grape_training.policies import start_actor

    spec = PolicySpec(str(checkpoint), shuffle="instruction")
    actor, _ = start_actor(spec, shared_environment(), STATES[0], 0)
    assert actor.instruction == sample(STATES[0]).other_task.instruction


def results(*rows: tuple[bool, int]) -> list[CellResult]:
    return [
        CellResult(f"{'stack_cube' if k % 2 else 'spoon_on_towel'}/eval/{k:04d}", ok, True, hits, 10 + k)
        for k, (ok, hits) in enumerate(rows)
    ]


def test_summary_and_comparison():
    before, after = results((True, 0), (False, 2), (False, 0)), results((True, 0), (True, 0), (True, 1))
    found = summarise(after)
    assert found["pooled"]["success"]["rate"] == 1.0
    assert found["pooled"]["collided"]["count"] == 1
    assert found["tasks"]["stack_cube"]["episodes"] == 1
    assert found["pooled"]["steps"] == 11.0
    difference = compare(after, before)
    assert (difference["success"]["gained"], difference["success"]["lost"]) == (2, 0)
    assert difference["collided"]["difference"] == 0.0
    with pytest.raises(ValueError, match="different initial states"):
        compare(after[:2], before)
    json.dumps(found)


def test_cells_are_compared_each_all_together_and_on_average():
    """One cell of 1 episode that is gained, one of 2 where nothing changes: micro 1/3, macro 1/2."""
    before, after = results((True, 0), (False, 0), (True, 0)), results((True, 0), (True, 0), (True, 0))
    found = compare_cells(after, before)
    assert found["success"]["difference"] == pytest.approx(1 / 3)
    assert found["macro"]["success"]["value"] == pytest.approx(1 / 2)
    assert found["tasks"]["stack_cube"]["success"]["gained"] == 1
    assert found["tasks"]["spoon_on_towel"]["steps"]["difference"] == 0.0
    assert found["steps_both_succeed"]["total"] == 2
    assert all(task["success"]["p_holm"] == 1.0 for task in found["tasks"].values())
    summary = summarise(before)
    assert summary["pooled"]["success"]["rate"] == pytest.approx(2 / 3)
    assert summary["macro"]["success"]["value"] == pytest.approx(1 / 2)


def test_states_are_named_and_bad_names_refused():
    assert initial_states(["stack_cube", "spoon_on_towel"], "eval", 2) == [
        "stack_cube/eval/0000",
        "spoon_on_towel/eval/0000",
        "stack_cube/eval/0001",
        "spoon_on_towel/eval/0001",
    ]
    for arguments in (["nothing"], "eval", 1), ([], "eval", 1), (["stack_cube"], "test", 1):
        with pytest.raises(BadInputError):
            initial_states(*arguments)
    with pytest.raises(BadInputError, match="shuffle"):
        PolicySpec("zero", shuffle="everything")


def die(_: int) -> int:
    import os

    os._exit(9)


def test_a_killed_worker_is_one_clear_error():
    with pytest.raises(UserError, match="killed"):
        list(run_parallel(die, [1, 2], 1))
