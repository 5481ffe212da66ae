"""What a vision-language model is asked and answers, independent of where it runs.

Two things run models: a server that speaks the OpenAI chat protocol (``vlm_http``) and a local
``transformers`` checkpoint (``vlm_local``). ``vlm_client`` puts cache, budget, audit and validation in front
of either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import cv2
import numpy as np

Reason = Literal["unreachable", "timeout", "refused", "too_large", "invalid_answer", "budget"]
MAX_IMAGES = 8


class VlmError(RuntimeError):
    """A model gave no usable answer.

    Attributes:
        reason: ``unreachable`` (no connection, or it broke), ``timeout``, ``refused`` (the server said no),
            ``too_large``, ``invalid_answer`` (not what was asked for) or ``budget`` (spent).
        remedy: what to do about it.
        raw: what came back so far, for the audit.
    """

    def __init__(self, reason: Reason, what: str, remedy: str = "", raw: str = "") -> None:
        super().__init__(f"{what}. {remedy}" if remedy else what)
        self.reason: Reason = reason
        self.remedy = remedy
        self.raw = raw


@dataclass(frozen=True)
class Question:
    """One question to a model, answered by JSON.

    Attributes:
        kind: what it is about, one word, for the audit folder's name.
        system: the standing orders.
        prompt: the question itself.
        images: RGB uint8 (H, W, 3), shown in this order.
        schema: JSON schema (draft 2020-12) of the answer.
    """

    kind: str
    system: str
    prompt: str
    images: tuple[np.ndarray, ...]
    schema: dict[str, Any]

    def __post_init__(self) -> None:
        if len(self.images) > MAX_IMAGES:
            raise ValueError(f"{len(self.images)} images in one question; at most {MAX_IMAGES} are sent")
        for image in self.images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"an image is uint8 (H, W, 3), not {image.dtype} {image.shape}")

    def png_images(self) -> list[bytes]:
        """Return the images as PNG files."""
        return [
            cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes() for image in self.images
        ]


@dataclass(frozen=True)
class Reply:
    """What a model said: its text, and the tokens that question and answer took together."""

    text: str
    tokens: int


@dataclass
class Budget:
    """What one run may spend; every request counts, also one that is tried again."""

    max_requests: int = 20
    max_tokens: int = 200_000
    requests: int = field(default=0, init=False)
    tokens: int = field(default=0, init=False)

    def take_request(self) -> None:
        """Count one request; raise VlmError ("budget") when requests or tokens are spent."""
        spent = None
        if self.requests >= self.max_requests:
            spent = f"{self.max_requests} requests"
        elif self.tokens >= self.max_tokens:
            spent = f"{self.max_tokens} tokens"
        if spent is not None:
            what = f"the run's budget of {spent} for the vision-language model is spent; nothing was sent"
            raise VlmError("budget", what, "Raise it with --vlm-max-requests or --vlm-max-tokens")
        self.requests += 1

    def add_tokens(self, tokens: int) -> None:
        """Count the tokens of an answered request."""
        self.tokens += max(tokens, 0)

    @property
    def tokens_left(self) -> int:
        """Tokens that may still be spent."""
        return max(self.max_tokens - self.tokens, 0)


class VlmModel(Protocol):
    """A model that can be asked. ``name`` and ``place`` (a URL or a folder) identify it."""

    name: str
    place: str

    def complete(self, question: Question, budget: Budget, attempts: list[dict[str, Any]]) -> Reply:
        """Answer, appending one entry per attempt to ``attempts``; raise VlmError when there is no answer.

        The reply's text carries no secrets.
        """
        ...

    def scrub(self, text: str) -> str:
        """Return ``text`` without the secrets that the model was called with."""
        ...
