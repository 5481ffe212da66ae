"""``grape demos | scenes`` and ``grape train pretrain | sft``: from nothing to a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grape_training.cli_common import (
    DEFAULT_POLICY,
    TASKS,
    PolicyOption,
    SeedOption,
    TasksOption,
    split_tasks,
)
from grape_training.cli_train import train

DEMOS, SCENES, ROLLOUTS = Path("runs/demos"), Path("runs/scenes"), Path("runs/rollouts")
PRETRAIN, SFT = Path("runs/pretrain"), Path("runs/sft")

ThreadsOption = Annotated[int, typer.Option(min=1, help="Cores to use.")]
StepsOption = Annotated[int, typer.Option(min=1, help="Optimiser steps.")]
RateOption = Annotated[float, typer.Option(min=0.0, help="Learning rate of AdamW.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Images of one step; each is asked two questions.")]

AugmentationOption = Annotated[
    str,
    typer.Option(help="Of the images: colour, or openvla (its crop of 90 % of the area and its colours)."),
]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.command()(demos)
    app.command()(scenes)
    app.command()(relabel)


def demos(
    tasks: TasksOption = TASKS,
    episodes: Annotated[int, typer.Option(min=1, help="Successful episodes over all tasks.")] = 100,
    noise: Annotated[float, typer.Option(min=0.0, help="Noise on the executed moves, m per axis.")] = 0.006,
    suite: Annotated[
        str, typer.Option(help="Suite, shipped name or file, whose cells --tasks names.")
    ] = "in_domain",
    variety: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the full range of paths, speeds and grasps.")
    ] = 0.0,
    record: Annotated[bool, typer.Option(help="Write whole episodes as well as training frames.")] = True,
    output: Annotated[Path, typer.Option(help="Folder of the demonstrations.")] = DEMOS,
    seed: SeedOption = 0,
) -> None:
    """Let the scripted expert demonstrate the tasks, with noise on what it does and clean labels."""
    from grape_sim.suite import load_suite

    from grape_training.demos import DemoOptions, make_demos

    loaded = load_suite(suite)
    options = DemoOptions(noise=noise, variety=variety, seed=seed)
    cells = tuple(loaded.cells) if tasks == TASKS else tuple(split_tasks(tasks))
    failed = make_demos(output, cells, episodes, options, suite=loaded, record=record)
    typer.echo(f"{episodes} demonstrations in {output} ({failed} failed runs were left out)")


def scenes(
    count: Annotated[int, typer.Option(min=1, help="Images; rounded up to thousands.")] = 60_000,
    output: Annotated[Path, typer.Option(help="Folder of the images; it may be continued.")] = SCENES,
    seed: SeedOption = 0,
) -> None:
    """Render random labelled scenes for pre-training."""
    from grape_training.learner import IMAGE_SIZE
    from grape_training.scenes import render_scenes

    render_scenes(output, count, IMAGE_SIZE, seed)


def relabel(
    policy: PolicyOption = DEFAULT_POLICY,
    tasks: TasksOption = TASKS,
    episodes: Annotated[int, typer.Option(min=1, help="Rollouts of each task.")] = 20,
    output: Annotated[Path, typer.Option(help="Folder of the relabelled frames.")] = ROLLOUTS,
    seed: SeedOption = 0,
) -> None:
    """Let a policy drive and the expert say what it would have done in every state (DAgger)."""
    from grape_policy.vla.inference import VlaPolicy

    from grape_training.relabel import RelabelOptions
    from grape_training.relabel import relabel as run

    options = RelabelOptions(seed=seed)
    run(VlaPolicy.from_checkpoint(policy), output / "frames", tuple(split_tasks(tasks)), episodes, options)


@train.command()
def pretrain(
    scenes: Annotated[Path, typer.Option(help="Folder that `grape scenes` wrote.")] = SCENES,
    output: Annotated[Path, typer.Option(help="Folder of the run; the same folder resumes it.")] = PRETRAIN,
    steps: StepsOption = 2300,
    learning_rate: RateOption = 1e-3,
    batch_size: BatchOption = 32,
    threads: ThreadsOption = 1,
    seed: SeedOption = 0,
) -> None:
    """Teach a new model to see and to connect words with places, on rendered scenes."""
    from grape_training.learner import set_threads

    set_threads(threads)
    from grape_training.batches import SamplerOptions
    from grape_training.optimisation import ScheduleOptions
    from grape_training.pretrain import PretrainOptions
    from grape_training.pretrain import pretrain as run

    options = PretrainOptions(
        loop=ScheduleOptions(steps=steps, learning_rate=learning_rate),
        sampler=SamplerOptions(batch_size=batch_size, grounding=0.3, seed=seed),
        seed=seed,
    )
    typer.echo(f"Pre-trained checkpoint: {run(scenes, output, options)}")


@train.command()
def sft(
    base: Annotated[Path, typer.Option(help="Checkpoint to start from.")] = PRETRAIN / "checkpoint",
    demos: Annotated[Path, typer.Option(help="Folder that `grape demos` wrote.")] = DEMOS,
    rollouts: Annotated[
        Path | None, typer.Option(help="Folder that `grape relabel` wrote, to learn from as well.")
    ] = None,
    scenes: Annotated[Path, typer.Option(help="Rendered scenes to mix in.")] = SCENES,
    mix: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of rendered scenes.")] = 0.5,
    output: Annotated[Path, typer.Option(help="Folder of the run; the same folder resumes it.")] = SFT,
    steps: StepsOption = 2400,
    decay: Annotated[int, typer.Option(min=0, help="Last steps, over which the rate falls to zero.")] = 2000,
    stop: Annotated[int, typer.Option(min=0, help="End the schedule early after this step; 0: do not.")] = 0,
    learning_rate: RateOption = 1e-3,
    batch_size: BatchOption = 32,
    bin_sigma: Annotated[
        float, typer.Option(min=0.0, help="Width of soft targets in bins; 0: OpenVLA's hard targets.")
    ] = 2.0,
    augmentation: AugmentationOption = "colour",
    threads: ThreadsOption = 1,
    seed: SeedOption = 0,
) -> None:
    """Fine-tune on demonstrations: 7 action tokens and the end token, as OpenVLA does."""
    from grape_training.learner import set_threads

    set_threads(threads)
    from grape_training.batches import SamplerOptions
    from grape_training.objective import LossOptions
    from grape_training.optimisation import ScheduleOptions
    from grape_training.sft import SftOptions, fine_tune

    options = SftOptions(
        loop=ScheduleOptions(steps=steps, learning_rate=learning_rate, decay=decay, stop=stop, warm_up=50),
        sampler=SamplerOptions(batch_size=batch_size, augmentation=augmentation, seed=seed),
        loss=LossOptions(bin_sigma=bin_sigma),
        mix=mix,
    )
    data = [folder / "frames" for folder in (demos, rollouts) if folder is not None]
    checkpoint = fine_tune(base, data, output, options, scenes if mix > 0 else None)
    typer.echo(f"Checkpoint: {checkpoint}")


@train.command()
def small(
    runs: Annotated[Path, typer.Option(help="Folder of all that is made on the way.")] = Path("runs"),
    demonstrations: Annotated[int, typer.Option(min=4, help="Successful episodes over all tasks.")] = 100,
    stop: Annotated[int, typer.Option(min=0, help="End fine-tuning after this step; 0: at 2400.")] = 0,
    augmentation: AugmentationOption = "colour",
    threads: ThreadsOption = 2,
    seed: SeedOption = 0,
) -> None:
    """Make a policy of the shipped size from nothing: scenes, demonstrations, pre-training, fine-tuning.

    It takes one to two hours on two cores; the same command goes on where it was interrupted. The manifest
    of a shipped policy names the options it was made with. Other numbers of threads or other processors
    round differently.
    """
    scenes(30_000, runs / "scenes", seed)
    demos(episodes=demonstrations, record=False, output=runs / "demos", seed=seed)
    pretrain(runs / "scenes", runs / "pretrain", threads=threads, seed=seed)
    sft(
        base=runs / "pretrain" / "checkpoint",
        demos=runs / "demos",
        scenes=runs / "scenes",
        output=runs / "sft",
        stop=stop,
        augmentation=augmentation,
        threads=threads,
        seed=seed,
    )
