"""Exactness, memory and speed of the TPO gradient, against other ways to train on the same pair."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from grape_policy.vla.checkpoint import load_checkpoint

from grape_training.bench_tpo_steps import (
    OBJECTIVE,
    WINDOW,
    Bench,
    deferred,
    finish_step,
    naive,
    prepare,
    reference_every_step,
    references,
    second_model,
    windowed,
)
from grape_training.tpo_options import LoraOptions

SHORT, LONG = 20, 200  # steps per trajectory of the memory ratios
EXACT_STEPS = 30
WINDOWS = 4  # measured per round; all windows cost the same


def measure_tpo(policy: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Return every figure of ``grape bench tpo``; ``steps``: of each trajectory of the speed comparison.

    Speeds are ratios of processor times on one thread, each the median over ``rounds`` in which all ways
    take their turn, so that a busy machine slows all alike. A peak of memory is that of a process of its own.
    """
    torch.set_num_threads(1)
    return {"grad_rel_err": gradient_error(policy), **memory_ratios(policy), **speeds(policy, steps, rounds)}


def gradient_error(policy: Path) -> float:
    """Return |ours - naive| / |naive| of the whole adapter's gradient, float32."""
    bench = prepare(policy, EXACT_STEPS)
    values = references(bench)
    deferred(bench, values)
    ours = flat_gradient(bench)
    naive(bench, values)
    full = flat_gradient(bench)
    return float((ours - full).norm() / full.norm())


def flat_gradient(bench: Bench) -> torch.Tensor:
    """Return the gradient of all parameters in one float64 vector, and clear it."""
    flat = torch.cat([p.grad.flatten() for p in bench.parameters if p.grad is not None]).double()
    bench.adapted.zero_grad(set_to_none=True)
    return flat


def memory_ratios(policy: Path) -> dict[str, Any]:
    """Return the ratios of peak memory between long and short trajectories, and the peaks (MB)."""
    peaks = {way: [_peak(policy, steps, way) for steps in (SHORT, LONG)] for way in ("deferred", "naive")}
    return {
        "memory_ratio_200_vs_20": peaks["deferred"][1] / peaks["deferred"][0],
        "naive_memory_ratio_200_vs_20": peaks["naive"][1] / peaks["naive"][0],
        "peak_mb": {way: dict(zip(("20", "200"), found, strict=True)) for way, found in peaks.items()},
    }


def _peak(policy: Path, steps: int, way: str) -> float:
    command = [sys.executable, "-m", "grape_training.bench_tpo", str(policy), str(steps), way]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def peak_of_one_step(policy: Path, steps: int, way: str) -> float:
    """Return the peak resident memory (MB) of this process after one optimiser step done ``way``."""
    torch.set_num_threads(1)
    bench = prepare(policy, steps)
    optimiser = torch.optim.AdamW(bench.parameters, lr=1e-4)
    {"deferred": deferred, "naive": naive}[way](bench, references(bench))
    finish_step(bench.parameters, optimiser)
    # Not ru_maxrss: that starts at the size of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def speeds(policy: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Return how much faster our optimiser step is than each other way, per pair of trajectories."""
    bench = prepare(policy, steps)
    ways, missing = _ways(bench, policy)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            seconds[name].append(_processor_seconds(run))
    per_pair = {name: np.array(found) for name, found in seconds.items()}
    per_pair["windowed"] *= (steps - WINDOW + 1) / WINDOWS
    ratios = {name: float(np.median(per_pair[name] / per_pair["ours"])) for name in ways if name != "ours"}
    return {
        "speedup_vs_reference_every_step": ratios["reference_every_step"],
        "speedup_vs_trl": ratios.get("trl"),
        "speedup_vs_trl_precomputed": ratios.get("trl_precomputed"),
        "speedup_vs_windowed": ratios["windowed"],
        "seconds_per_pair": {name: float(np.median(found)) for name, found in per_pair.items()},
        "steps_per_s": float(2 * steps / np.median(per_pair["ours"])),
        "steps_per_trajectory": steps,
        **missing,
    }


def _ways(bench: Bench, policy: Path) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    values, second = references(bench), second_model(bench)
    optimiser = torch.optim.AdamW(bench.parameters, lr=1e-5)

    def step(add_gradient: Callable[[], object]) -> None:
        add_gradient()
        finish_step(bench.parameters, optimiser)

    def windows() -> None:
        for start in range(WINDOWS):
            step(partial(windowed, bench, second, start))

    ways: dict[str, Callable[[], object]] = {
        "ours": partial(step, partial(deferred, bench, values)),
        "reference_every_step": partial(step, partial(reference_every_step, bench)),
        "windowed": windows,
    }
    try:
        from grape_training.bench_tpo_trl import TrlPeer
    except ImportError as error:
        return ways, {"trl": f"not measured: {error}; pip install trl"}
    for name, precomputed in (("trl", False), ("trl_precomputed", True)):
        peer = TrlPeer(load_checkpoint(policy), bench.pair, LoraOptions(), OBJECTIVE.beta, precomputed)
        ways[name] = partial(_trl_step, peer, torch.optim.AdamW(peer.parameters.values(), lr=1e-5))
    return ways, {}


def _trl_step(peer: Any, optimiser: torch.optim.Optimizer) -> None:
    peer.add_gradient()
    finish_step(list(peer.parameters.values()), optimiser)


def _processor_seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


if __name__ == "__main__":
    print(peak_of_one_step(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
