"""A tiny study: a random policy of few weights, episodes of three steps, everything in one process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from grape_training import collect, evaluation, headline_run
from grape_training.headline_plan import Study, parse_study
from grape_training.headline_run import StudyRun
from grape_training.headline_work import Work
from vla_factory import tiny_checkpoint

SUITE = """
suite: short
description: Three steps from where the demonstrated tasks begin.
include: [in_domain]
max_steps: 3
defaults: {other_tasks: [stack_cube]}
cells:
  carrot_on_plate: {tasks: [carrot_on_plate]}
  spoon_on_towel: {tasks: [spoon_on_towel]}
"""
STUDY = """
name: tiny
checkpoint: FOLDER/tiny
collections:
  first: {policy: sft, suite: FOLDER/short.yaml, states: 1, rollouts: 2, temperature: 1.0}
  second:
    policy: grape_1
    suite: FOLDER/short.yaml
    cells: [carrot_on_plate]
    first_state: 5
    states: 1
    rollouts: 2
    temperature: 1.0
data:
  task: {collections: [first]}
  both: {collections: [first, second], objective: safety, preset: "1,1,1"}
arms:
  sft: {title: SFT}
  grape_1:
    title: GRAPE
    data: task
    seeds: [0, 1]
    tpo: &tpo {epochs: 20, pairs_per_step: 1, learning_rate: 1.0e-3, lora: {rank: 2, alpha: 4}}
  step_dpo: {title: DPO, data: task, tpo: {<<: *tpo, method: dpo, epochs: 1}}
  grape_2: {title: Second, incumbent: grape_1, data: both, tpo: {<<: *tpo, epochs: 1}}
gate: {suite: FOLDER/short.yaml, split: train, first_state: 0, states: 1}
evaluation:
  suites:
    - {suite: FOLDER/short.yaml, states: 2}
    - {name: sampled, suite: FOLDER/short.yaml, states: 2, temperature: 1.0, arms: [sft]}
claims:
  reference: sft
  candidate: grape_1
  baselines: [sft, step_dpo]
  in_domain: [FOLDER/short.yaml]
  steps: {arm: grape_2, suites: [FOLDER/short.yaml]}
  iterations: [sft, grape_1, grape_2]
"""


def study_text(folder: Path) -> str:
    return STUDY.replace("FOLDER", str(folder))


def tiny_study(folder: Path) -> Study:
    """Write policy and suite into ``folder``; return the study about them."""
    tiny_checkpoint(folder / "tiny")
    (folder / "short.yaml").write_text(SUITE)
    return parse_study(study_text(folder), "the tiny study")


def here(function: Callable[[Any], Any], items: Sequence[Any], *_: object) -> Iterator[tuple[Any, Any]]:
    """Do in this process what ``run_parallel`` does in others."""
    yield from ((item, function(item)) for item in items)


def run(study: Study, output: Path, only: str = "*") -> StudyRun:
    """Run the study as far as it is not done."""
    before = [module.run_parallel for module in (collect, evaluation, headline_run)]
    torch.set_num_threads(1)
    try:
        for module in (collect, evaluation, headline_run):
            module.run_parallel = here
        found = StudyRun(Work(study, output, workers=2, progress=False))
        found.run(only, lambda _: None)
        return found
    finally:
        for module, function in zip((collect, evaluation, headline_run), before, strict=True):
            module.run_parallel = function


if __name__ == "__main__":  # a process that will be killed: folder of the study, output
    run(parse_study(study_text(Path(sys.argv[1])), "the tiny study"), Path(sys.argv[2]))
