"""Trajectory-wise preference optimisation (TPO) of a VLA with a LoRA adapter; resumes after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from grape_training.errors import BadInputError
from grape_training.files import append_json_line, hash_json, read_json_lines, write_json, write_text
from grape_training.lora import adapter_parameters, attach, reference, save_adapter
from grape_training.tpo_data import (
    ReferenceCache,
    Rollout,
    RolloutPair,
    pairs_hash,
    reference_log_probabilities,
)
from grape_training.tpo_gradient import PairLoss, Trajectory, add_pair_gradient
from grape_training.tpo_options import TpoOptions

if TYPE_CHECKING:
    from grape_policy.vla.preprocess import Preprocessor
    from peft import PeftModel


@dataclass(frozen=True)
class TpoResult:
    """Where the adapter is and how the training went (means over the last epoch)."""

    adapter: Path
    steps: int
    pairs: int
    loss: float
    margin: float
    accuracy: float
    kl: float
    data_hash: str


class VlaScorer:
    """Log-probabilities of recorded actions under an adapted VLA, per step (sum over the 7 action tokens)."""

    def __init__(self, model: torch.nn.Module, preprocessor: Preprocessor) -> None:
        self.model = model
        self.preprocessor = preprocessor

    def __call__(self, rollout: Rollout, start: int, stop: int) -> Tensor:
        """Return (stop - start,) log pi(a_t | o_t, q), differentiable."""
        from grape_policy.vla.scoring import action_log_probabilities

        pixels = self.preprocessor.normalise(rollout.images[start:stop])
        tokens = torch.from_numpy(rollout.token_ids[start:stop])
        prompts = [rollout.prompt_ids] * (stop - start)
        return action_log_probabilities(self.model, pixels, prompts, tokens).sum(dim=1)

    def values(self, rollout: Rollout, start: int, stop: int) -> np.ndarray:
        """Return the same numbers (float64) without keeping the graph, computed by the same kernels."""
        return self(rollout, start, stop).detach().double().numpy()


def train_tpo(
    model: torch.nn.Module,
    preprocessor: Preprocessor,
    pairs: Sequence[RolloutPair],
    output: Path,
    options: TpoOptions,
    *,
    checkpoint: Path,
    model_hash: str,
    progress: bool = True,
) -> TpoResult:
    """Train an adapter on ``pairs``; write adapter, metrics, TensorBoard and result below ``output``.

    A second call with the same arguments continues where the first one was killed.

    Raises:
        BadInputError: no pairs, or ``output`` holds a run with other data or options.
    """
    if not pairs:
        raise BadInputError(
            "there are no preference pairs to train on", "Collect more rollouts, then score them"
        )
    adapted = attach(model, options.lora, checkpoint, options.seed)
    scorer = VlaScorer(model, preprocessor)
    data_hash = pairs_hash(pairs)
    run_hash = hash_json([asdict(options), data_hash, model_hash])
    references = _references(adapted, scorer, pairs, output, model_hash, options.micro_batch)
    run = _Run(adapted, scorer, references, options, output, run_hash)
    run.train(pairs, progress)
    save_adapter(adapted, output / "adapter")
    rows = read_json_lines(output / "metrics.jsonl")
    result = _summarise(rows, len(pairs), options, output / "adapter", data_hash)
    write_json(output / "result.json", {**asdict(result), "adapter": "adapter", "options": asdict(options)})
    return result


def _references(
    adapted: PeftModel,
    scorer: VlaScorer,
    pairs: Sequence[RolloutPair],
    output: Path,
    model_hash: str,
    micro_batch: int,
) -> dict[str, np.ndarray]:
    rollouts = {r.episode_id: r for pair in pairs for r in (pair.chosen, pair.rejected)}
    cache = ReferenceCache(output / "reference", model_hash, micro_batch)
    with reference(adapted):
        return reference_log_probabilities(rollouts.values(), scorer.values, cache)


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
    ) -> None:
        self.parameters = adapter_parameters(adapted)
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=options.learning_rate, weight_decay=0.0
        )
        self.scorer, self.references, self.options = scorer, references, options
        self.output = output
        self.run_hash = run_hash

    def train(self, pairs: Sequence[RolloutPair], progress: bool) -> None:
        """Run the optimiser steps that are not done yet."""
        from torch.utils.tensorboard import SummaryWriter

        steps = schedule(len(pairs), self.options)
        done = load_state(self.output / "state.safetensors", self.run_hash, self.parameters, self.optimiser)
        self._truncate_metrics(done)
        bar = tqdm(total=len(steps), initial=done, desc="TPO", unit="step", disable=not progress)
        with SummaryWriter(str(self.output / "tensorboard"), purge_step=done) as board, bar:
            for step in range(done, len(steps)):
                row = {"step": step, **self._step([pairs[index] for index in steps[step]])}
                append_json_line(self.output / "metrics.jsonl", row)
                state = self.output / "state.safetensors"
                save_state(state, self.run_hash, step + 1, self.parameters, self.optimiser)
                for name, value in row.items():
                    board.add_scalar(f"tpo/{name}", value, step)
                bar.set_postfix(loss=f"{row['loss']:.4f}", margin=f"{row['margin']:+.3f}")
                bar.update()

    def _step(self, batch: Sequence[RolloutPair]) -> dict[str, float]:
        self.optimiser.zero_grad(set_to_none=True)
        parameters = list(self.parameters.values())
        values = [
            add_pair_gradient(
                parameters,
                self._trajectory(pair.chosen),
                self._trajectory(pair.rejected),
                self.options.objective,
                micro_batch=self.options.micro_batch,
                weight=1.0 / len(batch),
            )
            for pair in batch
        ]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.options.max_gradient_norm)
        self.optimiser.step()
        return {**_mean(values), "gradient_norm": float(norm)}

    def _trajectory(self, rollout: Rollout) -> Trajectory:
        def log_probabilities(start: int, stop: int) -> Tensor:
            return self.scorer(rollout, start, stop)

        return Trajectory(rollout.steps, log_probabilities, self.references[rollout.episode_id])

    def _truncate_metrics(self, done: int) -> None:
        path = self.output / "metrics.jsonl"
        rows = [row for row in read_json_lines(path) if row["step"] < done]
        write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def _mean(values: Sequence[PairLoss]) -> dict[str, float]:
    rows = [asdict(value) for value in values]
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {**means, "accuracy": float(np.mean([value.margin > 0 for value in values]))}


def _summarise(
    rows: list[dict[str, Any]], pairs: int, options: TpoOptions, adapter: Path, data_hash: str
) -> TpoResult:
    last = rows[-(len(rows) // options.epochs) :]
    means = {key: float(np.mean([row[key] for row in last])) for key in ("loss", "margin", "accuracy", "kl")}
    return TpoResult(adapter=adapter, steps=len(rows), pairs=pairs, data_hash=data_hash, **means)


def _state_tensors(
    parameters: dict[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in parameters.items():
        yield f"parameter.{name}", parameter.data
        for key, value in optimiser.state.get(parameter, {}).items():
            yield f"{key}.{name}", value


def save_state(
    path: Path,
    run_hash: str,
    step: int,
    parameters: dict[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write adapter and optimiser state (safetensors) with the step and the run's hash, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    tensors = {name: tensor.contiguous() for name, tensor in _state_tensors(parameters, optimiser)}
    save_file(tensors, temporary, metadata={"run": run_hash, "step": str(step)})
    temporary.replace(path)


def load_state(
    path: Path, run_hash: str, parameters: dict[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> int:
    """Restore what :func:`save_state` wrote; return the number of steps done (0: nothing to resume).

    Raises:
        BadInputError: the file is damaged or belongs to a run with other data or options.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise BadInputError(f"{path} is damaged ({error})", "Delete it to train from the start") from error
    if metadata.get("run") != run_hash:
        raise BadInputError(
            f"{path} belongs to a run with other data or options",
            "Choose another --output or delete the folder",
        )
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[f"parameter.{name}"])
        keys = ("step", "exp_avg", "exp_avg_sq")
        optimiser.state[parameter] = {key: tensors[f"{key}.{name}"] for key in keys}
    return int(metadata["step"])
