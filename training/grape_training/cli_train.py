"""``grape train tpo``; the other trainings are in ``cli_sft``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from grape_training.cli_common import (
    DEFAULT_EPISODES,
    DEFAULT_POLICY,
    JsonOption,
    PolicyOption,
    SeedOption,
    print_json,
)
from grape_training.tpo_options import LoraOptions, Objective, TpoOptions

_TPO = TpoOptions()
_LOSS = _TPO.objective

train = typer.Typer(help="Train a policy.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.add_typer(train, name="train")


@train.command()
def tpo(
    pairs: Annotated[Path, typer.Option(help="Table of pairs that `grape score` wrote.")] = (
        DEFAULT_EPISODES / "pairs.parquet"
    ),
    episodes: Annotated[Path, typer.Option(help="Folder of the episodes.")] = DEFAULT_EPISODES,
    policy: PolicyOption = DEFAULT_POLICY,
    output: Annotated[Path, typer.Option(help="Folder of the run; the same folder resumes it.")] = Path(
        "runs/tpo"
    ),
    beta: Annotated[float, typer.Option(min=0.0, help="Sharpness of the preference.")] = _LOSS.beta,
    length_normalised: Annotated[
        bool, typer.Option(help="Mean over the steps instead of their sum.")
    ] = _LOSS.length_normalised,
    anchor: Annotated[
        float, typer.Option(min=0.0, help="Weight of the chosen trajectory's likelihood.")
    ] = _LOSS.anchor,
    learning_rate: Annotated[
        float, typer.Option(min=0.0, help="Learning rate of AdamW.")
    ] = _TPO.learning_rate,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pairs.")] = _TPO.epochs,
    pairs_per_step: Annotated[
        int, typer.Option(min=1, help="Pairs of one optimiser step.")
    ] = _TPO.pairs_per_step,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter.")] = _TPO.lora.rank,
    alpha: Annotated[int, typer.Option(min=1, help="Scale of the adapter times its rank.")] = _TPO.lora.alpha,
    micro_batch: Annotated[
        int, typer.Option(min=1, help="Steps per backward pass (memory only).")
    ] = _TPO.micro_batch,
    threads: Annotated[int, typer.Option(min=1, help="Cores to use.")] = 1,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Trajectory-wise preference optimisation: train an adapter on pairs of whole episodes."""
    from grape_training.pipeline import run_tpo

    options = TpoOptions(
        objective=Objective(beta, length_normalised, anchor),
        lora=LoraOptions(rank, alpha),
        learning_rate=learning_rate,
        epochs=epochs,
        pairs_per_step=pairs_per_step,
        micro_batch=micro_batch,
        seed=seed,
    )
    result = run_tpo(policy, pairs, episodes, output, options, threads=threads)
    if json:
        print_json(asdict(result))
    else:
        typer.echo(
            f"{result.pairs} pairs, {result.steps} steps: loss {result.loss:.4f}, "
            f"margin {result.margin:+.3f}, accuracy {result.accuracy:.0%}. Adapter: {result.adapter}"
        )
