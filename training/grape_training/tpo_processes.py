"""Several processes of one run (accelerate, torchrun): each takes a share of every optimiser step."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Processes:
    """The processes of this run; one alone needs no launcher.

    Started by ``accelerate launch`` or ``torchrun``, which set WORLD_SIZE, they share the pairs of each
    optimiser step and add up their gradients, so that the result is that of one process to rounding. Only the
    main process writes.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._state: Any = None
        self.device = torch.device(device)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=device == "cpu")
            self.device = self._state.device

    @property
    def index(self) -> int:
        """This process's number, from 0."""
        return int(self._state.process_index) if self._state else 0

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._state.num_processes) if self._state else 1

    @property
    def main(self) -> bool:
        """Whether this is the one that writes."""
        return self.index == 0

    def share(self, items: Iterable[Any]) -> list[Any]:
        """Return every ``count``-th item: this process's part."""
        return list(items)[self.index :: self.count]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self._state:
            self._state.wait_for_everyone()

    def add_up(self, gradients: list[Tensor]) -> None:
        """Replace each of ``gradients`` by its sum over the processes, in one exchange."""
        if not self._state:
            return
        from accelerate.utils import reduce

        total = reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
        parts = total.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def gather(self, items: list[Any]) -> list[Any]:
        """Return the items of all processes, in the order in which ``share`` dealt them out."""
        if not self._state:
            return items
        found: list[list[Any]] = [[] for _ in range(self.count)]
        torch.distributed.all_gather_object(found, items)
        return [part[row] for row in range(len(found[0])) for part in found if row < len(part)]
