"""Say in words why an episode got its score."""

from __future__ import annotations

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
        f"I_success {score.i_success:.0f}: the judge said {'success' if score.i_success else 'no success'}.",
    ]
    for number, stage in enumerate(score.stages, start=1):
        lines.append(f"{number}. {stage.name}: {_fate(stage)}, cost {stage.cost:.3f}.")
        lines += [f"   - {_reason(term)}" for term in stage.constraints if term.cost > 0.0]
    return "\n".join(lines)


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
