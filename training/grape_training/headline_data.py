"""The data sets of a study on disk: which rollouts they have, how they are joined, what they are made of."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grape_preference.folder import FolderScores


def rollouts_from(root: Path, episode_ids: Iterable[str], states: Container[str]) -> list[Path]:
    """Return the folders of those episodes below ``root`` that began in one of ``states``."""
    from grape_episodes.manifest import read_manifest

    folders = [root.resolve() / episode for episode in episode_ids]
    return [folder for folder in folders if read_manifest(folder).initial_state_id in states]


def link_episodes(folders: Iterable[Path], episodes: Path) -> Path:
    """Make ``episodes`` a folder of links to ``folders`` and nothing else; return it."""
    shutil.rmtree(episodes, ignore_errors=True)  # links only
    episodes.mkdir(parents=True)
    for folder in folders:
        (episodes / folder.name).symlink_to(folder)
    return episodes


def join(parts: Sequence[Path], folder: Path) -> Path:
    """Write the pairs, scores and episodes of several data sets into ``folder``; return it.

    A pair compares rollouts of one initial state with the reward of its own data set; that stays.
    """
    from grape_preference.folder import PAIRS_NAME, SCORES_NAME, load_preset, load_scores, save_scores
    from grape_preference.pairs import load_pairs, save_pairs

    pairs = [pair for part in parts for pair in load_pairs(part / PAIRS_NAME)]
    scores = [score for part in parts for score in load_scores(part / SCORES_NAME)]
    link_episodes(
        (path.resolve() for part in parts for path in (part / "episodes").iterdir()), folder / "episodes"
    )
    save_scores(scores, folder / SCORES_NAME, load_preset(parts[0] / SCORES_NAME))
    save_pairs(pairs, folder / PAIRS_NAME, {"joined": [part.name for part in parts]})
    return folder


def score_statistics(found: FolderScores) -> dict[str, Any]:
    """Return how many rollouts were judged how, and what the pairs are made of.

    ``decisive_pairs`` have a success over a failure by the judge, ``truly_decisive_pairs`` by the simulator;
    ``judge_right``: of the judged rollouts, how often both say the same. What the simulator says is looked
    at here only, not by scores, pairs or training.
    """
    judged = [score for score in found.scores if score.verdict == "ok"]
    truth = {score.episode_id: score.outcome == "success" for score in found.scores}
    right_order = [truth[pair.chosen] and not truth[pair.rejected] for pair in found.pairs]
    return {
        "verdicts": dict(Counter(score.verdict for score in found.scores)),
        "judged_successes": sum(score.i_success == 1.0 for score in judged),
        "judge_right": sum((score.i_success == 1.0) == truth[score.episode_id] for score in judged),
        "judged": len(judged),
        "pairs": len(found.pairs),
        "states_with_pairs": len({pair.initial_state_id for pair in found.pairs}),
        "decisive_pairs": sum(pair.chosen_success and not pair.rejected_success for pair in found.pairs),
        "truly_decisive_pairs": sum(right_order),
    }
