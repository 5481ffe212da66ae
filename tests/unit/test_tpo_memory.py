"""Peak memory of a TPO step does not grow with the length of the trajectories; the naive graph's does."""

from __future__ import annotations

import os
import subprocess
import sys

MEASURE = """
from pathlib import Path
import numpy as np, torch
from grape_training.tpo_gradient import Objective, Trajectory, add_pair_gradient
torch.set_num_threads(1)
policy = torch.nn.Sequential(torch.nn.Linear(8, 20_000), torch.nn.GELU(), torch.nn.Linear(20_000, 4))

def side(steps):
    observations = torch.randn(steps, 8)
    return Trajectory(steps, lambda a, b: policy(observations[a:b]).log_softmax(-1)[:, 0], np.zeros(steps))

def peak(steps, micro_batch):
    policy.zero_grad()
    pair = side(steps), side(steps)
    add_pair_gradient(list(policy.parameters()), *pair, Objective(), micro_batch=micro_batch)
    # not ru_maxrss: that starts at the size of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

peak(32, 16)
start = peak(32, 16)
print(peak(400, 16) - start, peak(400, 400) - start)
"""


def test_peak_memory_is_flat_in_the_number_of_steps():
    # Large blocks go back to the system at once, so that the peak is that of the tensors and of no free list.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEASURE]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120)
    deferred, naive = (float(megabytes) for megabytes in result.stdout.split())
    one_activation = 400 * 20_000 * 4 / 2**20  # MB, of the hidden layer over all steps of one side
    assert deferred < 2
    assert naive > 2 * one_activation
