"""Hold a local model to a JSON schema while it generates: only tokens of valid answers are left."""

from __future__ import annotations

from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from transformers import LogitsProcessor


class SchemaGuide(LogitsProcessor):
    """Masks the logits of one generation of one answer; the grammar is llguidance's.

    A prefix of an answer always stays one; the answer is whole unless the limit of tokens cuts it off.
    """

    def __init__(self, tokenizer: LLTokenizer, schema: dict[str, Any]) -> None:
        """Compile ``schema``; raise ValueError when the grammar cannot express it."""
        # Free white space would let a model go on without end.
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        self._matcher = LLMatcher(tokenizer, grammar, log_level=0)
        self._started = False
        self._check()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return ``scores`` (1, vocabulary) with -inf where a token would leave the schema."""
        if self._started:
            self._matcher.consume_token(int(input_ids[0, -1]))
        self._started = True
        self._check()
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) > 0
        masked = torch.full_like(scores, -torch.inf)
        count = min(len(allowed), scores.shape[1])
        kept = torch.nonzero(allowed[:count]).ravel().to(scores.device)
        masked[0, kept] = scores[0, kept]
        return masked  # type: ignore[return-value]

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(f"the schema's grammar failed: {self._matcher.get_error()}")
