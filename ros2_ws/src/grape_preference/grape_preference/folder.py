"""Score a whole folder of episodes with several processes; write ``scores.json`` and ``pairs.parquet``."""

from __future__ import annotations

import ctypes
import json
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
from grape_episodes.catalogue import Catalogue
from grape_episodes.manifest import MANIFEST_NAME, PART_SUFFIX
from grape_episodes.reader import read_episode
from grape_episodes.types import Episode, EpisodeError
from tqdm import tqdm

from grape_preference.constraints import ConstraintError
from grape_preference.judge import VisualJudge
from grape_preference.keypoints import track
from grape_preference.pairs import Pair, make_pairs, save_pairs
from grape_preference.plans import ScoringOptions
from grape_preference.rewards import DEFAULT_PRESET, find_preset, gcpg
from grape_preference.scoring import Score, refused_score, score_episode, unreadable_score
from grape_preference.stage_scoring import ScoringError
from grape_preference.tracks import KeypointTracks

SCORES_NAME, PAIRS_NAME = "scores.json", "pairs.parquet"
DEFAULT_OPTIONS = ScoringOptions()
# Runs a function on items and yields (item, result) as they are done.
Runner = Callable[[Callable[[Path], Score], Sequence[Path]], Iterable[tuple[Path, Score]]]
EPISODES_PER_WORKER = 4  # fewer do not repay the start of a process
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class FolderScores:
    """What scoring a folder gave; ``scores`` in the order of the episodes' folder names."""

    scores: list[Score]
    pairs: list[Pair]
    scores_path: Path
    pairs_path: Path

    @property
    def scored(self) -> int:
        """Return the number of episodes with verdict "ok"."""
        return sum(score.verdict == "ok" for score in self.scores)


def score_folder(
    source: Path | str,
    output: Path | str | None = None,
    workers: int = 2,
    *,
    preset: str = DEFAULT_PRESET,
    top: int = 1,
    margin: float = 0.0,
    reject_greedy: bool = False,
    among_successes: bool = False,
    balance: bool = True,
    fallback_distance: float | None = None,
    options: ScoringOptions = DEFAULT_OPTIONS,
    run: Runner | None = None,
    visual: VisualJudge | None = None,
    progress: bool = True,
    on_score: Callable[[int, int, Score], None] | None = None,
) -> FolderScores:
    """Score every finished episode of ``source``, pair them, and write both results atomically.

    Args:
        source: a folder of episodes, or a catalogue file that lists them.
        output: where to write; the folder of the episodes when None.
        workers: processes on this machine.
        preset: which reward ranks the episodes, see ``rewards.find_preset``.
        top: m of top-m x bottom-m pairs per group.
        margin: the least difference of rewards that makes a pair.
        reject_greedy: count a greedy rollout that failed as the worst, see ``pairs.make_pairs``.
        among_successes: pair the successes among themselves too, see ``pairs.make_pairs``.
        balance: keep the same number of pairs for every task that has any.
        fallback_distance: see ``pairs.make_pairs``; off when None.
        options: how each episode is scored.
        run: runs the work elsewhere, e.g. on a cluster, in any order; the result is the same.
        visual: asked for a second opinion by the judge "keypoints"; everything then runs in this process.
        progress: show a progress bar.
        on_score: called after each episode with (done, total, score); what it raises ends the scoring.

    Raises:
        ValueError: no such folder, no episodes in it, or an unknown preset.
        EpisodeError: the catalogue cannot be used.
    """
    source = Path(source)
    find_preset(preset)  # refused before any work
    folders = episode_folders(source)
    output = Path(output) if output is not None else source if source.is_dir() else source.parent
    scores: list[Score] = []
    with tqdm(total=len(folders), desc="scores", unit="ep", disable=not progress) as bar:
        function = partial(score_path, options=options, visual=visual)
        for score in _results(function, folders, workers if visual is None else 1, run):
            scores.append(score)
            bar.update()
            if on_score is not None:
                on_score(len(scores), len(folders), score)
    scores.sort(key=lambda score: score.episode_id)
    how: dict[str, Any] = {"top": top, "margin": margin, "reject_greedy": reject_greedy, "balance": balance}
    how |= {"among_successes": among_successes, "fallback_distance": fallback_distance}
    pairs = make_pairs(scores, preset, **how)
    how |= {"preset": preset, "objective": options.objective, "judge": options.judge}
    pairs_path = save_pairs(pairs, output / PAIRS_NAME, how)
    return FolderScores(scores, pairs, save_scores(scores, output / SCORES_NAME, preset), pairs_path)


