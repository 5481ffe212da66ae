"""The model gives the numbers of OpenVLA's original implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from grape_policy.vla.parity import TOLERANCE, check_parity

FIXTURE = Path(__file__).parents[1] / "data" / "openvla_parity.npz"
QUANTITIES = {
    "action_logprobs",
    "action_bin_logits",
    "loss",
    "patch_features",
    "projected_features",
    "greedy_tokens",
    "greedy_action",
    "forced_tokens",
}


def test_every_value_of_the_fixture() -> None:
    differences = check_parity(FIXTURE)
    assert set(differences) == QUANTITIES
    assert max(differences.values()) <= TOLERANCE, differences


@pytest.mark.parametrize("phase", ["weight_phase", "pixel_phase", "token_phase"])
def test_other_phases_give_other_numbers(phase: str) -> None:
    differences = check_parity(FIXTURE, **{phase: 7})
    assert max(differences.values()) > 0.01


def test_a_changed_value_is_found(tmp_path: Path) -> None:
    with np.load(FIXTURE) as data:
        arrays = dict(data)
    arrays["1.action_logprobs"] = arrays["1.action_logprobs"] + np.float32(3e-5)
    changed = tmp_path / "changed.npz"
    np.savez(changed, **arrays)
    differences = check_parity(changed)
    assert differences["action_logprobs"] > TOLERANCE
    assert differences["patch_features"] <= TOLERANCE


def test_another_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="no parity fixture"):
        check_parity(tmp_path / "other.npz")
