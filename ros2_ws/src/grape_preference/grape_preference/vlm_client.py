"""Ask a vision-language model within a budget, with cache, audit and validated answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from grape_preference.vlm import Budget, Question, Reply, VlmError, VlmModel
from grape_preference.vlm_audit import AnswerCache, Audit, question_key
from grape_preference.vlm_json import parse_answer

Result = TypeVar("Result")


class VlmClient:
    """Front of one model; ``root`` gets ``audit/`` (one folder per question) and ``cache/``."""

    def __init__(
        self, model: VlmModel, root: Path | str, budget: Budget | None = None, *, use_cache: bool = True
    ) -> None:
        self.model = model
        self.budget = budget or Budget()
        self.root = Path(root)
        self._cache = AnswerCache(self.root / "cache") if use_cache else None

    def ask(self, question: Question, read: Callable[[Any], Result]) -> Result:
        """Return ``read(document)`` of the model's answer, which follows ``question.schema``.

        Args:
            question: what to ask.
            read: turns the checked JSON document into the result; raises ValueError to refuse it.

        Raises:
            VlmError: no usable answer; reason ``invalid_answer`` when schema or ``read`` refused it, with the
                answer as ``raw``.
        """
        key = question_key(self.model, question)
        audit = Audit(self.root / "audit", self.model, question, key)
        started = time.monotonic()
        verdict: dict[str, Any] = {
            "verdict": "interrupted",
            "message": "",
            "cached": False,
            "tokens": 0,
            "attempts": [],
        }
        answer = ""
        try:
            reply = self._reply(question, key, verdict)
            answer = reply.text
            result = self._read(reply, key, question, read, verdict)
            verdict["verdict"] = "accepted"
            return result
        except VlmError as error:
            verdict |= {"verdict": error.reason, "message": str(error)}
            answer = error.raw or answer
            raise
        finally:
            verdict["seconds"] = round(time.monotonic() - started, 3)
            audit.close(answer, verdict)

    def _reply(self, question: Question, key: str, verdict: dict[str, Any]) -> Reply:
        cached = self._cache.get(key) if self._cache else None
        if cached is not None:
            verdict["cached"] = True
            return cached
        before = self.budget.tokens
        try:
            return self.model.complete(question, self.budget, verdict["attempts"])
        finally:
            verdict["tokens"] = self.budget.tokens - before

    def _read(
        self,
        reply: Reply,
        key: str,
        question: Question,
        read: Callable[[Any], Result],
        verdict: dict[str, Any],
    ) -> Result:
        try:
            document = parse_answer(reply.text, question.schema)
            if self._cache is not None and not verdict["cached"]:
                self._cache.put(key, reply.text, reply.tokens)
            return read(document)
        except ValueError as error:
            what = f"the model's answer was refused: {error}"
            raise VlmError("invalid_answer", what, raw=reply.text) from error
