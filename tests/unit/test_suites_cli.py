"""``grape suites`` and demonstrations of a suite's cells."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from grape_episodes.reader import read_episode
from grape_sim.expert import PLAIN, draw_style
from grape_sim.suite import SHIPPED
from grape_training import cli
from grape_training.demos import DemoOptions, make_demos
from grape_training.errors import BadInputError
from PIL import Image


@pytest.fixture
def grape(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder; return exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["grape", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


def test_all_shipped_suites_are_listed_with_their_cells(grape):
    code, output, _ = grape("suites", "list", "--json")
    listed = {suite["suite"]: suite for suite in json.loads(output)}
    assert code == 0
    assert tuple(listed) == SHIPPED
    assert set(listed["obstacle"]["cells"]) == set(listed["in_domain"]["cells"])


def test_a_shipped_suite_is_in_order_and_a_bad_file_is_refused_in_one_line(grape, tmp_path):
    assert grape("suites", "check", "language_grounding")[0] == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("suite: bad\ndescription: No such task.\ncells: {one: {tasks: [juggle]}}\n")
    code, output, errors = grape("suites", "check", str(bad))
    assert code == 2
    assert not output
    assert errors.count("\n") == 1
    assert "bad.yaml: cells.one.tasks: unknown name 'juggle'" in errors


def test_the_gallery_shows_a_picture_for_each_task_of_each_cell(grape, tmp_path):
    code, _, errors = grape("suites", "gallery", "out.png", "--suite", "language_grounding")
    assert code == 0, errors
    picture = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"))
    assert picture.shape[1] > 1000
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_a_cell_of_a_suite_is_demonstrated_as_episodes_once(tmp_path):
    options = DemoOptions(noise=0.002, variety=0.5, image_size=32)
    make_demos(tmp_path, ("push_can",), 1, options, suite="unseen_action")
    (folder,) = (tmp_path / "episodes").iterdir()
    episode = read_episode(folder)
    assert episode.manifest.success
    assert episode.manifest.task == "push_can"
    assert episode.manifest.instruction == "push the can to the plate"
    assert episode.manifest.initial_state_id.startswith("unseen_action.push_can/train/")
    assert not (tmp_path / "frames").exists()
    before = folder.stat().st_mtime_ns
    make_demos(tmp_path, ("push_can",), 1, options, suite="unseen_action")
    assert folder.stat().st_mtime_ns == before


def test_what_could_not_be_written_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="--record"):
        make_demos(tmp_path, ("push_can",), 1, DemoOptions(), suite="unseen_action", record=False)
    with pytest.raises(BadInputError, match="unknown task carrot_on_plate"):
        make_demos(tmp_path, ("carrot_on_plate",), 1, DemoOptions(), suite="unseen_action")


def test_variety_changes_path_speed_and_grasp_and_none_changes_nothing(tmp_path):
    lengths, shifts = set(), set()
    for number in range(6):
        style = draw_style(np.random.default_rng(number))
        assert 0.5 * PLAIN.speed < style.speed <= PLAIN.speed
        shifts.add(style.grasp_shift)
    assert len(shifts) == 6
    plain = draw_style(np.random.default_rng(0), 0.0)
    assert plain == PLAIN
    for variety in (0.0, 1.0):
        root = tmp_path / str(variety)
        make_demos(root, ("carrot_on_plate",), 1, DemoOptions(noise=0.0, variety=variety, image_size=32))
        (folder,) = (root / "episodes").iterdir()
        episode = read_episode(folder)
        assert episode.manifest.success
        lengths.add(len(episode.actions))
    assert len(lengths) == 2
