"""Inference and scoring: same numbers alone, in a batch, with a cache and in training."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from grape_policy.vla import products, vision
from grape_policy.vla.decoder import ActionDecoder
from grape_policy.vla.inference import VlaPolicy
from grape_policy.vla.loop import PolicyLoop, PolicyStep, PolicyTask, Timing
from grape_policy.vla.model import OpenVla
from grape_policy.vla.preprocess import Preprocessor
from grape_policy.vla.scoring import action_log_probabilities
from torch import Tensor
from vla_factory import INSTRUCTIONS, STATISTICS, random_images, tiny_checkpoint, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROMPTS = [TOKENIZER.prompt_ids(INSTRUCTIONS[i % 3]) for i in range(6)]
PIXELS = Preprocessor(32)(random_images(6))


@pytest.fixture(scope="module", params=["patch", "convolution"])
def model(request: pytest.FixtureRequest) -> OpenVla:
    return tiny_model(TOKENIZER, stem=request.param)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vla") / "tiny"
    tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def policy(checkpoint: Path) -> VlaPolicy:
    return VlaPolicy.from_checkpoint(checkpoint)


def test_prompts_have_different_lengths() -> None:
    assert len({len(prompt) for prompt in PROMPTS}) == 3


def test_a_batch_scores_as_its_rows_alone(model: OpenVla) -> None:
    tokens = torch.randint(model.config.action_ids.start, model.config.vocabulary, (6, 7))
    together = action_log_probabilities(model, PIXELS, PROMPTS, tokens)
    alone = [
        action_log_probabilities(model, PIXELS[i : i + 1], [PROMPTS[i]], tokens[i : i + 1]) for i in range(6)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_log_probabilities_are_those_of_the_full_sequence(model: OpenVla) -> None:
    tokens = torch.randint(model.config.action_ids.start, model.config.vocabulary, (1, 7))
    ids = torch.cat([torch.tensor([PROMPTS[0]]), tokens], dim=1)
    embedded = model.embed(ids, model.project(model.patch_features(PIXELS[:1])))
    logits = model.language_model(inputs_embeds=embedded).logits[0, -8:-1].log_softmax(-1)
    expected = logits.gather(1, tokens[0][:, None])[:, 0]
    actual = action_log_probabilities(model, PIXELS[:1], PROMPTS[:1], tokens)[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_decoding_agrees_with_scoring_and_with_each_row_alone(model: OpenVla) -> None:
    decoder = ActionDecoder(model)
    tokens, scores = decoder.decode(PIXELS, PROMPTS)
    with torch.no_grad():
        torch.testing.assert_close(
            scores, action_log_probabilities(model, PIXELS, PROMPTS, tokens), rtol=0, atol=1e-4
        )
    for row in range(6):
        alone, score = decoder.decode(PIXELS[row : row + 1], [PROMPTS[row]])
        assert torch.equal(alone[0], tokens[row])
        torch.testing.assert_close(score[0], scores[row], rtol=0, atol=1e-5)


def test_greedy_tokens_are_the_best_action_tokens_step_by_step(model: OpenVla) -> None:
    tokens, _ = ActionDecoder(model).decode(PIXELS[:1], PROMPTS[:1])
    with torch.no_grad():
        logits = model(PIXELS[:1], PROMPTS[:1], tokens).logits[0]
    ids = model.config.action_ids
    assert (logits[:, ids.start : ids.stop].argmax(-1) + ids.start).tolist() == tokens[0].tolist()
    assert len(set(tokens[0].tolist())) > 1


def test_sampling_follows_the_action_distribution() -> None:
    model = tiny_model(TOKENIZER)
    decoder, ids = ActionDecoder(model), model.config.action_ids
    generator = torch.Generator().manual_seed(0)
    pixels = PIXELS[:1].expand(400, -1, -1, -1)
    temperature = 0.4
    tokens, _ = decoder.decode(pixels, PROMPTS[:1] * 400, temperature, generator, steps=1)
    assert int(tokens.min()) >= ids.start
    assert int(tokens.max()) < ids.stop
    with torch.no_grad():
        logits = model(PIXELS[:1], PROMPTS[:1], tokens[:1]).logits[0, 0, ids.start : ids.stop]
    expected = torch.softmax(logits / temperature, -1).double()
    counted = torch.bincount(tokens[:, 0] - ids.start, minlength=256).double() / 400
    by_chance = 0.8 * torch.sqrt(expected * (1 - expected) / 400).sum()  # mean absolute error of 400 samples
    assert float((counted - expected).abs().sum()) < 1.4 * float(by_chance)


def test_seeds_reproduce_samples(policy: VlaPolicy) -> None:
    def sample(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return policy.act(random_images(2), ["put it in"] * 2, 1.0, generator).token_ids.tolist()

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_actions_are_in_units_and_in_range(policy: VlaPolicy) -> None:
    batch = policy.act(random_images(6), list(INSTRUCTIONS) * 2, 1.5, torch.Generator().manual_seed(0))
    assert batch.actions.shape == (6, 7)
    assert batch.actions.dtype == np.float64
    assert (batch.actions[:, :6] >= STATISTICS.q01[:6]).all()
    assert (batch.actions[:, :6] <= STATISTICS.q99[:6]).all()
    assert ((batch.actions[:, 6] >= 0) & (batch.actions[:, 6] <= 1)).all()
    assert (batch.log_probabilities < 0).all()


def test_the_image_is_seen_once_per_action(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, stem = [], vision._Stem.__call__

    def counted(self: vision._Stem, pixels: Tensor) -> Tensor:
        calls.append(self)
        return stem(self, pixels)

    monkeypatch.setattr(vision._Stem, "__call__", counted)
    VlaPolicy.from_checkpoint(checkpoint).act(random_images(1), ["put it in"])
    assert len(calls) == len(set(calls)) == 2  # one per tower


@pytest.mark.parametrize("rows", [1, 6])
def test_folded_and_shared_weights_give_the_same_numbers(
    model: OpenVla, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded = ActionDecoder(model)
    with torch.no_grad():
        expected = model.project(model.patch_features(PIXELS[:rows]))
        torch.testing.assert_close(folded.vision(PIXELS[:rows]), expected, rtol=0, atol=1e-5)
    monkeypatch.setattr(products, "LARGEST_FOLDED", 0)
    shared = ActionDecoder(model)
    assert folded.single is not None
    assert shared.single is None
    assert shared.vision == shared._modules
    results = [decoder.decode(PIXELS[:rows], PROMPTS[:rows]) for decoder in (folded, shared)]
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-5)


def test_only_plain_small_float32_layers_are_folded(model: OpenVla) -> None:
    assert products.foldable([model])
    assert not products.foldable([torch.nn.Linear(2, 2).bfloat16()])
    assert not products.foldable([torch.nn.Linear(1024, 512, device="meta")])
    adapted = peft.get_peft_model(tiny_model(TOKENIZER), peft.LoraConfig(target_modules=["fc1"]))
    assert not products.foldable([adapted])


def test_bad_input_is_refused(policy: VlaPolicy) -> None:
    with pytest.raises(ValueError, match="1 images for 2"):
        policy.act(random_images(1), ["a", "b"])
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature"):
            policy.act(random_images(1), ["put it in"], temperature)


def test_numbers_that_are_not_finite_raise(model: OpenVla) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        ActionDecoder(model).decode(torch.full_like(PIXELS[:1], float("nan")), PROMPTS[:1])


def test_an_adapter_must_be_merged_before_decoding() -> None:
    model = peft.get_peft_model(tiny_model(TOKENIZER), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(TypeError, match="merge"):
        ActionDecoder(model.get_base_model())


def test_gradients_reach_every_adapter() -> None:
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "qkv", "proj"]
    )
    model = peft.get_peft_model(tiny_model(TOKENIZER), config)
    tokens = torch.randint(model.config.action_ids.start, model.config.vocabulary, (6, 7))
    action_log_probabilities(model, PIXELS, PROMPTS, tokens).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if "lora_B" in name}
    assert len(gradients) > 20
    assert all(gradient is not None and float(gradient.abs().sum()) > 0 for gradient in gradients.values())


TASK = PolicyTask("e", "put it in", 0.0, 0, 0)


class Stage:
    """A loop with a camera at 50 Hz and everything it published."""

    def __init__(self, policy: VlaPolicy, **timing: float) -> None:
        self.steps: list[PolicyStep] = []
        self.warnings: list[str] = []
        self.offered: list[int] = []
        settings = Timing(**{"period": 0.05, "motion": 0.02, "image_timeout": 0.2, "deadline": 5.0, **timing})
        self.loop = PolicyLoop(policy, self.steps.append, self.warnings.append, time.time_ns, settings)
        self.image = random_images(1)[0]

    def film(self, seconds: float, age: float = 0.0) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stamp = time.time_ns() - int(age * 1e9)
            self.offered.append(stamp)
            self.loop.offer_image(stamp, self.image)
            time.sleep(0.02)

    def film_until(self, count: int) -> None:
        end = time.monotonic() + 20
        while len(self.steps) < count and time.monotonic() < end:
            self.film(0.02)
        assert len(self.steps) >= count


@pytest.fixture
def stage(policy: VlaPolicy) -> Iterator[Stage]:
    stage = Stage(policy)
    yield stage
    stage.loop.close()


def test_the_loop_acts_on_new_images_only_until_stopped(stage: Stage) -> None:
    stage.film(0.1)
    assert stage.steps == []
    seen = len(stage.offered)
    stage.loop.start_task(TASK)
    stage.film_until(4)
    stage.loop.stop_task()
    count = len(stage.steps)
    stage.film(0.2)
    assert len(stage.steps) == count
    stamps = [step.observation_stamp_ns for step in stage.steps]
    assert set(stamps) <= set(stage.offered[seen:])
    assert all(later - earlier >= 0.02e9 for earlier, later in pairwise(stamps))


def test_the_loop_ends_after_max_steps(stage: Stage) -> None:
    stage.loop.start_task(PolicyTask("e", "put it in", 1.0, 0, 3))
    stage.film_until(3)
    stage.film(0.3)
    assert [step.step for step in stage.steps] == [0, 1, 2]


def test_stale_images_give_a_warning_and_no_action(stage: Stage) -> None:
    stage.loop.start_task(TASK)
    stage.film(0.5, age=0.3)
    assert stage.steps == []
    assert "no usable image" in stage.warnings[0]


def test_a_missed_deadline_is_reported(policy: VlaPolicy) -> None:
    stage = Stage(policy, deadline=1e-6)
    stage.loop.start_task(TASK)
    stage.film_until(1)
    stage.loop.close()
    assert stage.loop.missed_deadlines >= 1
    assert "ms, over" in stage.warnings[0]


def test_loading_changes_the_version_between_two_actions(stage: Stage, tmp_path: Path) -> None:
    old, new = stage.loop.version, tiny_checkpoint(tmp_path / "new", seed=1)
    stage.loop.start_task(TASK)
    stage.film_until(1)
    loading = threading.Thread(target=stage.loop.load, args=(tmp_path / "new",))
    loading.start()
    while loading.is_alive():
        stage.film(0.02)
    stage.film_until(len(stage.steps) + 2)
    versions = [step.version for step in stage.steps]
    assert (versions[0], versions[-1]) == (old, new)
    assert versions == sorted(versions, key=[old, new].index)


def test_a_policy_that_fails_on_the_latest_image_is_not_taken(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = stage.loop.version
    tiny_checkpoint(tmp_path / "new", seed=1)

    def fail(*_: object, **__: object) -> None:
        raise FloatingPointError("the model gave logits that are not finite")

    monkeypatch.setattr(VlaPolicy, "act", fail)
    with pytest.raises(ValueError, match="failed on an observation"):
        stage.loop.load(tmp_path / "new")
    assert stage.loop.version == old


def test_a_policy_that_fails_on_an_earlier_observation_is_not_taken(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, seen, act = stage.loop.version, stage.image, VlaPolicy.act
    tiny_checkpoint(tmp_path / "new", seed=1)
    stage.loop.start_task(TASK)
    stage.film_until(1)
    stage.loop.stop_task()
    stage.image = np.zeros_like(seen)
    stage.film(0.04)

    def fail_on_seen(policy: VlaPolicy, images: np.ndarray, *rest: object) -> object:
        if (images[0] == seen).all():
            raise FloatingPointError("the model gave logits that are not finite")
        return act(policy, images, *rest)

    monkeypatch.setattr(VlaPolicy, "act", fail_on_seen)
    with pytest.raises(ValueError, match="failed on an observation"):
        stage.loop.load(tmp_path / "new")
    assert stage.loop.version == old


def test_the_benchmark_decodes_what_the_policy_decodes(policy: VlaPolicy) -> None:
    from grape_policy.vla.benchmark import INSTRUCTION, generate_action, measure_inference

    image = random_images(1)
    ids = policy.checkpoint.config.action_ids
    generated = generate_action(policy, image).token_ids[0].tolist()
    if all(token in ids for token in generated):  # `generate` may also emit text
        assert generated == policy.act(image, [INSTRUCTION]).token_ids[0].tolist()
    measured = measure_inference(policy, runs=5, batch=2)
    assert 0 < measured["p50_ms"] <= measured["p95_ms"] <= measured["p99_ms"]
    assert measured["peak_mb"] > 50
