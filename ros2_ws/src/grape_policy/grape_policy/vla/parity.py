"""Numerical parity with OpenVLA's original implementation on a fixture of its outputs.

A fixture holds outputs only: weights and inputs follow a formula of the tensor's place in the sorted names.

Two correct float32 implementations differ by rounding: processors add up in different orders, and over ten
random fixtures the largest difference between two kernel sets of one processor was 6e-6 to 1.0e-5. So a
float32 difference above the tolerance is judged again in float64, where only the original's rounding is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from grape_policy.vla.actions import ActionTokenizer
from grape_policy.vla.config import TextConfig, TowerConfig, VlaConfig
from grape_policy.vla.decoder import ActionDecoder
from grape_policy.vla.model import OpenVla
from grape_policy.vla.statistics import ActionStatistics
from grape_policy.vla.weight_files import unused_tensor

TOLERANCE = 1e-5
EMPTY_TOKEN = 29871
BRIDGE = ActionStatistics(
    np.array([-0.03, -0.04, -0.03, -0.08, -0.09, -0.2, 0.0]),
    np.array([0.03, 0.04, 0.04, 0.08, 0.08, 0.2, 1.0]),
    np.array([True] * 6 + [False]),
)


def fixture_config() -> VlaConfig:
    """Return the sizes of the model the fixtures were made with."""
    dino = TowerConfig(32, 8, 48, 4, 4, 192, register_tokens=4, class_token=True, layer_scale=True)
    siglip = TowerConfig(32, 8, 40, 3, 4, int(40 * 3.7362))
    text = TextConfig(hidden_size=64, intermediate_size=172, num_hidden_layers=3, num_attention_heads=4)
    return VlaConfig((dino, siglip), text, name="parity")


def uniform(count: int, k: int) -> NDArray[np.float64]:
    """Return the fixture's pseudo-random numbers in [0, 1): frac(sin(12.9898 i + 78.233 k) * 43758.5453)."""
    values = np.sin(12.9898 * np.arange(count) + 78.233 * k) * 43758.5453
    return values - np.floor(values)


def weight(name: str, shape: tuple[int, ...], k: int) -> torch.Tensor:
    """Return the fixture's float32 weight called ``name`` with tensor index ``k``."""
    v = (2.0 * uniform(int(np.prod(shape)), k) - 1.0).reshape(shape)
    if any(part in name for part in ("embed_tokens", "pos_embed", "token")):
        v = v * 1.2
    elif len(shape) >= 2:
        v = v * 1.7 / np.sqrt(v[0].size)
    elif "scale_factor" in name:
        v = 0.85 + 0.65 * v
    else:
        v = 1.0 + 0.5 * v if name.endswith("weight") else 0.15 * v
    if name == "language_model.lm_head.weight":
        v = v * 3.0
        v[:31744] *= 0.2
        v[32000:] *= 0.2
    return torch.from_numpy(v.astype(np.float32))


def parity_model(keys: list[str], weight_phase: int = 0) -> OpenVla:
    """Build the fixture's model; the place in ``keys``, the sorted names, gives each tensor its numbers.

    Raises:
        ValueError: the names are not those of this model.
    """
    config = fixture_config()
    model = OpenVla(config).eval()
    own = model.state_dict()
    unknown = [key for key in keys if key not in own and not unused_tensor(config, key)]
    if unknown or not set(own) <= set(keys):
        raise ValueError(
            f"fixture of another model: unknown {unknown}, missing {sorted(set(own) - set(keys))}"
        )
    for index, key in enumerate(keys):
        if key in own:
            own[key].copy_(weight(key, tuple(own[key].shape), index + weight_phase))
    return model


@dataclass(frozen=True)
class Phases:
    """Offsets of the formula: added to a tensor's index, and in place of 1000 (pixels) and 2000 (tokens)."""

    weight: int = 0
    pixel: int = 1000
    token: int = 2000


