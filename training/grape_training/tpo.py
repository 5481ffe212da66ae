"""Trajectory-wise preference optimisation (TPO) of a VLA with a LoRA adapter, and its baselines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from grape_training.errors import BadInputError
from grape_training.files import append_json_line, hash_json, read_json_lines, write_json, write_text
from grape_training.lora import (
    adapter_parameters,
    attach,
    checkpoint_activations,
    reference,
    save_adapter,
)
from grape_training.tpo_data import (
    Comparison,
    ReferenceCache,
    Rollout,
    RolloutPair,
    as_comparisons,
    pairs_hash,
    reference_log_probabilities,
)
from grape_training.tpo_gradient import (
    PairLoss,
    Trajectory,
    add_gradient,
    add_imitation_gradient,
    add_step_gradient,
)
from grape_training.tpo_losses import LOSSES
from grape_training.tpo_options import IMITATION, METHODS, PRECISIONS, STEP, TpoOptions
from grape_training.tpo_processes import Processes
from grape_training.tpo_scorer import VlaScorer
from grape_training.tpo_state import load_state, save_state

if TYPE_CHECKING:
    from grape_policy.vla.preprocess import Preprocessor
    from peft import PeftModel


@dataclass(frozen=True)
class TpoResult:
    """Where the adapter is and how the training went (means over the last epoch).

    Imitation (SFT, rejection sampling) has no ``margin`` and no ``accuracy``.
    """

    adapter: Path
    steps: int
    pairs: int
    loss: float
    margin: float | None
    accuracy: float | None
    kl: float
    data_hash: str


def train_tpo(
    model: torch.nn.Module,
    preprocessor: Preprocessor,
    pairs: Sequence[RolloutPair | Comparison],
    output: Path,
    options: TpoOptions,
    *,
    checkpoint: Path,
    model_hash: str,
    active: NDArray[np.bool_] | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> TpoResult:
    """Train an adapter on ``pairs``; write adapter, metrics, TensorBoard and result below ``output``.

    A second call with the same arguments continues where the first one was killed. Under ``accelerate
    launch`` or ``torchrun`` every process calls this. ``active``: see ``VlaScorer``.

    Raises:
        BadInputError: no pairs, impossible options, or ``output`` holds a run with other data or options.
    """
    comparisons = as_comparisons(pairs)
    if not comparisons:
        raise BadInputError(
            "there are no preference pairs to train on", "Collect more rollouts, then score them"
        )
    check_options(options)
    processes = Processes(device)
    adapted = attach(model.to(processes.device), options.lora, checkpoint, options.seed)
    if options.gradient_checkpointing:
        checkpoint_activations(adapted)
    scorer = VlaScorer(adapted, preprocessor, active, options.precision)
    data_hash = pairs_hash(comparisons)
    dimensions = None if active is None else active.tolist()
    run_hash = hash_json([asdict(options), data_hash, model_hash, dimensions])
    of_reference = " ".join([model_hash, options.precision, str(scorer.active)])
    cache = ReferenceCache(output / "reference", of_reference, options.micro_batch)
    references = _references(adapted, scorer, comparisons, cache, processes)
    run = _Run(adapted, scorer, references, options, output, run_hash, processes)
    run.train(comparisons, progress and processes.main)
    if processes.main:
        save_adapter(adapted, output / "adapter")
    processes.wait()
    rows = read_json_lines(output / "metrics.jsonl")
    result = _summarise(rows, len(comparisons), options, output / "adapter", data_hash)
    if processes.main:
        about = {**asdict(result), "adapter": "adapter", "options": asdict(options)}
        write_json(output / "result.json", about)
    return result


def check_options(options: TpoOptions) -> None:
    """Refuse what no run can be made of.

    Raises:
        BadInputError: an unknown name or a number out of range.
    """
    objective = options.objective
    names = (("method", options.method, METHODS), ("loss", objective.loss, LOSSES))
    for what, name, known in (*names, ("precision", options.precision, PRECISIONS)):
        if name not in known:
            raise BadInputError(f"unknown {what} {name!r}", f"Choose one of {', '.join(known)}")
    if not 0.0 <= objective.label_smoothing < 0.5:
        raise BadInputError("label smoothing must be at least 0 and below 0.5", "0.1 is a usual value")
    if objective.beta <= 0.0:
        raise BadInputError("beta must be above 0", "0.1 is a usual value")


def _references(
    adapted: PeftModel,
    scorer: VlaScorer,
    comparisons: Sequence[Comparison],
    cache: ReferenceCache,
    processes: Processes,
) -> dict[str, np.ndarray]:
    """Compute this process's share, then read (or, without a shared disk, compute) the rest."""
    rollouts = list({r.episode_id: r for item in comparisons for r in item.rollouts}.values())
    with reference(adapted):
        reference_log_probabilities(processes.share(rollouts), scorer.values, cache)
        processes.wait()
        return reference_log_probabilities(rollouts, scorer.values, cache)


