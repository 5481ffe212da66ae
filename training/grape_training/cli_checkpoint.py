"""``grape checkpoint inspect | verify | merge | parity``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grape_training.cli_common import JsonOption, print_json
from grape_training.errors import BadInputError

checkpoint = typer.Typer(help="Look at checkpoints, check them, merge adapters.", no_args_is_help=True)

FolderArgument = Annotated[Path, typer.Argument(help="Checkpoint or adapter folder.")]
AdapterOption = Annotated[Path | None, typer.Option(help="Adapter folder to check with it.")]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.add_typer(checkpoint, name="checkpoint")


@checkpoint.command()
def parity(
    fixture: Annotated[Path, typer.Argument(help="File of the original implementation's outputs (.npz).")],
    weight_phase: Annotated[int, typer.Option(help="Added to a tensor's index in the formula.")] = 0,
    pixel_phase: Annotated[int, typer.Option(help="In place of 1000 in the numbers of the pixels.")] = 1000,
    token_phase: Annotated[int, typer.Option(help="In place of 2000 in the numbers of the tokens.")] = 2000,
    json: JsonOption = False,
) -> None:
    """Compare this implementation with outputs of OpenVLA's original one; fails above 1e-5.

    Runs in float32. When rounding alone could explain a larger difference, the same is computed in float64,
    which leaves only the rounding of the original, and that difference decides.
    """
    from grape_policy.vla.parity import TOLERANCE, Phases, check_parity

    result = check_parity(fixture, Phases(weight_phase, pixel_phase, token_phase))
    if json:
        facts = {"float32": result.float32, "float64": result.float64, "tolerance": TOLERANCE}
        print_json({**facts, "largest": result.largest, "passed": result.passed})
    else:
        for precision, differences in (("float32", result.float32), ("float64", result.float64 or {})):
            for name, value in differences.items():
                typer.echo(f"{precision} {name}: largest difference {value:.2e}")
        typer.echo(f"parity: max|d| = {result.largest:.3e}")
    if not result.passed:
        raise typer.Exit(1)


@checkpoint.command()
def inspect(
    folder: FolderArgument,
    memory: Annotated[
        bool, typer.Option("--memory", help="Print the memory budget instead; only config.json is needed.")
    ] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List the shape of every tensor too.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what a checkpoint is: version, sizes, dtypes, statistics, hashes."""
    from grape_policy.vla.checkpoint import read_config
    from grape_policy.vla.inspection import inspect_checkpoint
    from grape_policy.vla.memory import GIB, budget_rows, budget_table, estimate

    if memory:
        config = read_config(folder)
        if json:
            print_json({name: round(size / GIB, 3) for name, size in budget_rows(estimate(config))})
        else:
            typer.echo(budget_table(config), nl=False)
        return
    facts = inspect_checkpoint(folder)
    shapes = facts.pop("shapes")
    if json:
        print_json({**facts, "shapes": shapes} if tensors else facts)
        return
    for name, value in [*facts.items(), *(shapes.items() if tensors else [])]:
        typer.echo(f"{name}: {value}")


@checkpoint.command()
def verify(
    folder: FolderArgument,
    adapter: AdapterOption = None,
    statistics_key: Annotated[
        str | None, typer.Option(help="Data set whose action statistics must be there.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check that a checkpoint can be used; lists everything that is wrong with it and exits 1."""
    from grape_policy.vla.inspection import find_problems

    problems = find_problems(folder, adapter, statistics_key)
    if json:
        print_json({"folder": folder, "passed": not problems, "problems": problems})
    else:
        for problem in problems:
            typer.echo(f"wrong: {problem}")
        typer.echo(f"{folder}: {f'refused for {len(problems)} reason(s)' if problems else 'good'}")
    if problems:
        raise typer.Exit(1)


@checkpoint.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="Folder of a LoRA adapter in peft's layout.")],
    output: Annotated[Path, typer.Argument(help="Folder of the new checkpoint.")],
    base: Annotated[
        Path | None, typer.Option(help="Checkpoint to merge into; default: the one the adapter names.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Of the result: float32, bfloat16 or float16.")] = "float32",
    json: JsonOption = False,
) -> None:
    """Merge an adapter into its base and write the result as a checkpoint of its own."""
    from grape_policy.vla.checkpoint import load_checkpoint, save_checkpoint
    from grape_policy.vla.runtime import PRECISIONS, Runtime

    whole = [name for name in PRECISIONS if name != "4bit"]
    if precision not in whole:
        raise BadInputError(f"precision {precision!r}", f"Use one of {', '.join(whole)}")
    if output.exists():
        raise BadInputError(f"{output} exists already", "Give another folder, or remove it first")
    merged = load_checkpoint(base or adapter, adapter if base else None, Runtime(precision=precision))
    version = save_checkpoint(output, merged.model, merged.tokenizer, merged.statistics, merged.preprocessor)
    if json:
        print_json({"version": version, "folder": output})
    else:
        typer.echo(f"{version} in {output}")
