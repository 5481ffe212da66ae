"""The model gives the numbers of OpenVLA's original implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from grape_policy.vla.decoder import ActionDecoder
from grape_policy.vla.parity import (
    EMPTY_TOKEN,
    TOLERANCE,
    Phases,
    case_outputs,
    check_parity,
    parity_model,
    read_fixture,
    uniform,
)
from grape_policy.vla.scoring import action_log_probabilities

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
    result = check_parity(FIXTURE)
    assert set(result.float32) == QUANTITIES
    assert result.float64 is None, result
    assert result.passed
    assert result.largest <= TOLERANCE


@torch.no_grad()
def test_training_and_inference_give_the_same_values() -> None:
    """The forward of training, which computes logits of action tokens only, and the cached decoder."""
    data = read_fixture(FIXTURE)
    model = parity_model([str(key) for key in data["keys"]])
    prompt = [*map(int, data["prompt_ids"][0]), EMPTY_TOKEN]
    pixels = torch.from_numpy(3.4 * uniform(6 * 32 * 32, 1001) - 1.7).float().reshape(1, 6, 32, 32)
    tokens = torch.from_numpy(np.concatenate([data["1.forced_tokens"], [[2]]], axis=1))
    scores = action_log_probabilities(model, pixels, [prompt], tokens)
    np.testing.assert_allclose(scores.numpy(), data["1.action_logprobs"], rtol=0, atol=TOLERANCE)
    greedy, _ = ActionDecoder(model).decode(pixels, [prompt])
    np.testing.assert_array_equal(greedy.numpy(), data["1.greedy_tokens"])


def own_fixture(path: Path, phases: Phases, scale: float = 1.0) -> Path:
    """Write a fixture of another correct implementation: computed in float64, kept in float32."""
    data = read_fixture(FIXTURE)
    model = parity_model([str(key) for key in data["keys"]], phases.weight).double()
    prompt = [*map(int, data["prompt_ids"][0]), EMPTY_TOKEN]
    arrays = {"keys": data["keys"], "prompt_ids": data["prompt_ids"]}
    for case in range(3):
        for name, value in case_outputs(model, prompt, case, phases).items():
            kept = value.astype(np.float32) if value.dtype == np.float64 else value
            arrays[f"{case}.{name}"] = value if name == "greedy_action" else kept
    arrays["0.action_bin_logits"] = arrays["0.action_bin_logits"] * np.float32(scale)
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("seed", [0, 1])
def test_fixtures_with_other_phases(tmp_path: Path, seed: int) -> None:
    phases = Phases(*(int(n) for n in np.random.default_rng(seed).integers(0, 9000, 3)))
    path = own_fixture(tmp_path / "other.npz", phases)
    assert check_parity(path, phases).passed
    assert not check_parity(path, Phases(phases.weight + 1, phases.pixel, phases.token)).passed


def test_a_difference_beyond_rounding_fails_in_float64_too(tmp_path: Path) -> None:
    phases = Phases(11, 1200, 2300)
    result = check_parity(own_fixture(tmp_path / "off.npz", phases, scale=1.00001), phases)
    assert not result.passed
    assert result.float64 is not None
    assert result.float64["patch_features"] < 1e-6 < result.float32["patch_features"]


@pytest.mark.parametrize("phase", ["weight", "pixel", "token"])
def test_other_phases_give_other_numbers(phase: str) -> None:
    assert check_parity(FIXTURE, Phases(**{phase: 7})).largest > 0.01


def test_a_changed_value_is_found(tmp_path: Path) -> None:
    with np.load(FIXTURE) as data:
        arrays = dict(data)
    arrays["1.action_logprobs"] = arrays["1.action_logprobs"] + np.float32(3e-5)
    changed = tmp_path / "changed.npz"
    np.savez(changed, **arrays)
    differences = check_parity(changed).float32
    assert differences["action_logprobs"] > TOLERANCE
    assert differences["patch_features"] <= TOLERANCE


def test_another_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(ValueError, match="no parity fixture"):
            check_parity(tmp_path / name)
