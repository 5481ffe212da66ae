"""Where and how precisely a policy computes; importing this costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "bfloat16", "float16", "4bit")


@dataclass(frozen=True)
class Runtime:
    """Device, precision of the weights, and whether the vision towers are compiled.

    ``precision`` "4bit" keeps the linear layers of the decoder's blocks as NF4 with doubly quantised scales
    (Dettmers et al. 2023, by bitsandbytes) and everything else in bfloat16. ``compile`` runs
    ``torch.compile`` on towers and projector: the first inference then takes up to a minute.

    Raises:
        ValueError: unknown precision or device, or a device that this machine lacks.
    """

    device: str = "cpu"
    precision: str = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r}: use one of {', '.join(PRECISIONS)}")
        import torch

        try:
            kind = torch.device(self.device).type
        except RuntimeError:
            raise ValueError(f"device {self.device!r}: use cpu, cuda or cuda:<number>") from None
        if kind == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device {self.device}: this machine has no usable CUDA; use device cpu")

    @property
    def four_bit(self) -> bool:
        """Whether the decoder's linear layers are quantised."""
        return self.precision == "4bit"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of everything that is not quantised."""
        import torch

        kept = "bfloat16" if self.four_bit else self.precision
        found: torch.dtype = getattr(torch, kept)
        return found


CPU = Runtime()
