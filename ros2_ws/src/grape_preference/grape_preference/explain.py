"""Say in words why an episode got its score."""

from __future__ import annotations

from collections.abc import Sequence

from grape_preference.pairs import Pair
from grape_preference.rewards import find_preset, gcpg, terms
from grape_preference.scoring import Score
from grape_preference.stage_scoring import ConstraintScore, StageScore

_KINDS = {"path": "on average", "sub_goal": "at its end", "collision": "at worst"}


def explain(score: Score) -> str:
    """Return a few lines: the verdict or the rewards, then every stage with what it cost and why."""
    head = f"Episode {score.episode_id} ({score.task}, {score.steps} steps, outcome {score.outcome})"
    if score.verdict != "ok":
        return f"{head}\nNo score, verdict {score.verdict}: {score.message}."
    lines = [
        head,
        f"R_ext {score.r_ext:.3f} = product of exp(-cost) over {len(score.stages)} stages.",
        f"R_self {score.r_self:.1f} in sum, {score.r_self_mean:.3f} per token.",
        f"I_success {score.i_success:.0f}: judged by {score.judge or 'recorded'}, {score.judge_message}.",
        f"Objective {score.objective}.",
    ]
    for number, stage in enumerate(score.stages, start=1):
        lines.append(f"{number}. {stage.name}: {_fate(stage)}, cost {stage.cost:.3f}.")
        lines += [f"   - {_reason(term)}" for term in stage.constraints if term.cost > 0.0]
    return "\n".join(lines)


def explain_in_group(score: Score, scores: Sequence[Score], pairs: Sequence[Pair], preset: str) -> str:
    """Return how ``score`` stands in its (task, initial state) group among ``scores``, and its pairs."""
    key = (score.task, score.initial_state_id)
    group = [other for other in scores if (other.task, other.initial_state_id) == key]
    usable = [other for other in group if other.verdict == "ok"]
    ids = [other.episode_id for other in usable]
    if score.episode_id not in ids:
        return f"It is not among the {len(usable)} scored episodes of its group."
    place, weights = ids.index(score.episode_id), find_preset(preset)
    rewards = [value or 0.0 for value in gcpg(usable, preset)]
    rank = 1 + sum(reward > rewards[place] for reward in rewards)
    own, external, success = terms(usable, weights)[place]
    form = "standardised in the group" if weights.standardised else "raw"
    lines = [
        f"In its group {score.initial_state_id}: place {rank} of {len(usable)}, reward {rewards[place]:.3f} "
        f"(preset {preset}, terms {form}).",
        f"   {rewards[place]:.3f} = {weights.self_weight:g} * R_self {own:.3f} "
        f"+ {weights.external_weight:g} * R_ext {external:.3f} "
        f"+ {weights.success_weight:g} * I_success {success:.3f}",
    ]
    return "\n".join(lines + [f"   {line}" for line in _pair_lines(score.episode_id, pairs)])


def _pair_lines(episode_id: str, pairs: Sequence[Pair]) -> list[str]:
    lines = [f"chosen over {p.rejected}, margin {p.margin:.3f}" for p in pairs if p.chosen == episode_id]
    lines += [f"rejected for {p.chosen}, margin {p.margin:.3f}" for p in pairs if p.rejected == episode_id]
    return lines or ["in no pair"]


def _fate(stage: StageScore) -> str:
    if stage.begin is None:
        return "never begun"
    if not stage.completed:
        return f"begun at frame {stage.begin}, not completed"
    return f"completed, frames {stage.begin} to {stage.end}"


def _reason(term: ConstraintScore) -> str:
    return f"{term.kind}: {_violation(term)}: cost {term.cost:.3f}"


def _violation(term: ConstraintScore) -> str:
    if term.is_condition:
        if term.kind == "path":
            return f"{term.expression} was false in {term.value:.0%} of the frames"
        return f"{term.expression} was false {_KINDS[term.kind]}"
    unit = "" if term.unit == "1" else f" {term.unit}"
    times = (
        "at times " if term.value <= term.threshold else ""
    )  # a mean can lie below what it exceeds at times
    threshold = f"{times}over the threshold {term.threshold:g}{unit}"
    return f"{term.expression} was {term.value:.3f}{unit} {_KINDS[term.kind]}, {threshold}"
