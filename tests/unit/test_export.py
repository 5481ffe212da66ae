"""Exported episodes hold the same numbers and pixels; a film plays every image at twice the pace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from episode_factory import make_episode
from grape_episodes.export import encode_picture, write_film
from grape_episodes.writer import write_episode
from grape_training.errors import BadInputError
from grape_training.export import ARRAYS, export_episodes
from PIL import Image
from safetensors.numpy import load_file


def test_exported_arrays_and_images_are_those_of_the_episode(tmp_path: Path) -> None:
    episode = make_episode(steps=2, episode_id="one")
    write_episode(tmp_path / "episodes", episode)
    write_episode(tmp_path / "episodes", make_episode(steps=1, episode_id="two", depth=False))
    output = tmp_path / "out"
    (output / "two.part").mkdir(parents=True)  # left by an export that was killed
    assert export_episodes(tmp_path / "episodes", output, progress=False) == 2
    assert sorted(path.name for path in output.iterdir()) == ["one", "two"]
    arrays = load_file(output / "one" / "arrays.safetensors")
    for name in ARRAYS:
        np.testing.assert_array_equal(arrays[name], getattr(episode, name))
    assert episode.depths is not None
    for index in range(3):
        color = np.asarray(Image.open(output / "one" / f"color_{index:04d}.png"))
        np.testing.assert_array_equal(color, episode.images[index])
        depth = np.asarray(Image.open(output / "one" / f"depth_{index:04d}.png"))
        np.testing.assert_array_equal(depth, episode.depths[index])
    document = json.loads((output / "one" / "episode.json").read_text())
    assert (document["episode_id"], document["steps"]) == ("one", 2)
    assert document["joint_names"][-1] == "gripper"
    assert not list((output / "two").glob("depth_*"))


def test_export_can_be_taken_up_and_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    folder = write_episode(tmp_path / "episodes", make_episode(steps=1, episode_id="one"))
    output = tmp_path / "out"
    export_episodes(tmp_path / "episodes", output, progress=False)
    stamp = (output / "one").stat().st_mtime_ns
    export_episodes(tmp_path / "episodes", output, progress=False)
    assert (output / "one").stat().st_mtime_ns == stamp
    folder.rename(folder.with_name("renamed"))
    (tmp_path / "episodes" / "renamed" / "one_0.mcap").unlink()
    with pytest.raises(BadInputError, match="Cannot read the recording"):
        export_episodes(tmp_path / "episodes", output, progress=False)
    with pytest.raises(BadInputError, match="holds no episodes"):
        export_episodes(tmp_path / "out" / "one", output, progress=False)


def test_a_film_has_every_image_at_twice_the_pace(tmp_path: Path) -> None:
    episode = make_episode(steps=4)
    for index, image in enumerate(episode.images):  # like images may be joined into one
        image[:, 60 * index : 60 * index + 60] = 255
    path = write_film(episode, tmp_path / "films" / "film.webp", width=160)
    with Image.open(path) as film:
        assert film.size == (160, 120)
        assert film.n_frames == 5
        assert film.info["loop"] == 0
        durations = []
        for index in range(film.n_frames):
            film.seek(index)
            film.load()
            durations.append(film.info["duration"])
    assert durations == [100, 100, 100, 100, 1200]
    assert [entry.name for entry in path.parent.iterdir()] == ["film.webp"]


def test_a_picture_keeps_its_colours(tmp_path: Path) -> None:
    image = np.zeros((24, 32, 3), np.uint8)
    image[:, :16, 0], image[:, 16:, 2] = 250, 250
    path = tmp_path / "picture.webp"
    path.write_bytes(encode_picture(image, quality=90))
    seen = np.asarray(Image.open(path)).astype(int)
    assert np.abs(seen[:, 2:12] - image[:, 2:12]).mean() < 8, "red on the left, not blue"
