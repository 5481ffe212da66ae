"""Stages run once for the same inputs; a machine that cannot do it is told so before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from grape_policy import doctor
from grape_policy.doctor import Check
from grape_training.errors import BadInputError, UserError
from grape_training.loop import LoopOptions, _incumbent
from grape_training.preflight import check_machine
from grape_training.registry import Registry
from grape_training.stages import Stages, keep_if_same_inputs
from vla_factory import tiny_checkpoint

CHECKS = ("python", "contract", "checkpoint", "disk", "memory", "rendering", "ros", "domain")


def test_a_complete_stage_is_not_run_again(tmp_path):
    said: list[str] = []
    runs: list[int] = []

    def work() -> dict[str, int]:
        runs.append(1)
        return {"episodes": len(runs)}

    for _ in range(2):
        assert Stages(tmp_path, said.append).run("collect", {"seed": 0}, work) == {"episodes": 1}
    assert said[-1] == "collect: done before"
    assert Stages(tmp_path, said.append).run("collect", {"seed": 1}, work) == {"episodes": 2}


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    def work() -> dict[str, int]:
        raise UserError("no graph")

    with pytest.raises(UserError):
        Stages(tmp_path, lambda _: None).run("collect", {}, work)
    assert not list(tmp_path.iterdir())


def test_half_done_work_is_kept_for_the_same_inputs_only(tmp_path):
    work = tmp_path / "tpo"
    keep_if_same_inputs(work, "first")
    (work / "state").write_text("half")
    keep_if_same_inputs(work, "first")
    assert (work / "state").read_text() == "half"
    keep_if_same_inputs(work, "second")
    assert not (work / "state").exists()


def test_a_damaged_stage_is_named(tmp_path):
    (tmp_path / "collect.json").write_text(json.dumps({"inputs": ""})[:5])
    with pytest.raises(BadInputError, match=r"collect\.json is damaged"):
        Stages(tmp_path, lambda _: None).run("collect", {}, dict)


def test_a_folder_with_the_loop_of_another_checkpoint_is_refused(tmp_path):
    for seed, name in enumerate(("one", "other")):
        tiny_checkpoint(tmp_path / name, seed)
    registry, output = Registry(tmp_path / "run/registry"), tmp_path / "run"
    first = _incumbent(registry, LoopOptions(output, tmp_path / "one"))
    with pytest.raises(BadInputError, match=rf"the loop of {first}, .*other is tiny-.*another --output"):
        _incumbent(registry, LoopOptions(output, tmp_path / "other"))
    assert _incumbent(registry, LoopOptions(output, tmp_path / "one")) == first == registry.current


@pytest.mark.parametrize("failing", CHECKS)
def test_the_first_failing_check_ends_the_run_with_its_remedy(failing, monkeypatch):
    for name in CHECKS:
        check = Check(name, name != failing, f"{name} is bad", "mend it")
        monkeypatch.setattr(doctor, f"check_{name}", lambda *_, check=check: check)
    monkeypatch.setenv("ROS_DOMAIN_ID", "77")
    with pytest.raises(UserError, match=f"{failing}: {failing} is bad. mend it"):
        check_machine(Path("policy"), Path("run"), ros=True)


def test_without_ros_the_graph_is_not_asked_for(monkeypatch):
    for name in CHECKS:
        check = Check(name, name not in ("ros", "domain"), "")
        monkeypatch.setattr(doctor, f"check_{name}", lambda *_, check=check: check)
    check_machine(Path("policy"), Path("run"), ros=False)
