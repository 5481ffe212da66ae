"""``grape train tpo | sft | pretrain``, ``grape checkpoint parity | inspect``."""

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

train = typer.Typer(help="Train a policy.", no_args_is_help=True)
checkpoint = typer.Typer(help="Look at checkpoints.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.add_typer(train, name="train")
    app.add_typer(checkpoint, name="checkpoint")


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
    beta: Annotated[float, typer.Option(min=0.0, help="Sharpness of the preference.")] = 0.1,
    length_normalised: Annotated[
        bool, typer.Option(help="Mean over the steps instead of their sum.")
    ] = False,
    anchor: Annotated[
        float, typer.Option(min=0.0, help="Weight of the chosen trajectory's likelihood.")
    ] = 0.0,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Learning rate of AdamW.")] = 2e-5,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pairs.")] = 1,
    pairs_per_step: Annotated[int, typer.Option(min=1, help="Pairs of one optimiser step.")] = 4,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter.")] = 32,
    alpha: Annotated[int, typer.Option(min=1, help="Scale of the adapter times its rank.")] = 32,
    micro_batch: Annotated[int, typer.Option(min=1, help="Steps per backward pass (memory only).")] = 16,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Trajectory-wise preference optimisation: train an adapter on pairs of whole episodes."""
    from grape_training.lora import LoraOptions
    from grape_training.pipeline import run_tpo
    from grape_training.tpo import TpoOptions
    from grape_training.tpo_gradient import Objective

    options = TpoOptions(
        objective=Objective(beta, length_normalised, anchor),
        lora=LoraOptions(rank, alpha),
        learning_rate=learning_rate,
        epochs=epochs,
        pairs_per_step=pairs_per_step,
        micro_batch=micro_batch,
        seed=seed,
    )
    result = run_tpo(policy, pairs, episodes, output, options)
    if json:
        print_json(asdict(result))
    else:
        typer.echo(
            f"{result.pairs} pairs, {result.steps} steps: loss {result.loss:.4f}, "
            f"margin {result.margin:+.3f}, accuracy {result.accuracy:.0%}. Adapter: {result.adapter}"
        )


@checkpoint.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="Checkpoint or adapter folder.")], json: JsonOption = False
) -> None:
    """Show what a checkpoint is: version, sizes, statistics."""
    from grape_policy.vla.checkpoint import load_checkpoint

    loaded = load_checkpoint(folder)
    facts = {
        "version": loaded.version,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "image_size": loaded.preprocessor.image_size,
        "vocabulary": loaded.config.vocabulary,
        "statistics": sorted(loaded.statistics),
    }
    if json:
        print_json(facts)
    else:
        for name, value in facts.items():
            typer.echo(f"{name}: {value}")


@checkpoint.command()
def parity(
    fixture: Annotated[Path, typer.Argument(help="File of the original implementation's outputs (.npz).")],
    json: JsonOption = False,
) -> None:
    """Compare this implementation with outputs of OpenVLA's original one; fails above 1e-4."""
    from grape_policy.vla.parity import check_parity

    differences = check_parity(fixture)
    if json:
        print_json(differences)
    else:
        for name, value in differences.items():
            typer.echo(f"{name}: largest difference {value:.2e}")
    if max(differences.values()) > 1e-4:
        raise typer.Exit(1)
