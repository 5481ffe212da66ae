"""Read single tensors of a safetensors file by ordinary reads.

The library maps the file, and mapped pages count as memory until the kernel lets them go: loading then peaked
at 1.05 to 1.23 times the weights from run to run. Files are opened by the library first: it checks headers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class TensorFile:
    """One safetensors file whose header the library has accepted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            self.header: dict[str, Any] = json.loads(stream.read(size))
        self.start = 8 + size

    def read(self, name: str) -> Tensor:
        """Return the floating-point tensor ``name`` in the file's own dtype.

        Raises:
            OSError: the file ends early.
        """
        entry = self.header[name]
        first, end = entry["data_offsets"]
        tensor = torch.empty(entry["shape"], dtype=TYPES[entry["dtype"]])
        raw: Any = tensor.flatten().view(torch.uint8).numpy()
        buffer = memoryview(raw)
        with self.path.open("rb", buffering=0) as stream:
            stream.seek(self.start + first)
            filled = 0
            while filled < end - first:
                count = stream.readinto(buffer[filled:])
                if not count:
                    raise OSError(f"{self.path} ends within {name}")
                filled += count
        return tensor
