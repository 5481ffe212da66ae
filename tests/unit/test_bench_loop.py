"""The figures of ``grape bench loop`` from made-up stamps; the graph itself is measured elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("grape_msgs.msg", exc_type=ImportError)
from grape_policy.nodes.loop_bench import first_motions_ms, overheads_ms, processor_time, summary
from grape_policy.nodes.messages import to_stamp

MS = 1_000_000


def action(published_ms: int, image_ms: int, model_ms: float) -> SimpleNamespace:
    return SimpleNamespace(
        header=SimpleNamespace(stamp=to_stamp(published_ms * MS)),
        observation_stamp=to_stamp(image_ms * MS),
        inference_seconds=model_ms / 1e3,
    )


def commands(moving_from_ms: list[int], until_ms: int) -> list[tuple[int, np.ndarray]]:
    """Return 100 Hz joint commands that move for 100 ms from each of the given times on."""
    position, made = 0.0, []
    for now in range(0, until_ms, 10):
        position += 0.01 * any(start <= now < start + 100 for start in moving_from_ms)
        made.append((now * MS, np.full(6, position)))
    return made


def test_overhead_is_the_way_without_the_model() -> None:
    found = overheads_ms([action(1050, 1000, 30.0), action(1240, 1200, 25.0)])
    np.testing.assert_allclose(found, [20.0, 15.0])


def test_first_motion_counts_only_from_a_standing_arm() -> None:
    track = commands([220, 440], 700)
    found = first_motions_ms([203 * MS, 260 * MS, 431 * MS], track)
    np.testing.assert_allclose(found, [17.0, 9.0])  # the second action came while the arm moved


def test_too_little_to_tell_is_an_error() -> None:
    bench = SimpleNamespace(actions=[], commands=commands([20], 50), arm_values={}, stop="")
    with pytest.raises(RuntimeError, match="0 actions"):
        summary(bench, {})  # type: ignore[arg-type]


def test_processor_time_is_that_of_the_block() -> None:
    import os
    import time

    with processor_time({"me": os.getpid()}) as used:
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
    assert 0.01 < used["me"] <= 1.2 * (os.cpu_count() or 1)
