"""One optimiser step on one pair of trajectories, done in the ways that ``grape bench tpo`` compares."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from grape_policy.vla.checkpoint import Checkpoint, load_checkpoint
from peft import PeftModel
from torch import Tensor, nn

from grape_training.lora import adapter_parameters, attach, reference
from grape_training.tpo_data import Rollout, RolloutPair
from grape_training.tpo_gradient import Trajectory, add_pair_gradient, micro_batches
from grape_training.tpo_options import LoraOptions, Objective, TpoOptions
from grape_training.tpo_scorer import VlaScorer

INSTRUCTION = "put the carrot on the plate"
WINDOW = 8  # steps, in the authors' code
OBJECTIVE = Objective()
MICRO_BATCH = TpoOptions().micro_batch


@dataclass(frozen=True)
class Bench:
    """A policy with an adapter that has already moved away from its reference, and a pair to train on."""

    checkpoint: Checkpoint
    adapted: PeftModel
    scorer: VlaScorer
    pair: RolloutPair

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The adapter's parameters."""
        return list(adapter_parameters(self.adapted).values())


def prepare(policy: Path, steps: int, lora: LoraOptions | None = None) -> Bench:
    """Load ``policy`` and make a pair of random trajectories of ``steps`` steps each."""
    checkpoint = load_checkpoint(policy)
    rollouts = [random_rollout(checkpoint, steps, seed) for seed in (0, 1)]
    adapted = attach(checkpoint.model, lora or LoraOptions(), policy, 0)
    perturb(adapted)
    return Bench(checkpoint, adapted, VlaScorer(adapted, checkpoint.preprocessor), RolloutPair(*rollouts))


def random_rollout(checkpoint: Checkpoint, steps: int, seed: int) -> Rollout:
    """Return random images and action tokens: what they show does not change the amount of work."""
    rng = np.random.default_rng(seed)
    size, ids = checkpoint.preprocessor.image_size, checkpoint.config.action_ids
    images = rng.integers(0, 256, (steps, size, size, 3), dtype=np.uint8)
    tokens = rng.integers(ids.start, ids.stop, (steps, 7))
    return Rollout(f"random-{seed}", images, tuple(checkpoint.tokenizer.prompt_ids(INSTRUCTION)), tokens)


def perturb(adapted: PeftModel) -> None:
    """Give the second factors, which start at zero, small random values: every gradient is then non-zero."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapter_parameters(adapted).items():
        if "lora_B" in name:
            parameter.data.copy_(0.01 * torch.randn(parameter.shape, generator=generator))


def finish_step(parameters: list[nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
    """Clip, update, forget the gradient: what ends every way's optimiser step."""
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def reference_values(bench: Bench, rollout: Rollout) -> np.ndarray:
    """Return the reference's log-probabilities (T,) float64, with the adapter switched off."""
    parts = micro_batches(rollout.steps, MICRO_BATCH)
    with torch.no_grad(), reference(bench.adapted):
        return np.concatenate([bench.scorer.values(rollout, *part) for part in parts])


def references(bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """Return the reference's values of both sides."""
    return reference_values(bench, bench.pair.chosen), reference_values(bench, bench.pair.rejected)


def trajectory(bench: Bench, rollout: Rollout, values: np.ndarray) -> Trajectory:
    """Return the rollout as the gradient wants it, with the reference's ``values``."""
    return Trajectory(rollout.steps, lambda start, stop: bench.scorer(rollout, start, stop), values)


def deferred(bench: Bench, values: tuple[np.ndarray, np.ndarray]) -> None:
    """Add our gradient; the reference's ``values`` of both sides come from the cache."""
    chosen, rejected = bench.pair.chosen, bench.pair.rejected
    sides = trajectory(bench, chosen, values[0]), trajectory(bench, rejected, values[1])
    add_pair_gradient(bench.parameters, *sides, OBJECTIVE, micro_batch=MICRO_BATCH)


def reference_every_step(bench: Bench) -> None:
    """Add the same gradient without a cache: switch the adapter off and run the reference in every step."""
    deferred(bench, references(bench))


def naive(bench: Bench, values: tuple[np.ndarray, np.ndarray]) -> Tensor:
    """Add the gradient by one graph over both whole trajectories, as the loss is written; return the loss."""
    sides = (bench.pair.chosen, bench.pair.rejected)
    new = torch.cat([bench.scorer(side, 0, side.steps) for side in sides]).double()
    ratios = new - torch.from_numpy(np.concatenate(values))
    margin = ratios[: sides[0].steps].sum() - ratios[sides[0].steps :].sum()
    loss = -F.logsigmoid(OBJECTIVE.beta * margin)
    loss.backward()
    return loss


def second_model(bench: Bench) -> VlaScorer:
    """Return a scorer on a separate copy of the reference model, as the authors keep one in memory."""
    with reference(bench.adapted):
        copied = copy.deepcopy(bench.adapted).unload()
    return VlaScorer(copied.eval(), bench.checkpoint.preprocessor)


def windowed(bench: Bench, second: VlaScorer, start: int) -> None:
    """Add the gradient of the 8-step window from ``start``: the authors' scheme slides it by single steps.

    Per window 16 steps run forward in the policy with one graph, 16 in the second model, and one backward.
    A batch of 8 steps is given to each forward here, which is faster than the authors' batches of 1.
    """
    ratios = []
    for side in (bench.pair.chosen, bench.pair.rejected):
        with torch.no_grad():
            old = second(side, start, start + WINDOW)
        ratios.append((bench.scorer(side, start, start + WINDOW) - old).sum())
    (-F.logsigmoid(OBJECTIVE.beta * (ratios[0] - ratios[1]))).backward()
