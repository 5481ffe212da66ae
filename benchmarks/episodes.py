"""Measure the episode format on rendered rollouts: write speed, bytes, reading time, recovery.

    python benchmarks/episodes.py [--steps 50] [--repeat 5] [--json]

Prints medians over the repeats; processor time where it says so, so that a busy machine changes little.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from grape_episodes import contract, messages
from grape_episodes.reader import read_episode
from grape_episodes.recovery import recover
from grape_episodes.types import Episode
from grape_episodes.writer import EpisodeWriter, episode_messages, write_episode
from grape_sim.environment import SimEnvironment

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from preference_rollouts import roll_out


def rendered_episode(steps: int) -> Episode:
    """Return a noisy expert's rollout that lasts about ``steps`` steps."""
    environment = SimEnvironment(depth=True)
    episode = roll_out(environment, "stack_cube/eval/0000", noise=0.04, seed=1, max_steps=steps).episode
    environment.close()
    return episode


def serialised(episode: Episode) -> list[tuple[str, str, bytes, int]]:
    """Return (topic, type, CDR bytes, stamp) of all messages, as a recorder receives them."""
    topics = contract.topics()
    return [
        (topics[key].name, topics[key].type, messages.serialize(message), stamp)
        for key, message, stamp in episode_messages(episode)
    ]


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return seconds on the wall, seconds of processor time, and the result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - wall, time.process_time() - processor, result


def record(
    root: Path, episode: Episode, stream: list[tuple[str, str, bytes, int]], name: str
) -> EpisodeWriter:
    """Write the stream message by message and leave the recording open."""
    writer = EpisodeWriter(root, dataclasses.replace(episode.manifest, episode_id=name))
    for topic, type_name, data, stamp in stream:
        writer.write_raw(topic, type_name, data, stamp)
    writer.flush()
    return writer


def measure(episode: Episode, repeat: int, root: Path) -> dict[str, float]:
    """Return medians of all figures."""
    stream = serialised(episode)
    megabytes = sum(len(data) for _, _, data, _ in stream) / 1e6
    rows: dict[str, list[float]] = {}

    def note(**figures: float) -> None:
        for name, value in figures.items():
            rows.setdefault(name, []).append(value)

    for index in range(repeat):
        renamed = dataclasses.replace(
            episode, manifest=dataclasses.replace(episode.manifest, episode_id=f"whole{index}")
        )
        wall, processor, folder = timed(partial(write_episode, root, renamed))
        note(write_episode_ms=1e3 * wall, write_episode_processor_ms=1e3 * processor)
        note(episode_kilobytes=sum(path.stat().st_size for path in folder.iterdir()) / 1e3)
        wall, processor, _ = timed(partial(read_episode, folder))
        note(read_ms=1e3 * wall, read_processor_ms=1e3 * processor)
        _, processor, writer = timed(partial(record, root, episode, stream, f"raw{index}"))
        note(record_megabytes_per_second=megabytes / processor)
        note(finish_ms=1e3 * timed(partial(writer.finish, outcome="failure", success=False))[0])
        cut = record(root, episode, stream, f"cut{index}")
        note(recover_ms=1e3 * timed(partial(recover, cut.part))[0])
    return {"raw_megabytes": megabytes, **{name: statistics.median(values) for name, values in rows.items()}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50, help="steps of the episode")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions; medians are printed")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    episode = rendered_episode(options.steps)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(episode, options.repeat, Path(folder))
    figures = {"steps": episode.steps, **figures}
    if options.json:
        print(json.dumps({name: float(np.round(value, 3)) for name, value in figures.items()}))
        return
    for name, value in figures.items():
        print(f"{name:30s} {value:10.2f}")


if __name__ == "__main__":
    main()
