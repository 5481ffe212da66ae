"""A vision-language model in this process: any image-text-to-text checkpoint folder of ``transformers``.

Only safetensors and JSON are read; code that a checkpoint carries never runs, and nothing is downloaded. The
model is held to the answer's schema while it generates.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from llguidance.hf import from_tokenizer
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from grape_preference.local_models import SAFE, load_model
from grape_preference.schema_guide import SchemaGuide
from grape_preference.vlm import Budget, Question, Reply, VlmError
from grape_preference.vlm_json import shorten


class LocalModel:
    """A checkpoint folder, loaded once; see VlmModel. Decoding is greedy, so answers repeat."""

    def __init__(
        self,
        folder: Path | str,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        *,
        timeout: float = 600.0,
        max_answer_tokens: int = 2048,
    ) -> None:
        """Load the model.

        Args:
            folder: with config.json, model.safetensors (or shards), tokenizer.json and processor files.
            device: of torch.
            dtype: of the weights; None: as the checkpoint says.
            timeout: seconds for one answer.
            max_answer_tokens: what one answer may take.

        Raises:
            ValueError: the folder is missing, has no chat template, is no image-text-to-text model, or needs
                code of its own.
        """
        model = load_model(AutoModelForImageTextToText, folder, dtype or "auto")
        folder = Path(folder)
        self.name, self.place = folder.resolve().name, str(folder)
        self.timeout, self.max_answer_tokens = timeout, max_answer_tokens
        try:
            self._processor: Any = AutoProcessor.from_pretrained(folder, **SAFE)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ValueError(f"{folder}: its processor cannot be loaded ({shorten(str(error))})") from error
        if not getattr(self._processor, "chat_template", None):
            raise ValueError(f"{folder}: has no chat template; take an instruction-tuned checkpoint")
        self._model = model.to(device)
        tokenizer: Any = getattr(self._processor, "tokenizer", None)
        try:
            self._tokenizer = from_tokenizer(
                tokenizer, len(tokenizer), self._model.generation_config.eos_token_id
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"{folder}: its tokenizer cannot be used ({shorten(str(error))})") from error

    def scrub(self, text: str) -> str:
        """Return ``text``: a local model is called without secrets."""
        return text

    def complete(self, question: Question, budget: Budget, attempts: list[dict[str, Any]]) -> Reply:
        """Generate an answer; see VlmModel."""
        budget.take_request()
        started = time.monotonic()
        inputs = self._inputs(question).to(self._model.device, dtype=self._model.dtype)
        limit = max(min(self.max_answer_tokens, budget.tokens_left), 1)
        guide = SchemaGuide(self._tokenizer, question.schema)
        with torch.inference_mode():
            output = self._model.generate(
                **inputs,
                max_new_tokens=limit,
                max_time=self.timeout,
                do_sample=False,
                logits_processor=[guide],
            )[0]
        generated = output[inputs["input_ids"].shape[1] :]
        budget.add_tokens(len(output))
        seconds = time.monotonic() - started
        attempts.append({"status": None, "error": None, "seconds": round(seconds, 3)})
        text = str(self._processor.decode(generated, skip_special_tokens=True))
        if seconds >= self.timeout:
            what = f"{self.place} gave no whole answer within {self.timeout:g} s"
            raise VlmError("timeout", what, "Allow more with --vlm-timeout, or take a smaller model", text)
        return Reply(text, len(output))

    def _inputs(self, question: Question) -> Any:
        images = [{"type": "image", "image": Image.fromarray(image)} for image in question.images]
        # One turn: not every template knows a system role.
        text = f"{question.system}\n\n{question.prompt}"
        turn = {"role": "user", "content": [*images, {"type": "text", "text": text}]}
        return self._processor.apply_chat_template(
            [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
