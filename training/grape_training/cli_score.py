"""``grape score | constraints``: what episodes are worth, why, and the constraints that say so."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from grape_training.cli_common import DEFAULT_EPISODES, JsonOption, WorkersOption, print_json
from grape_training.cli_vlm import (
    DEFAULT_FOLDER,
    DEFAULT_TIMEOUT,
    DeviceOption,
    FolderOption,
    LocalOption,
    ModelOption,
    RequestsOption,
    TimeoutOption,
    TokensOption,
    UrlOption,
    open_client,
)


class _RunByDefault(TyperGroup):
    """``grape score EPISODES`` is ``grape score run EPISODES``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["run", *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


score = typer.Typer(
    cls=_RunByDefault,
    help="Score episodes and pair them (`grape score EPISODES`, short for `grape score run EPISODES`), or "
    "explain one score (`grape score explain EPISODE`).",
)
constraints = typer.Typer(help="Stage constraints of a task.", no_args_is_help=True)

ObjectiveOption = Annotated[
    str, typer.Option(help="What the stage costs put their weight on: task, safety or efficiency.")
]
JudgeOption = Annotated[
    str,
    typer.Option(
        help="Who says whether it succeeded: keypoints, or recorded (the manifest; in simulation the truth)"
    ),
]
StagesOption = Annotated[
    Path | None,
    typer.Option(help="Stage file, or folder with <task>.yaml, to use instead of the shipped stages."),
]
PresetOption = Annotated[
    str,
    typer.Option(
        help="Reward: balanced, paper, paper-code, or weights of R_self,R_ext,I_success on standardised "
        "terms, e.g. 1,0.5,2; raw:1,0.5,2 on raw ones."
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.add_typer(score, name="score")
    app.add_typer(constraints, name="constraints")


@score.command("run")
def run(
    episodes: Annotated[Path, typer.Argument(help="Folder of episodes, or a catalogue file.")] = (
        DEFAULT_EPISODES
    ),
    output: Annotated[
        Path | None, typer.Option(help="Folder of the results; default: the episodes'.")
    ] = None,
    preset: PresetOption = "balanced",
    objective: ObjectiveOption = "task",
    judge: JudgeOption = "keypoints",
    stages: StagesOption = None,
    top: Annotated[int, typer.Option(min=1, help="Pair the best so many with the worst so many.")] = 1,
    margin: Annotated[float, typer.Option(min=0.0, help="Least difference of rewards of a pair.")] = 0.0,
    reject_greedy: Annotated[
        bool,
        typer.Option(
            help="Reject a greedy rollout (temperature 0) that failed, and never choose it: it is what the "
            "policy does when it is used."
        ),
    ] = False,
    among_successes: Annotated[
        bool,
        typer.Option(help="Pair a state's successes among themselves too: how to succeed, not only whether."),
    ] = False,
    balance: Annotated[
        bool,
        typer.Option(help="Keep as many pairs of every task that has any: those of largest margin."),
    ] = True,
    fallback_distance: Annotated[
        float | None,
        typer.Option(
            help="Off unless given: pair episodes of two initial states, where a state alone gives no pair, "
            "if no keypoint began farther apart than this (m). The method asks for one initial state."
        ),
    ] = None,
    workers: WorkersOption = 2,
    ray: Annotated[
        str, typer.Option(help="Score on a Ray cluster: local, auto or HOST:PORT; same results.")
    ] = "",
    url: UrlOption = "",
    model: ModelOption = "",
    local: LocalOption = None,
    device: DeviceOption = "cpu",
    folder: FolderOption = DEFAULT_FOLDER,
    max_requests: RequestsOption = 1000,
    max_tokens: TokensOption = 2_000_000,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    json: JsonOption = False,
) -> None:
    """Score episodes against their task's stage constraints and pair the best with the worst.

    With a vision-language model (--vlm-...), its yes on the last images is needed for success too.
    """
    from grape_preference.folder import score_folder
    from grape_preference.plans import ScoringOptions

    visual = None
    if url or local is not None:
        from grape_preference.vlm import Budget
        from grape_preference.vlm_judge import VlmJudge

        budget = Budget(max_requests, max_tokens)
        visual = VlmJudge(open_client(url, model, local, device, timeout, folder, budget))
    result = score_folder(
        episodes,
        output,
        workers,
        preset=preset,
        top=top,
        margin=margin,
        reject_greedy=reject_greedy,
        among_successes=among_successes,
        balance=balance,
        fallback_distance=fallback_distance,
        options=ScoringOptions(objective, judge, stages),
        run=_on_ray(workers, ray) if ray else None,
        visual=visual,
    )
    summary = {
        "episodes": len(result.scores),
        "scored": result.scored,
        "pairs": len(result.pairs),
        "fallback_pairs": sum(pair.initial_state_distance > 0.0 for pair in result.pairs),
        "judge": judge,
        "scores": str(result.scores_path),
        "pairs_table": str(result.pairs_path),
    }
    if json:
        print_json(summary)
        return
    typer.echo(
        f"{result.scored} of {len(result.scores)} episodes scored, {len(result.pairs)} pairs: "
        f"{result.pairs_path}"
    )
    if summary["fallback_pairs"]:
        typer.echo(f"{summary['fallback_pairs']} of the pairs compare two initial states (fallback)")


def _on_ray(workers: int, ray: str) -> Any:
    from grape_training.pool import run_parallel

    return partial(run_parallel, workers=workers, ray=ray)


@score.command()
def explain(
    episode: Annotated[Path, typer.Argument(help="Folder of one recorded episode.")],
    plot: Annotated[
        Path | None, typer.Option(help="Picture to write; default: explain-<episode>.png here.")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Folder of scores.json and pairs.parquet; default: the episode's parent, or above it."
        ),
    ] = None,
    objective: ObjectiveOption = "task",
    judge: JudgeOption = "keypoints",
    stages: StagesOption = None,
    json: JsonOption = False,
) -> None:
    """Say in words and in a picture why an episode got its score, and how it stands in its group."""
    from grape_episodes.reader import read_episode
    from grape_preference.explain import explain as in_words
    from grape_preference.explain_plot import save_plot
    from grape_preference.folder import score_recorded
    from grape_preference.plans import ScoringOptions

    recording = read_episode(episode)
    found, tracks = score_recorded(recording, ScoringOptions(objective, judge, stages))
    text = in_words(found)
    group = _group_text(found, [scores] if scores else [episode.parent, episode.parent.parent])
    path = save_plot(plot or Path(f"explain-{found.episode_id}.png"), recording, found, tracks)
    if json:
        print_json({"score": found.to_json(), "words": text, "group": group, "plot": str(path)})
        return
    typer.echo(text)
    if group:
        typer.echo(group)
    typer.echo(f"picture: {path}")


def _group_text(score: Any, folders: list[Path]) -> str:
    """Return how the score stands in its group, from the first folder that holds scores; else nothing."""
    from grape_preference.explain import explain_in_group
    from grape_preference.folder import PAIRS_NAME, SCORES_NAME, load_preset, load_scores
    from grape_preference.pairs import load_pairs

    for folder in folders:
        scores, pairs = folder / SCORES_NAME, folder / PAIRS_NAME
        if scores.is_file():
            table = load_pairs(pairs) if pairs.is_file() else []
            return explain_in_group(score, load_scores(scores), table, load_preset(scores))
    return ""


@constraints.command()
def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Stage files (YAML).")] = None,
    expression: Annotated[
        str | None, typer.Option(help="One expression to check instead, over all declared objects.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check stage files, or one expression: schema, words, names, units. Exit code 2 when not valid."""
    from grape_preference.constraints import check_expression, check_file

    if (expression is None) == (not files):
        raise typer.BadParameter("give stage files, or --expression TEXT")
    if expression is not None:
        kind = str(_checked(expression, check_expression).kind)
        fine = "a condition" if kind == "boolean" else f"a number in {kind}"
        print_json({"expression": expression, "kind": kind}) if json else typer.echo(f"fine: {fine}")
        return
    plans = [check_file(path) for path in files or []]
    if json:
        rows = zip(files or [], plans, strict=True)
        print_json([{"file": str(file), "stages": len(plan.stages)} for file, plan in rows])
        return
    for path, plan in zip(files or [], plans, strict=True):
        typer.echo(f"{path}: {len(plan.stages)} stages, fine")


def _checked(text: str, check_expression: Any) -> Any:
    """Check the expression; the error also shows the text around the place."""
    from grape_preference.constraints import ConstraintError

    try:
        return check_expression(text)
    except ConstraintError as error:
        if not error.column:
            raise
        place = text[max(0, error.column - 9) : error.column + 15]
        raise ConstraintError(f"{error}, at {place!r}") from None
