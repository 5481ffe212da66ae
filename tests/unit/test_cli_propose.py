"""``grape propose``: stages from a server, from the shipped library, and what is said about either."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grape_episodes.writer import write_episode
from grape_preference.constraints import check_file
from grape_preference.proposers import ColourProposer
from grape_sim.environment import SimEnvironment
from grape_training import cli
from grape_training.truth import Rollout, roll_out
from tiny_vision_models import save_dinov2, save_llava, save_sam2
from vlm_answers import good_answer
from vlm_server import say, serving

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    environment = SimEnvironment(depth=True)
    try:
        return roll_out(environment, "carrot_on_plate/train/0003", 0.0, 0)
    finally:
        environment.close()


@pytest.fixture(scope="module")
def folder(rollout: Rollout, tmp_path_factory: Any) -> Path:
    return write_episode(tmp_path_factory.mktemp("episodes"), rollout.episode)


@pytest.fixture
def grape(monkeypatch: Any, capsys: Any, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["grape", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


def answer(rollout: Rollout) -> dict[str, Any]:
    episode = rollout.episode
    assert episode.depths is not None
    return good_answer(ColourProposer().propose(episode.images[0], episode.depths[0], episode.camera))


def test_model_s_stages_are_written_and_scored_with(
    grape: Run, rollout: Rollout, folder: Path, tmp_path: Path
) -> None:
    with serving(say(answer(rollout))) as server:
        code, out, _ = grape("propose", folder, "--vlm-url", server.url, "--vlm-model", "m", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["source"], told["verdict"], told["requests"], told["tokens"]) == (
        "model",
        "accepted",
        1,
        100,
    )
    assert told["stages_file"] == "runs/stages/carrot_on_plate.yaml"
    assert check_file(told["stages_file"]).task == "carrot_on_plate"
    assert len(list(Path(told["audit"]).iterdir())) == 1
    code, out, _ = grape(
        "score",
        folder.parent,
        "--output",
        tmp_path / "mine",
        "--stages",
        "runs/stages",
        "--workers",
        1,
        "--json",
    )
    assert code == 0
    assert json.loads(out)["scored"] == 1


def test_fallback_is_said_and_can_be_refused(grape: Run, folder: Path) -> None:
    with serving(say("no idea")) as server:
        arguments = ("propose", folder, "--vlm-url", server.url, "--vlm-model", "m")
        code, out, _ = grape(*arguments)
        assert code == 0
        assert "SHIPPED stages (invalid_answer)" in out
        code, _, err = grape(*arguments, "--no-fallback")
        assert code == 1
        assert err.startswith("error: the model's answer was refused")
    assert "Verdict: invalid_answer" in Path("runs/stages/carrot_on_plate.yaml").read_text()


def test_shipped_stages_need_no_model(grape: Run, folder: Path, tmp_path: Path) -> None:
    code, out, _ = grape("propose", folder, "--shipped", "--output", tmp_path / "a" / "b.yaml")
    assert code == 0
    assert "the SHIPPED stages (chosen)" in out
    assert check_file(tmp_path / "a" / "b.yaml").task == "carrot_on_plate"
    assert not Path("runs/vlm").exists()


def test_budget_is_kept(grape: Run, folder: Path) -> None:
    with serving(say("no idea")) as server:
        arguments = ("propose", folder, "--vlm-url", server.url, "--vlm-model", "m", "--no-fallback")
        code, _, err = grape(*arguments, "--vlm-max-requests", 1)
        assert (code, len(server.requests)) == (1, 1)
        assert "budget of 1 requests" in err


def test_model_that_points_and_then_plans(grape: Run, rollout: Rollout, folder: Path) -> None:
    episode = rollout.episode
    assert episode.depths is not None
    found = ColourProposer().propose(
        episode.images[0], episode.depths[0], episode.camera, ["carrot", "plate"]
    )
    points = []
    for name, item in found.items():
        u, v = item.pixels[np.linalg.norm(item.pixels - item.pixels.mean(axis=0), axis=1).argmin()]
        points.append({"name": name, "u": 2 * int(u), "v": 2 * int(v)})
    with serving(say({"points": points}), say(good_answer(found))) as server:
        arguments = (
            "--proposer",
            "pointing",
            "--names",
            "carrot,plate",
            "--vlm-url",
            server.url,
            "--vlm-model",
            "m",
        )
        code, out, err = grape("propose", folder, *arguments, "--json")
    assert code == 0, err
    assert json.loads(out)["requests"] == 2


def test_pointing_that_fails_falls_back_too(grape: Run, folder: Path) -> None:
    with serving(say("over there")) as server:
        arguments = (
            "--proposer",
            "pointing",
            "--names",
            "carrot",
            "--vlm-url",
            server.url,
            "--vlm-model",
            "m",
        )
        code, out, _ = grape("propose", folder, *arguments)
    assert code == 0
    assert "SHIPPED stages (invalid_answer)" in out


@pytest.mark.parametrize(("answer", "success"), [("yes", 1.0), ("no", 0.0), ("unsure", 1.0)])
def test_score_asks_for_a_second_opinion(
    grape: Run, folder: Path, tmp_path: Path, answer: str, success: float
) -> None:
    with serving(say({"reason": "seen", "success": answer})) as server:
        model = ("--vlm-url", server.url, "--vlm-model", "m")
        code, _, err = grape("score", folder.parent, "--output", tmp_path, *model)
        assert (code, len(server.requests)) == (0, 1), err
    (row,) = json.loads((tmp_path / "scores.json").read_text())["episodes"]
    assert row["i_success"] == success
    assert row["judge"] == ("keypoints" if answer == "unsure" else "keypoints+vlm")


def test_models_in_this_process(grape: Run, folder: Path, tmp_path: Path) -> None:
    save_llava(tmp_path / "llava")
    code, out, err = grape(
        "propose", folder, "--vlm-local", tmp_path / "llava", "--vlm-max-tokens", 50, "--json"
    )
    assert code == 0, err
    told = json.loads(out)
    assert (told["source"], told["verdict"]) == ("shipped", "budget")
    verdicts = [json.loads(path.read_text()) for path in sorted(Path(told["audit"]).glob("*/verdict.json"))]
    assert [verdict["verdict"] for verdict in verdicts] == [
        "invalid_answer",
        "budget",
    ]  # random weights babble
    learned = (
        "--proposer",
        "learned",
        "--sam2",
        save_sam2(tmp_path / "s"),
        "--dinov2",
        save_dinov2(tmp_path / "d"),
    )
    code, _, err = grape(
        "propose", folder, "--vlm-url", "http://127.0.0.1:1/v1", "--vlm-model", "m", *learned
    )
    assert code == 2
    assert "no object was found" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--vlm-local"),
        (("--vlm-url", "http://a/v1"), "--vlm-model"),
        (("--vlm-url", "http://a/v1", "--vlm-model", "m", "--shipped"), "--shipped"),
        (("--vlm-url", "a", "--vlm-model", "m"), "address"),
        (("--vlm-local", "nowhere"), "config.json is missing"),
        (
            ("--vlm-url", "http://a/v1", "--vlm-model", "m", "--proposer", "magic"),
            "colour, pointing or learned",
        ),
        (("--vlm-url", "http://a/v1", "--vlm-model", "m", "--proposer", "learned"), "--sam2"),
        (("--vlm-url", "http://a/v1", "--vlm-model", "m", "--proposer", "pointing"), "names"),
        (("--vlm-url", "http://a/v1", "--vlm-model", "m", "--names", "tomato"), "tomato"),
    ],
)
def test_bad_arguments_are_one_clear_line(
    grape: Run, folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, _, err = grape("propose", folder, *arguments)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
