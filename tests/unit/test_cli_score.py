"""``grape score``, ``grape score explain`` and ``grape constraints check`` from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from episode_factory import make_episode
from grape_episodes.writer import write_episode
from grape_preference.pairs import load_pairs
from grape_sim.environment import SimEnvironment
from grape_training import cli
from preference_rollouts import EarlyRelease, roll_out

Run = Callable[..., tuple[int, str, str]]
STATE = "stack_cube/train/0003"


@pytest.fixture
def grape(monkeypatch, capsys, tmp_path) -> Run:
    """Run the command line in this process, in an empty folder; return exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["grape", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good rollout, a near miss from the same state, and an episode without its objects."""
    root = tmp_path_factory.mktemp("episodes")
    environment = SimEnvironment(depth=True)
    write_episode(root, roll_out(environment, STATE, 0.0, 1, 30).episode)
    write_episode(root, roll_out(environment, STATE, 0.001, 2, 30, EarlyRelease()).episode)
    environment.close()
    write_episode(root, make_episode(2, episode_id="noise"))
    return root


GOOD, MISS = "stack_cube-train-0003-0000-0001", "stack_cube-train-0003-0010-0002"


def test_scores_then_explains_with_the_group(grape: Run, root: Path) -> None:
    code, output, errors = grape("score", root, "--output", "scores", "--workers", 1, "--json")
    assert (code, json.loads(output)["pairs"], json.loads(output)["judge"]) == (0, 1, "keypoints"), errors
    code, output, errors = grape("score", "explain", root / MISS, "--scores", "scores", "--plot", "why.png")
    assert code == 0, errors
    assert "4. place: " in output
    assert "not completed" in output
    assert "judged by keypoints, on_top_of(green_cube, yellow_cube) and " in output
    assert " is false at the last frame." in output
    assert f"In its group {STATE}: place 2 of 2" in output
    assert f"rejected for {GOOD}, margin" in output
    assert output.strip().endswith("picture: why.png")
    picture = cv2.imread("why.png")
    assert picture.shape[0] > 500
    assert picture.std() > 10


def test_explains_without_scores_beside_it(grape: Run, root: Path) -> None:
    code, output, _ = grape("score", "explain", root / GOOD, "--json")
    found = json.loads(output)
    assert code == 0
    assert (found["group"], found["score"]["i_success"]) == ("", 1.0)
    assert Path(f"explain-{GOOD}.png").stat().st_size > 10_000


def test_explains_why_there_is_no_score(grape: Run, root: Path) -> None:
    code, output, _ = grape("score", "explain", root / "noise", "--objective", "safety")
    assert code == 0
    assert "No score, verdict missing_keypoints: carrot was not found in the images." in output
    assert Path("explain-noise.png").exists()


def test_options_reach_the_scores(grape: Run, root: Path, tmp_path: Path) -> None:
    stages = tmp_path / "stack_cube.yaml"
    stages.write_text(
        "{version: 1, task: stack_cube, keypoints: [green_cube], unreached_cost: 1, stages: "
        "[{name: wait, end: 'lift(green_cube) > 0.01', constraints: []}]}"
    )
    options = ("--workers", 1, "--preset", "raw:0,0,1", "--judge", "recorded", "--objective", "efficiency")
    code, _, errors = grape("score", "run", root, "--output", "out", "--stages", stages, *options)
    assert code == 0, errors
    rows = {row["episode_id"]: row for row in json.loads(Path("out/scores.json").read_text())["episodes"]}
    assert [stage["name"] for stage in rows[GOOD]["stages"]] == ["wait"]
    assert (rows[GOOD]["judge"], rows[GOOD]["objective"]) == ("recorded", "efficiency")
    assert (rows[GOOD]["gcpg"], rows[MISS]["gcpg"], rows["noise"]["gcpg"]) == (1.0, 0.0, None)
    (pair,) = load_pairs("out/pairs.parquet")
    assert (pair.chosen, pair.preset, pair.initial_state_distance) == (GOOD, "raw:0,0,1", 0.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "{root}", "--objective", "glory"], "unknown objective 'glory'"),
        (["score", "{root}", "--judge", "me"], "unknown judge 'me'"),
        (["score", "{root}", "--preset", "1,2"], "unknown preset '1,2'"),
        (["score", "{root}", "--stages", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["constraints", "check", "--expression", "height(carot) > 1"], "column 8: unknown name 'carot'"),
        (["constraints", "check", "--expression", "__import__('os')"], "column 12: character"),
        (["constraints", "check", "--expression", ""], "the expression is empty"),
        (["constraints", "check", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_code_2(grape: Run, root: Path, arguments: list[str], words: str) -> None:
    code, output, errors = grape(*(argument.replace("{root}", str(root)) for argument in arguments))
    assert (code, output) == (2, "")
    assert words in errors
    assert len(errors.splitlines()) == 1


def test_a_broken_stage_file_is_one_line_with_the_place(grape: Run) -> None:
    Path("a.yaml").write_text(
        "{version: 1, task: t, keypoints: [carrot], unreached_cost: 1, stages: "
        "[{name: wait, end: 'time > height(carrot)', constraints: []}]}"
    )
    code, output, errors = grape("constraints", "check", "a.yaml")
    assert (code, output) == (2, "")
    assert errors == (
        "error: a.yaml, stage 1 'wait', end, column 8: a number in s and a number in m do not go together\n"
    )


def test_valid_expressions_and_files(grape: Run) -> None:
    assert grape("constraints", "check", "--expression", "grasped(carrot)")[:2] == (0, "fine: a condition\n")
    code, output, _ = grape("constraints", "check", "--expression", "speed(carrot)", "--json")
    assert (code, json.loads(output)["kind"]) == (0, "m/s")
    shipped = Path(cli.__file__).parents[2] / "ros2_ws/src/grape_preference/grape_preference/stages"
    code, output, _ = grape("constraints", "check", *sorted(shipped.glob("*.yaml")))
    assert (code, len(output.splitlines())) == (0, 4)
    assert grape("constraints", "check")[0] == 2
