"""Runs of the trainer as real processes: killed and resumed, and two together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tpo_factory import rows
from vla_factory import tiny_checkpoint

HERE = Path(__file__).resolve().parents[1]


def start(folder: Path, output: Path, epochs: int, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(HERE / "tpo_factory.py"), str(folder), str(output), str(epochs)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_checkpoint(tmp_path / "tiny")
    return tmp_path


def adapter(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "adapter/adapter_model.safetensors")


def test_a_run_that_is_killed_continues_bit_for_bit(folder):
    """SIGKILL at two places, whatever it was doing; three pairs, two a step: 2 steps an epoch."""
    epochs = 8
    assert start(folder, folder / "whole", epochs).wait(timeout=240) == 0
    for seen in (3, 9):
        process = start(folder, folder / "cut", epochs)
        metrics = folder / "cut/metrics.jsonl"
        deadline = time.monotonic() + 120
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < seen:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "cut/result.json").exists()
    assert start(folder, folder / "cut", epochs).wait(timeout=240) == 0
    assert rows(folder / "cut") == rows(folder / "whole")
    first, second = adapter(folder / "whole"), adapter(folder / "cut")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_give_what_one_gives(folder):
    """Gradients are added up over the processes: three pairs, two a step, so one of them is idle at times."""
    assert start(folder, folder / "one", 3).wait(timeout=240) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": "2"}
    together = [
        start(
            folder, folder / "two", 3, RANK=str(rank), LOCAL_RANK=str(rank), ACCELERATE_USE_CPU="1", **common
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=240) for process in together] == [0, 0]
    one, two = rows(folder / "one"), rows(folder / "two")
    assert len(one) == len(two) == 6
    for alone, shared in zip(one, two, strict=True):
        # Margin and KL are small differences of log-probabilities, so these set the scale of their rounding.
        scale = abs(alone["chosen_log_probability"])
        assert shared == pytest.approx(alone, rel=1e-5, abs=1e-5 * scale)
    first, second = adapter(folder / "one"), adapter(folder / "two")
    for name in first:
        assert (first[name] - second[name]).norm() <= 1e-5 * first[name].norm()
