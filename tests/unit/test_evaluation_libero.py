"""LIBERO: its units and names here; a real episode where it is installed (see docs/how-to/libero.md)."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from grape_training.errors import BadInputError
from grape_training.libero import LiberoSuite, controller_action
from grape_training.suites import has_expert, load_suite

INSTALLED = importlib.util.find_spec("libero") is not None


def test_actions_are_scaled_to_the_controllers_unit_and_limited():
    action = np.array([0.05, -0.025, 0.2, 0.5, 0.0, -0.25, 1.0])
    assert controller_action(action) == pytest.approx([1.0, -0.5, 1.0, 1.0, 0.0, -0.5, -1.0])
    assert controller_action(np.zeros(7))[6] == 1.0  # closed


def test_only_the_names_of_liberos_suites_are_liberos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shipped = Path(str(files("grape_sim").joinpath("suites", "efficiency.yaml")))
    text = shipped.read_text().replace("suite: efficiency", "suite: libero_like")
    monkeypatch.chdir(tmp_path)
    for name in ("libero_kitchen.yaml", "libero_spatial"):
        Path(name).write_text(text)
        assert load_suite(name).name == "libero_like"
        assert has_expert(name)
    with pytest.raises(ValueError, match="no such suite or file"):
        load_suite("libero_chess")


@pytest.mark.skipif(INSTALLED, reason="LIBERO is installed here")
def test_without_libero_it_is_said_what_to_do():
    with pytest.raises(BadInputError, match=r"docs/how-to/libero\.md"):
        load_suite("libero_spatial")
    assert not has_expert("libero_spatial")


@pytest.mark.skipif(not INSTALLED, reason="needs LIBERO in an environment of its own: docs/how-to/libero.md")
def test_names_are_those_of_the_official_initial_states():
    suite = load_suite("libero_spatial")
    assert isinstance(suite, LiberoSuite)
    assert suite.max_steps == 220
    ids = suite.state_ids("eval", 2)
    assert ids[0] == "libero_spatial.task_00/eval/0000"
    assert len(ids) == 20
    state = suite.sample(ids[1])
    assert "bowl" in state.instruction
    assert state.other_instruction != state.instruction
    with pytest.raises(BadInputError, match="50 states"):
        suite.state_ids("eval", 51)


@pytest.mark.skipif(not INSTALLED, reason="needs LIBERO in an environment of its own: docs/how-to/libero.md")
def test_an_episode_runs_and_repeats_bit_for_bit(tmp_path: Path):
    from grape_training.evaluation import evaluate
    from grape_training.policies import PolicySpec

    states = load_suite("libero_spatial").state_ids("eval", 1, cells=["task_00"])
    runs = [
        evaluate(
            {"random": PolicySpec("random")},
            states,
            tmp_path / name,
            suite="libero_spatial",
            workers=1,
            max_steps=4,
            progress=False,
        )
        for name in ("one", "two")
    ]
    assert runs[0] == runs[1]
    (result,) = runs[0]["random"]
    assert (result.success, result.steps, result.stage) == (False, 4, "start")
    assert result.path_length > 0.0
