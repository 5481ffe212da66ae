"""Speed of inference, image in to action out, against the library's ``generate()`` on the same weights."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from grape_policy.vla.config import ACTION_DIMENSIONS
from grape_policy.vla.inference import ActionBatch, VlaPolicy

INSTRUCTION = "put the carrot on the plate"


def measure_inference(policy: VlaPolicy, runs: int = 100, batch: int = 16) -> dict[str, float]:
    """Return milliseconds per action (percentiles), tokens per second, peak memory in MB and the speed-up.

    ``cpu_ms`` is the processor time of one action: it stays the same when other programs use the machine.
    """
    image = np.random.default_rng(0).integers(0, 256, (1, 240, 320, 3), dtype=np.uint8)
    policy.warm_up()
    (ours, cpu), (library, library_cpu) = _times_in_turn(
        [lambda: policy.act(image, [INSTRUCTION]), lambda: generate_action(policy, image)], runs
    )
    images = np.repeat(image, batch, axis=0)
    [(batched, _)] = _times_in_turn([lambda: policy.act(images, [INSTRUCTION] * batch)], max(3, runs // 20))
    p50, p95, p99 = (float(value) for value in np.percentile(ours, [50, 95, 99]))
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "cpu_ms": float(np.median(cpu)),
        "tokens_per_s": ACTION_DIMENSIONS * 1e3 / p50,
        "batched_images_per_s": batch * 1e3 / float(np.median(batched)),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "speedup_vs_generate": float(np.median(library)) / p50,
        "cpu_speedup_vs_generate": float(np.median(library_cpu) / np.median(cpu)),
    }


def _times_in_turn(
    actions: Sequence[Callable[[], object]], runs: int
) -> list[tuple[list[float], list[float]]]:
    """Return wall and processor milliseconds of every run of each action, after one that does not count."""
    for action in actions:
        action()
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in actions]
    for _ in range(runs):
        for action, (wall, cpu) in zip(actions, times, strict=True):
            started, used = time.perf_counter(), time.process_time()
            action()
            wall.append((time.perf_counter() - started) * 1e3)
            cpu.append((time.process_time() - used) * 1e3)
    return times


@torch.inference_mode()
def generate_action(policy: VlaPolicy, image: np.ndarray) -> ActionBatch:
    """Do all that ``act`` does with the library's ``generate()``: tokens, their log-probabilities, action."""
    started = time.perf_counter()
    model = policy.checkpoint.model
    weight = model.projector.fc1.weight
    pixels = policy.checkpoint.preprocessor(image).to(weight.device, weight.dtype)
    ids = torch.tensor(policy.prompt_ids([INSTRUCTION]), device=weight.device)
    embedded = model.embed(ids, model.project(model.patch_features(pixels)))
    library: Any = model.language_model  # the annotation of generate() excludes the class it is a method of
    generated = library.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long, device=weight.device),
        max_new_tokens=ACTION_DIMENSIONS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=model.config.text.pad_token_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens: torch.Tensor = generated.sequences
    logits = torch.stack(generated.logits, dim=1).float()
    scores = logits.log_softmax(dim=-1).gather(2, tokens[:, :, None])[:, :, 0]
    return policy.batch(tokens, scores, started)