def _results(
    function: Callable[[Path], Score], folders: Sequence[Path], workers: int, run: Runner | None
) -> Iterator[Score]:
    if run is None:
        return score_paths(folders, workers, function)
    return (score for _, score in run(function, folders))


def episode_folders(source: Path) -> list[Path]:
    """Return the finished episodes of a folder or a catalogue file, sorted; raise ValueError when none."""
    if source.is_file():
        found = [entry.folder for entry in Catalogue(source).episodes()]
    else:
        found = [path.parent for path in source.glob(f"*/{MANIFEST_NAME}")]
    finished = sorted(folder for folder in found if not folder.name.endswith(PART_SUFFIX))
    if not finished:
        raise ValueError(
            f"{source}: no finished episodes; collect some with grape collect, or check the path"
        )
    return finished


def score_paths(folders: Sequence[Path], workers: int, function: Callable[[Path], Score]) -> Iterator[Score]:
    """Yield ``function`` of every episode folder, in the given order, from ``workers`` processes."""
    workers = min(workers, len(folders) // EPISODES_PER_WORKER)
    if workers <= 1:
        yield from map(function, folders)
        return
    executor = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    try:
        yield from executor.map(function, folders)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def score_path(
    folder: Path, options: ScoringOptions = DEFAULT_OPTIONS, visual: VisualJudge | None = None
) -> Score:
    """Read, track and score one episode; what cannot be scored gets a verdict that says why."""
    try:
        episode = read_episode(folder)
    except EpisodeError as error:
        return unreadable_score(folder.name, str(error))
    return score_recorded(episode, options, visual)[0]


def score_recorded(
    episode: Episode, options: ScoringOptions = DEFAULT_OPTIONS, visual: VisualJudge | None = None
) -> tuple[Score, KeypointTracks | None]:
    """Track and score an episode; return its score with the keypoints (None: there are none)."""
    plan = None
    try:
        plan = options.plan(episode.manifest.task)
        tracks = track(episode, plan.keypoints, plan.appearances)
    except ConstraintError as error:
        refusal = ScoringError("no_stages", str(error))
        return replace(refused_score(episode, refusal), objective=options.objective), None
    except ScoringError as error:
        return replace(refused_score(episode, error, plan), objective=options.objective), None
    how = {"objective": options.objective, "judged_by": options.judge}
    return score_episode(episode, tracks, plan, **how, visual=visual), tracks


def save_scores(scores: Sequence[Score], path: Path | str, preset: str = DEFAULT_PRESET) -> Path:
    """Write scores as JSON, atomically, each with its reward ``gcpg`` under ``preset``; return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rewards = folder_rewards(scores, preset)
    rows = [
        json.dumps({**score.to_json(), "gcpg": rewards[score.episode_id]}, allow_nan=False)
        for score in scores
    ]
    head = json.dumps({"version": 1, "preset": preset})[:-1]
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(f'{head}, "episodes": [\n' + ",\n".join(rows) + "\n]}\n", encoding="utf-8")
    os.replace(unfinished, path)
    return path


def load_scores(path: Path | str) -> list[Score]:
    """Read ``scores.json``; raise ValueError when it is not one."""
    try:
        document: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        return [Score.from_json(row) for row in document["episodes"]]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a file of scores ({error}); write it with grape score") from None


def load_preset(path: Path | str) -> str:
    """Return the preset that the rewards in ``scores.json`` are of; raise ValueError when it is not one."""
    try:
        return str(json.loads(Path(path).read_text(encoding="utf-8"))["preset"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a file of scores ({error}); write it with grape score") from None


def folder_rewards(scores: Sequence[Score], preset: str = DEFAULT_PRESET) -> dict[str, float | None]:
    """Return the reward of every episode id, each compared inside its own (task, initial state) group."""
    groups: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        groups[score.task, score.initial_state_id].append(score)
    rewards: dict[str, float | None] = {}
    for group in groups.values():
        rewards.update(zip([score.episode_id for score in group], gcpg(group, preset), strict=True))
    return rewards


def _start_worker() -> None:
    """One thread, no reaction to Ctrl+C (the parent stops the pool), and no life after the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    cv2.setNumThreads(1)
