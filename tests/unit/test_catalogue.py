"""The catalogue lists episodes once, groups them, survives concurrent writers and can be rebuilt."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import pytest
from episode_factory import make_episode, make_manifest
from grape_episodes.catalogue import Catalogue
from grape_episodes.types import EpisodeError
from grape_episodes.writer import write_episode


def add_many(path: Path, prefix: str, count: int) -> None:
    catalogue = Catalogue(path)
    for index in range(count):
        catalogue.add(make_manifest(episode_id=f"{prefix}-{index}"), path.parent / f"{prefix}-{index}")


def test_adding_twice_lists_once_and_filters_select(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "catalogue.sqlite")
    first = make_manifest(episode_id="first", outcome="success", success=True)
    second = make_manifest(episode_id="second", task="stack_cube", policy_version="other-00000000")
    for manifest in (first, second, first):
        catalogue.add(manifest, tmp_path / manifest.episode_id)
    assert [entry.episode_id for entry in catalogue.episodes()] == ["first", "second"]
    (entry,) = catalogue.episodes(task="stack_cube", policy_version="other-00000000")
    assert (entry.episode_id, entry.seed, entry.success) == ("second", 7, False)
    assert catalogue.episodes(task="stack_cube", policy_version="test-0123abcd") == []


def test_groups_never_mix_tasks_or_initial_states(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "catalogue.sqlite")
    for index, (task, state) in enumerate([("a", "s/1"), ("a", "s/2"), ("a", "s/1"), ("b", "s/1")]):
        manifest = make_manifest(episode_id=f"e{index}", task=task, initial_state_id=state)
        catalogue.add(manifest, tmp_path / f"e{index}")
    groups = {key: [entry.episode_id for entry in group] for key, group in catalogue.groups().items()}
    assert groups == {("a", "s/1"): ["e0", "e2"], ("a", "s/2"): ["e1"], ("b", "s/1"): ["e3"]}


def test_rebuild_finds_finished_episodes_in_a_moved_folder(tmp_path: Path) -> None:
    root = tmp_path / "before"
    for index in range(3):
        write_episode(root, make_episode(steps=1, episode_id=f"e{index}"))
    Catalogue(root / "catalogue.sqlite").rebuild(root)
    moved = tmp_path / "after"
    shutil.move(root, moved)
    catalogue = Catalogue(moved / "catalogue.sqlite")
    assert [entry.folder for entry in catalogue.episodes()] == [moved / f"e{index}" for index in range(3)]

    (moved / "e1" / "episode.json").write_text("{")
    (moved / "e2").rename(moved / "e2.part")
    (error,) = catalogue.rebuild(moved)
    assert "e1" in error.where
    assert [entry.episode_id for entry in catalogue.episodes()] == ["e0"]


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.sqlite"
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=add_many, args=(path, prefix, 20)) for prefix in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(Catalogue(path).episodes()) == 40


def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.sqlite"
    path.write_text("these are not the rows you are looking for" * 100)
    with pytest.raises(EpisodeError, match="catalogue cannot be used"):
        Catalogue(path).episodes()
