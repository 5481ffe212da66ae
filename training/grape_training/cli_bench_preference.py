"""``grape bench scoring | keypoints | judge | obstacle``: scores and judge against the simulator's truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from grape_training.cli_common import (
    DEFAULT_POLICY,
    JsonOption,
    PolicyOption,
    WorkersOption,
    print_json,
    split_tasks,
)

DEFAULT_ROLLOUTS = Path("runs/bench/rollouts")
SUITES = "unseen_subject,unseen_physical,unseen_semantic,unseen_visual,language_grounding,unseen_action,"
SUITES += "obstacle,efficiency"

RolloutsOption = Annotated[
    Path,
    typer.Option(help="Folder of the rollouts with their truth; those that are there are not run again."),
]
ScriptedOption = Annotated[
    int, typer.Option(min=0, help="In-domain initial states per task for the five scripted behaviours.")
]
PolicyStatesOption = Annotated[
    int, typer.Option(min=0, help="In-domain initial states per task for the policy, five rollouts each.")
]
ROLLOUTS_PER_STATE = 5


def add_commands(bench: typer.Typer) -> None:
    """Add this module's commands to the group ``grape bench``."""
    bench.command()(scoring)
    bench.command()(keypoints)
    bench.command()(judge)
    bench.command()(obstacle)


def scoring(
    rollouts: RolloutsOption = DEFAULT_ROLLOUTS,
    states: ScriptedOption = 8,
    policy_states: PolicyStatesOption = 12,
    largest: Annotated[int, typer.Option(min=1000, help="Most episodes of the growth measurement.")] = 10_000,
    policy: PolicyOption = DEFAULT_POLICY,
    workers: WorkersOption = 2,
    json: JsonOption = False,
) -> None:
    """Measure the quality of the scores against the truth, their speed, and their growth with the episodes.

    `auc` is that of R_ext for true success per task, from perceived keypoints, over scripted rollouts and the
    policy's own. `ablation` says how often the reward without one term orders two of the policy's episodes
    from one initial state like the true success and like an expert who sees the simulator's state.
    """
    from grape_training.bench_rollouts import in_domain, make
    from grape_training.bench_scoring import measure_scoring

    wanted = in_domain(states, policy_states, ROLLOUTS_PER_STATE)
    make(rollouts, wanted, str(policy), workers=workers, progress=not json)
    sizes = [100, 316, 1000, 3162, 10_000]
    found = measure_scoring(rollouts, wanted, [size for size in sizes if size < largest] + [largest])
    _show(found, json)


def keypoints(
    rollouts: RolloutsOption = DEFAULT_ROLLOUTS,
    states: ScriptedOption = 5,
    policy_states: PolicyStatesOption = 0,
    suites: Annotated[
        str, typer.Option(help="Suites beside the in-domain one, separated by commas; empty: none.")
    ] = SUITES,
    episodes: Annotated[int, typer.Option(min=1, help="At least so many episodes of each of them.")] = 16,
    policy: PolicyOption = DEFAULT_POLICY,
    workers: WorkersOption = 2,
    json: JsonOption = False,
) -> None:
    """Measure the keypoints' error (m) and the share of tracked frames, over episodes of all suites."""
    from grape_training.bench_keypoints import measure_keypoints
    from grape_training.bench_rollouts import in_domain, load, make, other_suites

    wanted = in_domain(states, policy_states, ROLLOUTS_PER_STATE)
    wanted += other_suites(split_tasks(suites), episodes)
    make(rollouts, wanted, str(policy), workers=workers, progress=not json)
    _show(measure_keypoints(load(rollouts, wanted, progress=not json)), json)


def judge(
    rollouts: RolloutsOption = DEFAULT_ROLLOUTS,
    states: ScriptedOption = 8,
    policy_states: PolicyStatesOption = 12,
    policy: PolicyOption = DEFAULT_POLICY,
    workers: WorkersOption = 2,
    json: JsonOption = False,
) -> None:
    """Compare the judge that sees only keypoints and gripper with the simulator's verdict."""
    from grape_training.bench_judge import measure_judge
    from grape_training.bench_rollouts import in_domain, load, make

    wanted = in_domain(states, policy_states, ROLLOUTS_PER_STATE)
    make(rollouts, wanted, str(policy), workers=workers, progress=not json)
    _show(measure_judge(load(rollouts, wanted, progress=not json)), json)


def obstacle(
    rollouts: RolloutsOption = DEFAULT_ROLLOUTS,
    states: Annotated[
        int, typer.Option(min=1, help="Initial states per task, for four scripted behaviours and the policy.")
    ] = 4,
    policy_rollouts: Annotated[
        int, typer.Option(min=0, help="Rollouts of the policy from each of them.")
    ] = 2,
    policy: PolicyOption = DEFAULT_POLICY,
    workers: WorkersOption = 2,
    json: JsonOption = False,
) -> None:
    """Compare the perceived collision cost with the simulator's contacts, on the suite `obstacle`.

    `auc` is the chance that a rollout with a collision costs more than one without, over the expert that goes
    round the obstacle, noisy ones, one that goes straight through it, and the policy's own rollouts.
    """
    from grape_training.bench_obstacle import measure_obstacle
    from grape_training.bench_rollouts import load, make, obstacles

    wanted = obstacles(states, policy_rollouts)
    make(rollouts, wanted, str(policy), workers=workers, progress=not json)
    _show(measure_obstacle(load(rollouts, wanted, progress=not json)), json)


def _show(found: dict[str, Any], json: bool) -> None:
    if json:
        print_json(found)
        return
    for name, value in found.items():
        typer.echo(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
