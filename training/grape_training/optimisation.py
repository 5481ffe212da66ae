"""A resumable optimiser loop: the same losses, bit for bit on one thread, with or without an interruption.

State is written as safetensors and JSON into a new folder per checkpoint, moved into place whole; the
folder before it is deleted only then. What a step sees depends on (seed, step) alone, so there is no
generator state to save.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from grape_training.errors import BadInputError
from grape_training.files import append_json_line, read_json, read_json_lines, write_json, write_text

Losses = dict[str, Tensor]
CURVE = "curve.jsonl"


@dataclass(frozen=True)
class ScheduleOptions:
    """Length and learning rate: linear warm-up, constant, then a cosine to zero over ``decay`` steps.

    ``stop``: end the run after this many steps, though the schedule is laid out for ``steps`` (0: do not).
    """

    steps: int
    learning_rate: float = 1e-3
    warm_up: int = 200
    decay: int = 0
    stop: int = 0
    weight_decay: float = 0.05
    clip: float = 1.0
    save_every: int = 250
    log_every: int = 20

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``."""
        rising = min(1.0, (step + 1) / max(1, self.warm_up))
        left = (self.steps - step) / self.decay if self.decay else 1.0
        return self.learning_rate * rising * (0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, left))))


class Loop:
    """AdamW over ``module``'s trainable parameters, with its state below ``folder``."""

    def __init__(self, folder: Path, module: nn.Module, options: ScheduleOptions) -> None:
        self.folder, self.module, self.options = folder, module, options
        self.step = 0
        self.optimiser = _adamw(module, options)
        self._resume()

    def run(self, losses_at: Callable[[int], Losses], description: str) -> list[dict[str, float]]:
        """Optimise ``losses_at(step)["total"]`` up to the last step; return the curve of this run.

        The curve goes to ``curve.jsonl`` and to TensorBoard. An interruption (Ctrl+C) saves the state first.
        """
        curve: list[dict[str, float]] = []
        with SummaryWriter(str(self.folder / "tensorboard")) as board:
            last = self.options.stop or self.options.steps
            bar = tqdm(total=last, initial=self.step, desc=description, mininterval=5.0)
            try:
                while self.step < last:
                    curve += self._one(losses_at, board, bar)
            except KeyboardInterrupt:
                self.save()
                raise
            finally:
                bar.close()
        self.save()
        return curve

    def _one(
        self, losses_at: Callable[[int], Losses], board: SummaryWriter, bar: tqdm
    ) -> list[dict[str, float]]:
        losses = losses_at(self.step)
        self._update(losses["total"])
        row = {name: float(value.detach()) for name, value in losses.items()}
        self.step += 1
        bar.update()
        if self.step % self.options.save_every == 0:
            self.save()
        if self.step % self.options.log_every:
            return []
        bar.set_postfix({name: f"{value:.3f}" for name, value in row.items()})
        for name, value in row.items():
            board.add_scalar(name, value, self.step)
        entry = {"step": self.step, "rate": self.options.rate(self.step), "time": time.time(), **row}
        append_json_line(self.folder / CURVE, entry)
        return [entry]

    def _update(self, loss: Tensor) -> None:
        """One AdamW step; a loss that is not finite stops the run before it can spoil the weights."""
        if not torch.isfinite(loss):
            raise BadInputError(
                f"the loss became {loss.item()} at step {self.step}", "Lower the learning rate"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.options.clip)
        self.optimiser.step()

    def save(self) -> None:
        """Write weights and optimiser moments of the current step, then forget the older state."""
        name = f"state-{self.step:07d}"
        if (self.folder / name / "state.json").exists():
            return
        partial = self.folder / f".{name}.{os.getpid()}.part"
        partial.mkdir(parents=True)
        save_file(
            {k: v.contiguous() for k, v in self.module.state_dict().items()}, partial / "weights.safetensors"
        )
        save_file(self._moments(), partial / "optimiser.safetensors")
        write_json(partial / "state.json", {"step": self.step})
        partial.replace(self.folder / name)
        for old in self.folder.glob("state-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)

    def _moments(self) -> dict[str, Tensor]:
        state = self.optimiser.state
        named = [(n, state[p]) for n, p in self.module.named_parameters() if p in state]
        return {f"{kind}:{name}": value.contiguous() for name, s in named for kind, value in s.items()}

    def _resume(self) -> None:
        """Go on from the newest saved state, if there is one, and cut the curve back to it."""
        found = sorted(path.parent for path in self.folder.glob("state-*/state.json"))
        if not found:
            return
        self.step = int(read_json(found[-1] / "state.json")["step"])
        try:
            self.module.load_state_dict(load_file(found[-1] / "weights.safetensors"))
            moments = load_file(found[-1] / "optimiser.safetensors")
        except (RuntimeError, OSError, ValueError) as error:
            raise BadInputError(
                f"{found[-1]} does not fit this model ({str(error)[:200]})", "Use another folder or delete it"
            ) from error
        parameters = dict(self.module.named_parameters())
        for key, value in moments.items():
            kind, name = key.split(":", 1)
            self.optimiser.state[parameters[name]][kind] = value
        curve = self.folder / CURVE
        kept = [row for row in read_json_lines(curve) if row["step"] <= self.step]
        write_text(curve, "".join(_json_line(row) for row in kept))


def _adamw(module: nn.Module, options: ScheduleOptions) -> torch.optim.AdamW:
    """Return AdamW; only matrices are decayed, not norms and biases."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.95), fused=True)


def _json_line(row: dict[str, float]) -> str:
    return json.dumps(row, sort_keys=True) + "\n"
