"""The resume state of a run: adapter, optimiser moments and step in one safetensors file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from grape_training.errors import BadInputError


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
