"""Scoring a folder: every episode gets a score or a verdict; the results are whole and reproducible."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from episode_factory import make_episode
from grape_episodes.catalogue import Catalogue
from grape_episodes.reader import read_manifest
from grape_episodes.writer import write_episode
from grape_preference.folder import load_scores, score_folder
from grape_preference.pairs import load_pairs
from grape_preference.scoring import Score
from grape_sim.environment import SimEnvironment
from grape_training.pool import run_parallel
from preference_rollouts import roll_out


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good and a bad episode of one initial state, a noise image, a damaged one and an unfinished one."""
    root = tmp_path_factory.mktemp("episodes")
    environment = SimEnvironment(depth=True)
    for noise, steps in ((0.0, 30), (0.03, 8)):
        write_episode(root, roll_out(environment, "stack_cube/train/0003", noise, 5, steps).episode)
    environment.close()
    write_episode(root, make_episode(2, episode_id="noise"))
    write_episode(root, make_episode(2, episode_id="laundry", task="fold_laundry"))
    damaged = write_episode(root, make_episode(2, episode_id="damaged"))
    mcap = damaged / "damaged_0.mcap"
    mcap.write_bytes(mcap.read_bytes()[:-40])
    (root / "open.part").mkdir()
    (root / "open.part" / "episode.json").write_text("{}")
    return root


def test_every_episode_has_a_score_or_a_verdict(root: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    result = score_folder(
        root,
        tmp_path,
        workers=1,
        progress=False,
        on_score=lambda *a: seen.append((a[0], a[1], a[2].episode_id)),
    )
    verdicts = {score.episode_id: score.verdict for score in result.scores}
    assert verdicts == {
        "damaged": "unreadable",
        "laundry": "no_stages",
        "noise": "missing_keypoints",
        "stack_cube-train-0003-0000-0005": "ok",
        "stack_cube-train-0003-0300-0005": "ok",
    }
    assert seen == [(i + 1, 5, score.episode_id) for i, score in enumerate(result.scores)]
    assert result.scored == 2
    (pair,) = result.pairs
    assert (pair.chosen, pair.rejected) == (
        "stack_cube-train-0003-0000-0005",
        "stack_cube-train-0003-0300-0005",
    )
    assert pair.chosen_success
    assert pair.chosen_sha256 == next(iter(read_manifest(root / pair.chosen).files.values()))


def test_what_is_written_reads_back(root: Path, tmp_path: Path) -> None:
    result = score_folder(root, tmp_path, workers=1, progress=False)
    assert load_scores(result.scores_path) == result.scores
    assert load_pairs(result.pairs_path) == result.pairs
    rows = {row["episode_id"]: row for row in json.loads(result.scores_path.read_text())["episodes"]}
    assert rows["noise"]["gcpg"] is None
    assert rows["noise"]["r_ext"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.parquet", "scores.json"]


def test_processes_and_catalogue_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    catalogue = Catalogue(root / "catalogue.sqlite")
    catalogue.rebuild(root)
    one = score_folder(root, tmp_path / "one", workers=1, progress=False)
    two = score_folder(root / "catalogue.sqlite", tmp_path / "two", workers=2, progress=False)
    assert one.scores_path.read_bytes() == two.scores_path.read_bytes()
    assert one.pairs_path.read_bytes() == two.pairs_path.read_bytes()


def test_a_cluster_in_any_order_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    """A runner hands results back as they are done; here in the reverse order."""

    def backwards(function: Any, folders: Any) -> Any:
        return [(folder, function(folder)) for folder in reversed(folders)]

    here = score_folder(root, tmp_path / "here", workers=1, progress=False)
    there = score_folder(root, tmp_path / "there", run=backwards, progress=False)
    assert here.scores_path.read_bytes() == there.scores_path.read_bytes()
    assert here.pairs_path.read_bytes() == there.pairs_path.read_bytes()


def test_a_ray_cluster_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is optional: pip install -r requirements-ray.txt")
    here = score_folder(root, tmp_path / "here", workers=1, progress=False)
    there = score_folder(
        root, tmp_path / "there", run=partial(run_parallel, workers=1, ray="local"), progress=False
    )
    assert here.scores_path.read_bytes() == there.scores_path.read_bytes()
    assert here.pairs_path.read_bytes() == there.pairs_path.read_bytes()


def test_stopping_in_the_middle_writes_nothing(root: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, score: Score) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_folder(root, tmp_path / "out", workers=1, progress=False, on_score=stop)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_episodes_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no finished episodes"):
        score_folder(tmp_path / name, progress=False)


def test_an_unknown_preset_is_refused_before_any_work(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown preset 'mine'"):
        score_folder(root, tmp_path, preset="mine", progress=False)


def test_another_file_is_not_scores(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    for text in ("{", "[]", '{"episodes": [{"episode_id": "a"}]}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="not a file of scores"):
            load_scores(path)
