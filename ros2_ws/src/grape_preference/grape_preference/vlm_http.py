"""A model behind the OpenAI chat-completions protocol: hosted, vLLM, Ollama, llama.cpp's server."""

from __future__ import annotations

import base64
import os
import time
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from grape_preference.vlm import Budget, Question, Reply, VlmError
from grape_preference.vlm_json import AnswerError, parse_json, shorten, wire_schema
from grape_preference.vlm_transport import (
    HttpOptions,
    PassingError,
    Response,
    checked_url,
    post,
    retry_after_seconds,
)

API_KEY_VARIABLE = "GRAPE_VLM_API_KEY"
CHARACTERS_PER_TOKEN, TOKENS_PER_IMAGE = 4, 1000  # to count tokens when the server does not say
_REMEDIES = {
    401: f"Set the key in the environment variable {API_KEY_VARIABLE}",
    403: f"Set a key in {API_KEY_VARIABLE} that may use this model",
    404: "Check the address (it usually ends in /v1) and the model's name",
    413: "The server takes no images of this size",
}


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    total_tokens: int | None = Field(default=None, ge=0, le=10**9)


class _Completion(BaseModel):
    """The part of a chat completion that is read; everything else in it is ignored."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class ChatServer:
    """A model served at ``base_url`` (which ends in ``/v1`` for nearly all servers); see VlmModel.

    What may pass (no connection, 408, 429, 5xx) is tried again; a server's Retry-After is obeyed. The key is
    read from the environment and leaves only in the request's header.
    """

    def __init__(self, base_url: str, model: str, options: HttpOptions | None = None) -> None:
        """Check the address and the key; raise ValueError when one cannot be used."""
        self.place = checked_url(base_url)
        self.name = model
        self.options = options or HttpOptions()
        self._key = os.environ.get(API_KEY_VARIABLE, "").strip()
        if any(not 33 <= ord(character) <= 126 for character in self._key):
            raise ValueError(f"{API_KEY_VARIABLE} has characters that no key has; set it again")

    def scrub(self, text: str) -> str:
        """Return ``text`` without the API key, which a server could send back."""
        return text.replace(self._key, "[API key]") if self._key else text

    def complete(self, question: Question, budget: Budget, attempts: list[dict[str, Any]]) -> Reply:
        """Ask the server; see VlmModel."""
        body = self._body(question)
        while True:
            limit = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
            body[limit] = max(min(self.options.max_answer_tokens, budget.tokens_left), 1)
            response = self._send(body, budget, attempts)
            if response.status == 200:
                return self._read_reply(response.text, question, budget)
            if response.status not in (400, 422) or not _adapt(body, response.text):
                raise self._refusal(response)

    def _body(self, question: Question) -> dict[str, Any]:
        encoded = [base64.b64encode(png).decode("ascii") for png in question.png_images()]
        images = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{e}"}} for e in encoded]
        schema = {"name": question.kind, "schema": wire_schema(question.schema), "strict": True}
        return {
            "model": self.name,
            "messages": [
                {"role": "system", "content": question.system},
                {"role": "user", "content": [{"type": "text", "text": question.prompt}, *images]},
            ],
            "temperature": 0,
            "max_tokens": self.options.max_answer_tokens,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }

    def _send(self, body: dict[str, Any], budget: Budget, attempts: list[dict[str, Any]]) -> Response:
        """Send with retries; return any response that another try would not change."""
        retrying = Retrying(
            stop=stop_after_attempt(self.options.attempts),
            wait=self._pause,
            retry=retry_if_exception_type(PassingError),
            reraise=True,
        )
        return retrying(self._attempt, body, budget, attempts)

    def _attempt(self, body: dict[str, Any], budget: Budget, attempts: list[dict[str, Any]]) -> Response:
        budget.take_request()
        started = time.monotonic()
        entry: dict[str, Any] = {"status": None, "error": None}
        attempts.append(entry)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            response = post(f"{self.place}/chat/completions", headers, body, self.options)
            entry["status"] = response.status
            response = replace(response, text=self.scrub(response.text))
            if response.status in (408, 429) or response.status >= 500:
                raise self._busy_or_broken(response)
            return response
        except VlmError as error:
            entry["error"] = self.scrub(str(error))
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - started, 3)

    def _busy_or_broken(self, response: Response) -> VlmError:
        trouble = "is asked too often" if response.status == 429 else "failed"
        what = f"{self.place} {trouble} ({response.status}): {shorten(response.text, 120)}"
        wait = retry_after_seconds(response.retry_after)
        if wait is not None and wait > self.options.longest_wait:
            return VlmError(
                "refused", f"{what}; it wants a pause of {wait:.0f} s", "Try later", response.text
            )
        return PassingError("refused", what, "Try later, or look at the server's log", response.text, wait)

    def _pause(self, state: RetryCallState) -> float:
        asked = getattr(state.outcome.exception() if state.outcome else None, "wait", None)
        if asked is not None:
            return float(asked)
        return float(wait_random_exponential(self.options.backoff, self.options.longest_wait)(state))

    def _refusal(self, response: Response) -> VlmError:
        remedy = _REMEDIES.get(response.status, "Its log may say more")
        if 300 <= response.status < 400:
            remedy = "Redirects are not followed; give the final address"
        what = f"{self.place} refused ({response.status}): {shorten(response.text)}"
        return VlmError("refused", what, remedy, response.text)

    def _read_reply(self, text: str, question: Question, budget: Budget) -> Reply:
        try:
            completion = _Completion.model_validate(parse_json(text), strict=True)
        except (AnswerError, ValidationError) as error:
            budget.add_tokens(_estimated_tokens(question, text))
            what = f"the server's answer is no chat completion ({shorten(self.scrub(str(error)))})"
            raise VlmError(
                "invalid_answer", what, "Check that the address is a chat server's", text
            ) from None
        choice = completion.choices[0]
        content = self.scrub(choice.message.content)  # again: escapes may have hidden the key until now
        told = completion.usage.total_tokens if completion.usage else None
        tokens = told or _estimated_tokens(question, content)
        budget.add_tokens(tokens)
        if choice.finish_reason == "length":
            what = "the model's answer was cut off at the limit of tokens"
            raise VlmError("invalid_answer", what, "Raise --vlm-max-tokens, or take another model", content)
        return Reply(content, tokens)


def _adapt(body: dict[str, Any], refusal: str) -> bool:
    """Leave out what the server says it does not know; return whether there was something to leave out."""
    if "max_completion_tokens" in refusal and "max_tokens" in body:
        body["max_completion_tokens"] = body.pop("max_tokens")
        return True
    if "temperature" in refusal and "temperature" in body:
        del body["temperature"]
        return True
    if any(word in refusal for word in ("response_format", "schema", "grammar")):
        return body.pop("response_format", None) is not None
    return False


def _estimated_tokens(question: Question, answer: str) -> int:
    characters = len(question.system) + len(question.prompt) + len(answer)
    return characters // CHARACTERS_PER_TOKEN + TOKENS_PER_IMAGE * len(question.images)
