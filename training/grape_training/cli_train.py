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
from grape_training.tpo_options import METHODS, LoraOptions, Objective, TpoOptions

_TPO = TpoOptions()
_LOSS = _TPO.objective
_METHOD_HELP = "; ".join(f"{name}: {about}" for name, (_, about) in METHODS.items())

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
    scores: Annotated[
        Path | None, typer.Option(help="Scores that `grape score` wrote; default: beside the pairs.")
    ] = None,
    policy: PolicyOption = DEFAULT_POLICY,
    output: Annotated[Path, typer.Option(help="Folder of the run; the same folder resumes it.")] = Path(
        "runs/tpo"
    ),
    method: Annotated[str, typer.Option(help=f"What is trained on. {_METHOD_HELP}.")] = _TPO.method,
    loss: Annotated[str, typer.Option(help="Family of the loss: sigmoid, ipo or hinge.")] = _LOSS.loss,
    beta: Annotated[float, typer.Option(min=0.0, help="Sharpness of the preference.")] = _LOSS.beta,
    label_smoothing: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Probability that a preference is the wrong way round.")
    ] = _LOSS.label_smoothing,
    stage_weighted: Annotated[
        bool, typer.Option(help="Weigh steps by how much their stage told the two rollouts apart.")
    ] = _TPO.stage_weighted,
    skip_constant: Annotated[
        bool, typer.Option(help="Leave out action dimensions that always decode to the same value.")
    ] = _TPO.skip_constant,
    length_normalised: Annotated[
        bool, typer.Option(help="Mean over the steps instead of their sum.")
    ] = _LOSS.length_normalised,
    anchor: Annotated[
        float, typer.Option(min=0.0, help="Weight of the chosen trajectory's likelihood.")
    ] = _LOSS.anchor,
    learning_rate: Annotated[
        float, typer.Option(min=0.0, help="Learning rate of AdamW.")
    ] = _TPO.learning_rate,
    warmup: Annotated[
        int, typer.Option(min=0, help="Optimiser steps over which the learning rate rises.")
    ] = _TPO.warmup,
    max_gradient_norm: Annotated[
        float, typer.Option(min=0.0, help="Longer gradients are clipped to this norm.")
    ] = _TPO.max_gradient_norm,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pairs.")] = _TPO.epochs,
    pairs_per_step: Annotated[
        int, typer.Option(min=1, help="Pairs of one optimiser step.")
    ] = _TPO.pairs_per_step,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter.")] = _TPO.lora.rank,
    alpha: Annotated[int, typer.Option(min=1, help="Scale of the adapter times its rank.")] = _TPO.lora.alpha,
    micro_batch: Annotated[
        int, typer.Option(min=1, help="Steps per backward pass (memory only).")
    ] = _TPO.micro_batch,
    precision: Annotated[
        str, typer.Option(help="Precision of the forward passes: float32 or bfloat16.")
    ] = _TPO.precision,
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Recompute the decoder's activations: memory for time.")
    ] = _TPO.gradient_checkpointing,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<number>.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Cores to use.")] = 1,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Trajectory-wise preference optimisation (TPO), or a baseline of it: train an adapter on whole episodes.

    For several processes: `accelerate launch --num_processes 2 .venv/bin/grape train tpo ...`. TensorBoard
    reads the curves in `<output>/tensorboard`.
    """
    from grape_training.pipeline import run_tpo

    options = TpoOptions(
        objective=Objective(beta, length_normalised, anchor, loss, label_smoothing),
        lora=LoraOptions(rank, alpha),
        learning_rate=learning_rate,
        epochs=epochs,
        pairs_per_step=pairs_per_step,
        micro_batch=micro_batch,
        max_gradient_norm=max_gradient_norm,
        seed=seed,
        method=method,
        warmup=warmup,
        stage_weighted=stage_weighted,
        skip_constant=skip_constant,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
    )
    result = run_tpo(
        policy, pairs, episodes, output, options, scores_path=scores, threads=threads, device=device
    )
    if json:
        print_json(asdict(result))
    else:
        order = "" if result.margin is None else f", margin {result.margin:+.3f}"
        order += "" if result.accuracy is None else f", accuracy {result.accuracy:.0%}"
        typer.echo(
            f"{result.pairs} comparisons, {result.steps} steps: loss {result.loss:.4f}{order}. "
            f"Adapter: {result.adapter}"
        )
