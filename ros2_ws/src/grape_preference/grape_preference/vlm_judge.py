"""A vision-language model's yes or no on the last frames of an episode, as a second opinion for the judge."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from grape_preference.vlm import VlmError
from grape_preference.vlm_client import VlmClient
from grape_preference.vlm_prompts import success_question

_LOG = logging.getLogger(__name__)
_ANSWERS = {"yes": True, "no": False, "unsure": None}


class VlmJudge:
    """A ``judge.VisualJudge``: True, False, or None when the model is unsure or gave no usable answer."""

    def __init__(self, client: VlmClient) -> None:
        self._client = client

    def __call__(self, instruction: str, images: Sequence[np.ndarray]) -> bool | None:
        """Judge the last images, RGB uint8 (H, W, 3) in order of time; a failure is logged and gives None."""
        try:
            return self._client.ask(success_question(instruction, images), _read)
        except VlmError as error:
            _LOG.warning("the model did not judge %r: %s", instruction, error)
            return None


def _read(document: Any) -> bool | None:
    return _ANSWERS[document["success"]]