def schedule(pairs: int, options: TpoOptions) -> list[list[int]]:
    """Return the pair indices of every optimiser step: each epoch is one seeded permutation."""
    steps = []
    for epoch in range(options.epochs):
        order = np.random.default_rng([options.seed, epoch]).permutation(pairs).tolist()
        size = options.pairs_per_step
        steps += [order[start : start + size] for start in range(0, pairs, size)]
    return steps


class _Run:
    """One training run: optimiser, resume state, logs."""

    def __init__(
        self,
        adapted: PeftModel,
        scorer: VlaScorer,
        references: dict[str, np.ndarray],
        options: TpoOptions,
        output: Path,
        run_hash: str,
        processes: Processes,
    ) -> None:
        self.parameters = adapter_parameters(adapted)
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=options.learning_rate, weight_decay=0.0
        )
        self.scorer, self.references, self.options = scorer, references, options
        self.output, self.run_hash, self.processes = output, run_hash, processes

    def train(self, comparisons: Sequence[Comparison], progress: bool) -> None:
        """Run the optimiser steps that are not done yet."""
        from torch.utils.tensorboard import SummaryWriter

        steps = schedule(len(comparisons), self.options)
        state, main = self.output / "state.safetensors", self.processes.main
        done = load_state(state, self.run_hash, self.parameters, self.optimiser)
        self.processes.wait()  # nobody writes before all have read
        if main:
            self._truncate_metrics(done)
        bar = tqdm(
            total=len(steps), initial=done, desc=self.options.method, unit="step", disable=not progress
        )
        folder = str(self.output / "tensorboard")
        board: Any
        with SummaryWriter(folder, purge_step=done) if main else nullcontext() as board, bar:
            for step in range(done, len(steps)):
                row = self._step(step, [comparisons[index] for index in steps[step]])
                if main:
                    append_json_line(self.output / "metrics.jsonl", row)
                    save_state(state, self.run_hash, step + 1, self.parameters, self.optimiser)
                    for name, value in row.items():
                        board.add_scalar(f"tpo/{name}", value, step)
                bar.set_postfix(loss=f"{row['loss']:.4f}", norm=f"{row['gradient_norm']:.3f}")
                bar.update()

    def _step(self, step: int, batch: Sequence[Comparison]) -> dict[str, float]:
        """Accumulate the gradients of ``batch``, clip, update; return the row of the curves."""
        options, parameters = self.options, list(self.parameters.values())
        rate = options.learning_rate * min(1.0, (step + 1) / max(1, options.warmup))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        values = [self._add_gradient(item, 1.0 / len(batch)) for item in self.processes.share(batch)]
        self.processes.add_up([p.grad for p in parameters if p.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(parameters, options.max_gradient_norm)
        self.optimiser.step()
        means = _mean(self.processes.gather(values))
        return {"step": step, **means, "gradient_norm": float(norm), "learning_rate": rate}

    def _add_gradient(self, item: Comparison, weight: float) -> PairLoss:
        parameters, options = list(self.parameters.values()), self.options
        unit = METHODS[options.method][0]
        sides = self._trajectories(item)
        how: dict[str, Any] = {"micro_batch": options.micro_batch, "weight": weight}
        if unit == IMITATION:
            return add_imitation_gradient(parameters, sides[0], **how)
        if unit == STEP:
            return add_step_gradient(parameters, sides[0], sides[1], options.objective, **how)
        return add_gradient(parameters, sides, item.preferences, options.objective, **how)

    def _trajectories(self, item: Comparison) -> list[Trajectory]:
        def trajectory(rollout: Rollout, weights: np.ndarray | None) -> Trajectory:
            def log_probabilities(start: int, stop: int) -> Tensor:
                return self.scorer(rollout, start, stop)

            return Trajectory(rollout.steps, log_probabilities, self.references[rollout.episode_id], weights)

        weights = item.step_weights or (None,) * len(item.rollouts)
        return [trajectory(*each) for each in zip(item.rollouts, weights, strict=True)]

    def _truncate_metrics(self, done: int) -> None:
        path = self.output / "metrics.jsonl"
        rows = [row for row in read_json_lines(path) if row["step"] < done]
        write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def _mean(values: Sequence[PairLoss]) -> dict[str, float]:
    rows = [asdict(value) for value in values]
    names = [name for name, value in rows[0].items() if value is not None]
    return {name: float(np.mean([row[name] for row in rows])) for name in names}


def _summarise(
    rows: list[dict[str, Any]], pairs: int, options: TpoOptions, adapter: Path, data_hash: str
) -> TpoResult:
    last = rows[-(len(rows) // options.epochs) :]
    names = ("loss", "margin", "accuracy", "kl")
    means: dict[str, Any] = dict.fromkeys(names)
    means |= {name: float(np.mean([row[name] for row in last])) for name in names if name in last[0]}
    return TpoResult(adapter=adapter, steps=len(rows), pairs=pairs, data_hash=data_hash, **means)
