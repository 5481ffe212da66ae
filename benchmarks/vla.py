"""Speed of the VLA on one core: ``python benchmarks/vla.py [CHECKPOINT]`` prints one JSON object.

Without a checkpoint an untrained model of the shipped size is measured (weights do not change the speed).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from grape_policy.vla.benchmark import INSTRUCTION, measure_inference
from grape_policy.vla.inference import VlaPolicy
from grape_policy.vla.scoring import action_log_probabilities


def measure_training(policy: VlaPolicy, batch: int = 32, runs: int = 4) -> dict[str, float]:
    """Return samples per second of forward and backward over all weights, by clock and by processor time."""
    model = policy.checkpoint.model
    size = policy.checkpoint.preprocessor.image_size
    pixels, tokens = torch.rand(batch, 6, size, size), torch.full((batch, 7), model.config.action_ids.start)
    prompts = policy.prompt_ids([INSTRUCTION] * batch)
    wall, cpu = [], []
    for _ in range(runs):
        started, used = time.perf_counter(), time.process_time()
        model.zero_grad()
        (-action_log_probabilities(model, pixels, prompts, tokens).mean()).backward()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return {"training_samples_per_s": batch / min(wall), "training_samples_per_cpu_s": batch / min(cpu)}


def untrained(folder: Path) -> Path:
    """Write an untrained checkpoint of the shipped model's size."""
    import numpy as np
    from grape_policy.vla.statistics import ActionStatistics
    from grape_training.learner import new_parts, write_parts

    statistics = ActionStatistics(-np.ones(7), np.ones(7), np.ones(7, dtype=bool))
    write_parts(new_parts(statistics, seed=0), folder, keep_heads=False)
    return folder


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        policy = VlaPolicy.from_checkpoint(arguments.checkpoint or untrained(Path(scratch) / "untrained"))
    result = measure_inference(policy, arguments.runs) | measure_training(policy)
    parameters = sum(p.numel() for p in policy.checkpoint.model.parameters())
    print(json.dumps({"version": policy.version, "parameters": parameters, **result}, indent=1))


if __name__ == "__main__":
    main()
