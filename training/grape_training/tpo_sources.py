"""From one table of scored rollouts to what each method trains on: pairs, random pairs, groups, successes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grape_training.errors import BadInputError
from grape_training.tpo_gradient import Preference
from grape_training.tpo_options import TpoOptions

if TYPE_CHECKING:
    from grape_preference.pairs import Pair
    from grape_preference.scoring import Score

PAIRED = ("tpo", "random-pairs")  # the methods whose comparisons are pairs of whole trajectories


@dataclass(frozen=True)
class Selection:
    """Episodes that one loss term is about, by id, and the preferences among them (none: imitate)."""

    episodes: tuple[str, ...]
    preferences: tuple[Preference, ...] = ()


def select(options: TpoOptions, pairs: Path, scores: Path, episodes: Path) -> list[Selection]:
    """Return what ``options.method`` trains on.

    Args:
        options: of the run.
        pairs: table of pairs (tpo, dpo; random-pairs: how many of a state).
        scores: ``scores.json`` (random-pairs, group, rejection-sampling).
        episodes: folder of the episodes (sft).

    Raises:
        BadInputError: a file is missing or is something else, or the method cannot be stage-weighted.
    """
    if options.stage_weighted and options.method not in PAIRED:
        raise BadInputError(
            f"the method {options.method} has no pairs of trajectories to weigh by stage",
            "Leave out --stage-weighted",
        )
    if options.method == "sft":
        return demonstrations(episodes)
    if options.method in ("tpo", "dpo"):
        return [Selection((p.chosen, p.rejected), (Preference(0, 1),)) for p in read_pairs(pairs)]
    found, preset = read_scores(scores)
    if options.method == "random-pairs":
        return random_pairs(found, options.seed, _most_of_a_state(read_pairs(pairs)))
    return successes(found) if options.method == "rejection-sampling" else groups(found, preset)


def random_pairs(scores: Sequence[Score], seed: int, most: int) -> list[Selection]:
    """Pair a random success with a random failure of the same (task, initial state); ignore all other terms.

    At most ``most`` pairs of a state, without repetition: as many as the table of pairs has of one, so that
    the two differ in which pairs, not in how many.
    """
    selections = []
    for row, group in enumerate(_by_state(scores)):
        won = [score.episode_id for score in group if score.i_success]
        lost = [score.episode_id for score in group if not score.i_success]
        every = list(product(won, lost))
        order = np.random.default_rng([seed, row]).permutation(len(every))
        selections += [Selection(every[index], (Preference(0, 1),)) for index in order[:most]]
    return selections


def _most_of_a_state(pairs: Sequence[Pair]) -> int:
    """Return how many pairs the initial state with the most of them has."""
    return max(Counter((pair.task, pair.initial_state_id) for pair in pairs).values(), default=0)


def groups(scores: Sequence[Score], preset: str) -> list[Selection]:
    """Compare all rollouts of an initial state: every two, weighted by their difference of reward.

    The weights of a group add up to 1; with reward R_i of rollout i, that of the preference for i over j is
    ``(R_i - R_j) / sum of all positive differences``. A group without any difference says nothing.
    """
    from grape_preference.rewards import rewards

    selections = []
    for group in _by_state(scores):
        values = rewards(group, preset)
        every = product(range(len(group)), repeat=2)
        gaps = {(i, j): values[i] - values[j] for i, j in every if values[i] > values[j]}
        total = sum(gaps.values())
        preferences = tuple(Preference(i, j, gap / total) for (i, j), gap in gaps.items())
        if preferences:
            selections.append(Selection(tuple(score.episode_id for score in group), preferences))
    return selections


def successes(scores: Sequence[Score]) -> list[Selection]:
    """Return every rollout that the scores' judge calls a success, to imitate (rejection sampling)."""
    every = (score for group in _by_state(scores) for score in group)
    return [Selection((score.episode_id,)) for score in every if score.i_success]


def demonstrations(episodes: Path) -> list[Selection]:
    """Return every episode below ``episodes`` whose manifest says success, to imitate."""
    from grape_episodes.manifest import read_manifest
    from grape_preference.folder import episode_folders

    try:
        folders = episode_folders(episodes)
    except ValueError as error:
        raise BadInputError(str(error), "Make some with grape demos or grape collect") from error
    return [Selection((folder.name,)) for folder in folders if read_manifest(folder).success]


def stage_weights(better: Score, worse: Score) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights (T,) of both rollouts' steps: the more, the more their stage told the two apart.

    A stage's reward is exp(-C_i) (GRAPE eq. 8). With d_i the absolute difference of the two rollouts' rewards
    and n stages, a step of stage i weighs ``1/2 + n d_i / (2 sum_j d_j)``, so that the mean over the stages
    is 1 and no step falls silent; steps of no stage, and all if the stages say nothing, weigh 1.
    """
    costs = np.array([[stage.cost for stage in score.stages] for score in (better, worse)])
    difference = np.abs(np.exp(-costs[0]) - np.exp(-costs[1]))
    total = difference.sum()
    uniform = np.ones(len(difference))
    weights = 0.5 + 0.5 * len(difference) * difference / total if total > 1e-9 else uniform
    return _of_steps(better, weights), _of_steps(worse, weights)


def _of_steps(score: Score, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spread the stages' weights over the rollout's steps; frame t is the one that step t answers."""
    steps = np.ones(score.steps)
    for stage, weight in zip(score.stages, weights, strict=True):
        if stage.begin is not None:
            steps[stage.begin : stage.end] = weight
    return steps


def read_pairs(path: Path) -> list[Pair]:
    """Read a table of preference pairs.

    Raises:
        BadInputError: the file is missing or is no such table.
    """
    from grape_preference.pairs import load_pairs

    if not path.is_file():
        raise BadInputError(f"{path} does not exist", "Score the episodes first: grape score <episodes>")
    try:
        return load_pairs(path)
    except (ValueError, OSError) as error:
        raise BadInputError(f"{path} is no table of pairs ({error})", "Score the episodes again") from error


def read_scores(path: Path) -> tuple[list[Score], str]:
    """Read ``scores.json``; return the scores and the preset of their rewards.

    Raises:
        BadInputError: the file is missing or is no such file.
    """
    from grape_preference.folder import load_preset, load_scores

    if not path.is_file():
        raise BadInputError(f"{path} does not exist", "Score the episodes first: grape score <episodes>")
    try:
        return load_scores(path), load_preset(path)
    except ValueError as error:
        raise BadInputError(str(error), "Score the episodes again") from error


def _by_state(scores: Sequence[Score]) -> list[list[Score]]:
    """Return the usable scores of each (task, initial state), all in a fixed order."""
    found: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in sorted(scores, key=lambda score: score.episode_id):
        if score.verdict == "ok":
            found[score.task, score.initial_state_id].append(score)
    return [found[key] for key in sorted(found)]
