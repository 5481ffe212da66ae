"""Peak memory of loading a policy: ``python benchmarks/checkpoint_memory.py`` prints one JSON object.

Writes a synthetic sharded float32 checkpoint to a temporary folder, loads it in a process of its own with
weights of ``--precision``, and compares the growth of that process's peak memory with the weights' size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from grape_policy.vla.checkpoint import save_checkpoint
from grape_policy.vla.config import TextConfig, VlaConfig, small_config
from grape_policy.vla.inference import VlaPolicy
from grape_policy.vla.model import OpenVla
from grape_policy.vla.preprocess import Preprocessor
from grape_policy.vla.runtime import PRECISIONS, Runtime
from grape_policy.vla.statistics import ActionStatistics
from grape_policy.vla.tokenizer import train_tokenizer

LAYER_PARAMETERS = 4 * 2048**2 + 3 * 2048 * 5504


def peak_bytes() -> int:
    """Return the peak resident memory of this process; the kernel keeps it per address space."""
    line = next(li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def write_synthetic(folder: Path, gigabytes: float) -> None:
    """Write a checkpoint whose decoder has layers of Llama's proportions, in shards of 500 MB."""
    tokenizer = train_tokenizer(["put the carrot on the plate"] * 2, merges=32)
    config: VlaConfig = small_config(len(tokenizer), name="synthetic")
    layers = max(1, round(gigabytes * 1e9 / 4 / LAYER_PARAMETERS))
    text: TextConfig = replace(
        config.text,
        hidden_size=2048,
        intermediate_size=5504,
        num_hidden_layers=layers,
        num_attention_heads=16,
    )
    model = OpenVla(replace(config, text=text))
    statistics = {"synthetic": ActionStatistics(-np.ones(7), np.ones(7), np.ones(7, dtype=bool))}
    save_checkpoint(folder, model, tokenizer, statistics, Preprocessor(112), max_shard_size="500MB")


def measure_load(folder: Path, precision: str) -> dict[str, float]:
    """Load the checkpoint in this process; return its weights' and the peak's growth in bytes."""
    before = peak_bytes()
    model = VlaPolicy.from_checkpoint(folder, runtime=Runtime(precision=precision)).checkpoint.model
    growth = peak_bytes() - before
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return {"weights_bytes": weights, "peak_growth_bytes": growth, "ratio": growth / weights}


def main() -> None:
    """Write, measure in processes of their own, print, and delete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.1)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.write:
        write_synthetic(arguments.write, arguments.gigabytes)
    elif arguments.load:
        print(json.dumps(measure_load(arguments.load, arguments.precision)))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "synthetic"
            this = [sys.executable, __file__, "--gigabytes", str(arguments.gigabytes)]
            this += ["--precision", arguments.precision]
            subprocess.run([*this, "--write", str(folder)], check=True)
            shards = len(list(folder.glob("*.safetensors")))
            found = subprocess.run([*this, "--load", str(folder)], check=True, capture_output=True, text=True)
            print(
                json.dumps(
                    {"shards": shards, "precision": arguments.precision, **json.loads(found.stdout)}, indent=1
                )
            )


if __name__ == "__main__":
    main()