@dataclass(frozen=True)
class ParityResult:
    """Largest absolute difference per quantity, in float32 and, where that was not enough, in float64."""

    float32: dict[str, float]
    float64: dict[str, float] | None = None

    @property
    def largest(self) -> float:
        """The difference that is judged: the float64 one where there is one."""
        return max((self.float64 or self.float32).values())

    @property
    def passed(self) -> bool:
        """Whether every value agrees to the tolerance."""
        return self.largest <= TOLERANCE


@torch.no_grad()
def case_outputs(
    model: OpenVla, prompt: list[int], index: int, phases: Phases | None = None
) -> dict[str, NDArray[Any]]:
    """Return every quantity of the fixture's case ``index``, computed by this implementation.

    One forward over the whole sequence gives all logits, as in the original: other shapes round differently.
    """
    phases = phases or Phases()
    dtype = model.projector.fc1.weight.dtype
    values = 3.4 * uniform(6 * 32 * 32, phases.pixel + index) - 1.7
    pixels = torch.from_numpy(values).float().reshape(1, 6, 32, 32).to(dtype)
    forced = 31744 + np.floor(256 * uniform(7, phases.token + index)).astype(np.int64)[None]
    tokens = torch.from_numpy(np.concatenate([forced, [[model.config.text.eos_token_id]]], axis=1))
    features = model.patch_features(pixels)
    projected = model.project(features)
    embedded = model.embed(torch.cat([torch.tensor([prompt]), tokens], dim=1), projected)
    logits = model.language_model(inputs_embeds=embedded, use_cache=False).logits[:, -9:-1]
    log_probabilities = logits.log_softmax(-1).gather(2, tokens[..., None]).squeeze(2)
    ids = model.config.action_ids
    greedy = ActionDecoder(model).decode(pixels, [prompt])[0].numpy()
    return {
        "action_logprobs": log_probabilities.numpy(),
        "action_bin_logits": logits[0, :, ids.start : ids.stop].numpy(),
        "loss": -log_probabilities.mean().numpy(),
        "patch_features": features.numpy(),
        "projected_features": projected.numpy(),
        "greedy_tokens": greedy,
        "greedy_action": BRIDGE.unnormalise(ActionTokenizer(model.config).decode(greedy[0])),
        "forced_tokens": forced,
    }


def check_parity(path: Path, phases: Phases | None = None) -> ParityResult:
    """Return the largest absolute difference per quantity between this implementation and a fixture.

    Raises:
        ValueError: the file is no such fixture.
    """
    phases = phases or Phases()
    data = read_fixture(path)
    model = parity_model([str(key) for key in data["keys"]], phases.weight)
    result = ParityResult(_differences(model, data, path, phases))
    if result.passed:
        return result
    return ParityResult(result.float32, _differences(model.double(), data, path, phases))


def read_fixture(path: Path) -> dict[str, NDArray[Any]]:
    """Read a fixture's arrays.

    Raises:
        ValueError: the file is no fixture.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            data = dict(file)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (BadZipFile, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no parity fixture (an .npz archive of arrays)") from error
    if not {"keys", "prompt_ids", "0.action_logprobs"} <= set(data):
        raise ValueError(f"{path} is no parity fixture: it has no 'keys', 'prompt_ids' and cases")
    return data


def _differences(
    model: OpenVla, data: dict[str, NDArray[Any]], path: Path, phases: Phases
) -> dict[str, float]:
    prompt = [*map(int, data["prompt_ids"][0]), EMPTY_TOKEN]
    worst: dict[str, float] = {}
    for case in sorted({int(name.split(".")[0]) for name in data if name.split(".")[0].isdigit()}):
        for name, value in case_outputs(model, prompt, case, phases).items():
            if f"{case}.{name}" not in data:
                raise ValueError(f"{path}: the fixture lacks {case}.{name}")
            worst[name] = max(worst.get(name, 0.0), _difference(value, data[f"{case}.{name}"]))
    return worst


def _difference(value: NDArray[Any], reference: NDArray[Any]) -> float:
    if value.shape != reference.shape:
        return float("inf")
    difference = np.abs(value.astype(np.float64) - reference.astype(np.float64)).max()
    return float(difference) if np.isfinite(difference) else float("inf")
