"""What the model is asked: action prompts, grounding questions, and the tokenizer's corpus."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from grape_policy.vla.tokenizer import VlaTokenizer, train_tokenizer
from grape_sim.tasks import TASKS

from grape_training.frames import OBJECTS

Kind = Literal["action", "grounding"]
_GROUNDING = "In: where should the gripper go to {instruction}?\nOut:"


def wordings(task: str) -> tuple[str, ...]:
    """Return all instructions of a task, the default one first."""
    return TASKS[task].instructions


def small_tokenizer() -> VlaTokenizer:
    """Train the tokenizer of the small model on every wording; unknown words fall apart into letters."""
    texts = [text for task in TASKS for text in wordings(task)]
    return train_tokenizer([*texts, *["where should the gripper go"] * 2])


class PromptBook:
    """Token ids of all prompts that training asks, tokenised once."""

    def __init__(self, tokenizer: VlaTokenizer) -> None:
        self._tokenizer = tokenizer
        self.ids = cache(self._ids)
        self.name_ids = np.array([self._name_id(name) for name in OBJECTS])

    def _name_id(self, name: str) -> int:
        """Return the token that names an object: its colour if it has one (``green_cube``), else the noun."""
        ids = self._tokenizer.tokenizer.encode(f"the {name.split('_')[0]}", add_special_tokens=False).ids
        return int(ids[1])

    def _ids(self, kind: Kind, text: str) -> tuple[int, ...]:
        """Return the prompt of instruction ``text``: BOS first, the lone-space token last."""
        if kind == "action":
            return tuple(self._tokenizer.prompt_ids(text))
        question = _GROUNDING.format_map({"instruction": text.lower()})
        inner = self._tokenizer.tokenizer.encode(question, add_special_tokens=False).ids
        return (self._tokenizer.bos_id, *inner, self._tokenizer.empty_id)
