"""Loss and gradient norm over 50 optimiser steps, kept: a change of the numbers has to be meant.

``python tests/unit/test_tpo_golden.py`` writes the curves anew, which only a wanted change of the method
justifies.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from grape_training.tpo_options import Objective  # noqa: E402
from tpo_factory import random_pairs, rows, train  # noqa: E402
from vla_factory import tiny_checkpoint  # noqa: E402

GOLDEN = HERE / "data" / "tpo_curves.json"
CASES = {
    "sigmoid": {"objective": Objective(beta=0.05)},
    "ipo-anchored": {"objective": Objective(beta=0.1, length_normalised=True, anchor=0.05, loss="ipo")},
    "dpo": {"objective": Objective(beta=0.05, label_smoothing=0.1), "method": "dpo"},
}
STEPS = 50


def curves(folder: Path, case: str) -> dict[str, list[float]]:
    torch.set_num_threads(1)
    tiny_checkpoint(folder / "tiny")
    pairs = random_pairs(folder / "tiny", 2)
    train(folder / "tiny", pairs, folder / "run", epochs=STEPS, learning_rate=2e-4, warmup=5, **CASES[case])
    metrics = rows(folder / "run")
    assert len(metrics) == STEPS
    return {name: [row[name] for row in metrics] for name in ("loss", "gradient_norm")}


@pytest.mark.parametrize("case", CASES)
def test_curves_are_those_that_were_kept(case, tmp_path):
    golden = json.loads(GOLDEN.read_text())[case]
    found = curves(tmp_path, case)
    # Other processors sum in another order, and 50 steps carry that on: rounding, not a change of method.
    assert found["loss"] == pytest.approx(golden["loss"], rel=1e-3)
    assert found["gradient_norm"] == pytest.approx(golden["gradient_norm"], rel=1e-2)
    assert golden["loss"][-1] < golden["loss"][0]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        document = {case: curves(Path(folder) / case, case) for case in CASES}
    GOLDEN.write_text(json.dumps(document, indent=1) + "\n")
