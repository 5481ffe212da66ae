"""The part of a run's report that shows chosen beside rejected episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grape_episodes.export import encode_film, encode_picture
from grape_episodes.reader import read_episode
from grape_episodes.types import Episode, EpisodeError
from grape_preference.drawing import draw_keypoints
from grape_preference.folder import load_scores
from grape_preference.keypoints import track
from markupsafe import Markup

from grape_training.errors import BadInputError
from grape_training.report_charts import Band, line_chart
from grape_training.report_files import DASH, RunFiles, data_uri, load_pairs, number, spoken

if TYPE_CHECKING:
    from grape_preference.pairs import Pair
    from grape_preference.scoring import Score
    from grape_preference.tracks import KeypointTracks

PAIRS_SHOWN = 4


@dataclass(frozen=True)
class EpisodeView:
    """One episode as the page shows it; pictures are data URIs."""

    title: str
    verdict: str
    facts: list[tuple[str, str]]
    stages: list[dict[str, Any]]
    film: str
    initial: str
    final: str
    chart: Markup


def pair_views(files: RunFiles, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the pairs with the widest margins, one per task as long as there are enough tasks.

    Raises:
        BadInputError: The scores are those of another version, or an episode cannot be read.
    """
    pairs = load_pairs(files)
    if files.scores is None or not pairs:
        return []
    try:
        loaded = {score.episode_id: score for score in load_scores(files.scores)}
    except ValueError as error:
        raise BadInputError(str(error), "Score the episodes again: grape score") from error
    scores = {row["episode_id"]: (loaded[row["episode_id"]], row.get("gcpg")) for row in rows}
    shown = [
        pair
        for pair in _spread(pairs)
        if all(name in files.episodes and name in scores for name in (pair.chosen, pair.rejected))
    ]
    return [_pair_view(pair, files, scores) for pair in shown[:PAIRS_SHOWN]]


def _spread(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs so that every task's best comes before any task's second best."""
    ranks: dict[str, int] = {}
    keyed = []
    for pair in sorted(pairs, key=lambda pair: -pair.margin):
        rank = ranks[pair.task] = ranks.get(pair.task, -1) + 1
        keyed.append((rank, -pair.margin, pair))
    return [pair for _, _, pair in sorted(keyed, key=lambda item: item[:2])]


def _pair_view(pair: Pair, files: RunFiles, scores: dict[str, tuple[Score, float | None]]) -> dict[str, Any]:
    try:
        chosen, rejected = (read_episode(files.episodes[name]) for name in (pair.chosen, pair.rejected))
    except EpisodeError as error:
        raise BadInputError(f"{error.what} ({error.where})", error.remedy) from error
    costs = [cost for name in (pair.chosen, pair.rejected) for cost in _highest_costs(scores[name][0])]
    top = max(costs, default=1.0)
    sides = [
        _episode_view("chosen", chosen, *scores[pair.chosen], top),
        _episode_view("rejected", rejected, *scores[pair.rejected], top),
    ]
    return {
        "task": spoken(pair.task),
        "state": pair.initial_state_id,
        "policy": chosen.manifest.policy_version,
        "instruction": chosen.manifest.instruction,
        "margin": f"{pair.margin:.3f}",
        "initial": sides[0].initial,
        "sides": sides,
    }


def _highest_costs(score: Score) -> list[float]:
    return [max(stage.cost_over_time, default=0.0) for stage in score.stages]


def _episode_view(title: str, episode: Episode, score: Score, gcpg: float | None, top: float) -> EpisodeView:
    manifest, tracks = episode.manifest, track(episode)
    seconds = float(episode.stamps_ns[-1] - episode.stamps_ns[0]) * 1e-9
    return EpisodeView(
        title=title,
        verdict=manifest.outcome,
        facts=[
            ("episode", manifest.episode_id),
            ("outcome", f"{manifest.outcome}{f': {manifest.reason}' if manifest.reason else ''}"),
            ("steps", f"{episode.steps} in {seconds:.1f} s"),
            ("steps in collision", str(manifest.collisions)),
            ("GCPG reward", number(gcpg)),
            ("R_ext, product of exp(-cost)", number(score.r_ext)),
            ("R_self, mean log-probability per token", number(score.r_self_mean)),
            (f"I_success, judge: {score.judge or 'recorded'}", number(score.i_success, 0)),
        ],
        stages=[_stage_row(place, stage) for place, stage in enumerate(score.stages, start=1)],
        film=data_uri(encode_film(episode)),
        initial=_still(episode, tracks, 0),
        final=_still(episode, tracks, episode.steps),
        chart=_cost_chart(title, score, seconds / max(episode.steps, 1), top),
    )


def _still(episode: Episode, tracks: KeypointTracks | None, t: int) -> str:
    """Return image ``t`` with its keypoints; without, when the objects could not be found."""
    image = episode.images[t]
    return data_uri(encode_picture(draw_keypoints(image, tracks, t, episode.camera) if tracks else image))


def _stage_row(place: int, stage: Any) -> dict[str, Any]:
    fate = "completed" if stage.completed else "not completed" if stage.begin is not None else "never begun"
    frames = DASH if stage.begin is None else f"{stage.begin} to {stage.end}"
    costs = {kind: number(stage.kinds.get(kind, 0.0), 2) for kind in ("path", "sub_goal", "collision")}
    return {
        "name": f"{place}. {stage.name}",
        "fate": fate,
        "frames": frames,
        "cost": number(stage.cost, 2),
        **costs,
    }


def _cost_chart(title: str, score: Score, step_seconds: float, top: float) -> Markup:
    series = {stage.name: list(map(float, stage.cost_over_time)) for stage in score.stages}
    bands = [
        Band(stage.begin * step_seconds, float(stage.end or stage.begin) * step_seconds, stage.name)
        for index, stage in enumerate(score.stages)
        if stage.begin is not None and index % 2 == 0
    ]
    return line_chart(
        series,
        title=f"Stage costs over time of the {title} episode",
        x_label="time, s (shaded: every other stage)",
        y_label="violation of the stage",
        step=step_seconds,
        top=top,
        bands=bands,
    )
