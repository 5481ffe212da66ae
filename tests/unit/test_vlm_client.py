"""The client of vision-language models against a real HTTP server that behaves, misbehaves or attacks."""

from __future__ import annotations

import base64
import gzip
import json
import time
import tracemalloc
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from grape_preference.vlm import Budget, Question, VlmError
from grape_preference.vlm_client import VlmClient
from grape_preference.vlm_http import API_KEY_VARIABLE, ChatServer
from grape_preference.vlm_transport import HttpOptions, retry_after_seconds
from vlm_server import (
    Behaviour,
    cut,
    drip,
    drip_headers,
    endless,
    hang_up,
    nothing,
    say,
    send,
    serving,
)

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["value"],
    "properties": {"value": {"type": "number", "minimum": 0, "maximum": 100}},
}
QUICK = HttpOptions(timeout=2.0, attempts=3, backoff=0.01, longest_wait=0.3, max_bytes=1_000_000)
IMAGE = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def question(prompt: str = "How many?") -> Question:
    return Question("test", "Be brief.", prompt, (IMAGE,), SCHEMA)


def client(url: str, root: Path, options: HttpOptions = QUICK, **limits: int) -> VlmClient:
    return VlmClient(ChatServer(url, "some-model", options), root, Budget(**limits))


def ask(front: VlmClient, prompt: str = "How many?") -> Any:
    return front.ask(question(prompt), lambda document: document["value"])


def audits(root: Path) -> list[Path]:
    return sorted((root / "audit").iterdir())


def verdict(root: Path, number: int = -1) -> dict[str, Any]:
    return json.loads((audits(root)[number] / "verdict.json").read_text())


def fail(root: Path, *behaviours: Behaviour, options: HttpOptions = QUICK) -> tuple[VlmError, int]:
    """Ask a server that does ``behaviours``; return the error and how many requests were sent."""
    with serving(*behaviours) as server:
        with pytest.raises(VlmError) as caught:
            ask(client(server.url, root, options))
        assert verdict(root)["verdict"] == caught.value.reason
        return caught.value, len(server.requests)


def short(value: object) -> str:
    return ascii(value)[:30]


def test_what_is_sent_and_what_comes_back(tmp_path: Path) -> None:
    with serving(say({"value": 3})) as server:
        front = client(server.url, tmp_path)
        assert ask(front) == 3
        sent = server.requests[0]
    assert sent["path"] == "/v1/chat/completions"
    assert sent["model"] == "some-model"
    assert sent["temperature"] == 0
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA
    text, picture = sent["messages"][1]["content"]
    assert text["text"] == "How many?"
    data = picture["image_url"]["url"].removeprefix("data:image/png;base64,")
    png = np.frombuffer(base64.b64decode(data), np.uint8)
    assert (cv2.imdecode(png, cv2.IMREAD_COLOR)[:, :, ::-1] == IMAGE).all()
    assert (front.budget.requests, front.budget.tokens) == (1, 100)


def test_audit_holds_prompt_images_answer_and_verdict(tmp_path: Path) -> None:
    with serving(say('{"value": 3}')) as server:
        ask(client(server.url, tmp_path))
        url = server.url
    (folder,) = audits(tmp_path)
    request = json.loads((folder / "request.json").read_text())
    assert (request["prompt"], request["model"], request["place"]) == ("How many?", "some-model", url)
    assert request["schema"] == SCHEMA
    assert (cv2.imread(str(folder / "image_1.png"))[:, :, ::-1] == IMAGE).all()
    assert (folder / "answer.txt").read_text() == '{"value": 3}'
    told = json.loads((folder / "verdict.json").read_text())
    assert (told["verdict"], told["cached"], told["tokens"]) == ("accepted", False, 100)
    assert [entry["status"] for entry in told["attempts"]] == [200]
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


def test_same_question_is_answered_from_the_cache(tmp_path: Path) -> None:
    with serving(say({"value": 3}), say({"value": 4})) as server:
        assert ask(client(server.url, tmp_path)) == 3
        again = client(server.url, tmp_path, max_requests=0)  # the cache costs nothing
        assert ask(again) == 3
        assert len(server.requests) == 1
        assert verdict(tmp_path)["cached"]
        assert ask(client(server.url, tmp_path), "How many now?") == 4
        uncached = VlmClient(ChatServer(server.url, "some-model", QUICK), tmp_path, use_cache=False)
        assert ask(uncached) == 4
        other = VlmClient(ChatServer(server.url, "other-model", QUICK), tmp_path)
        assert ask(other) == 4
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"text": 5}', "[" * 50_000, "\x00" * 2_000_000], ids=short
)
def test_damaged_cache_is_asked_anew(tmp_path: Path, content: str) -> None:
    with serving(say({"value": 3})) as server:
        ask(client(server.url, tmp_path))
        (stored,) = (tmp_path / "cache").iterdir()
        stored.write_text(content)
        assert ask(client(server.url, tmp_path)) == 3
        assert len(server.requests) == 2


def test_cached_answer_is_checked_like_a_fresh_one(tmp_path: Path) -> None:
    with serving(say({"value": 3})) as server:
        ask(client(server.url, tmp_path))
        (stored,) = (tmp_path / "cache").iterdir()
        stored.write_text(json.dumps({"text": '{"value": 900}', "tokens": 1}))
        with pytest.raises(VlmError, match="maximum of 100"):
            ask(client(server.url, tmp_path))


def test_key_is_sent_but_never_written(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv(API_KEY_VARIABLE, key)
    caplog.set_level("DEBUG")
    echo = json.dumps({"value": 3, "note": key})
    hidden = completion_with_escaped(key)
    behaviours = (
        say(echo),
        send(401, f"bad key {key}"),
        send(500, key),
        send(200, hidden),
        send(200, key * 900),
    )
    with serving(*behaviours) as server:
        for number in range(len(behaviours)):
            front = client(server.url, tmp_path, HttpOptions(timeout=2, attempts=1, max_bytes=20_000))
            with pytest.raises(VlmError) as caught:
                ask(front, f"question {number}")
            assert key not in str(caught.value)
        assert all(headers["Authorization"] == f"Bearer {key}" for headers in server.headers)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 20
    assert not any(key.encode() in data for data in written)
    assert key not in caplog.text


def completion_with_escaped(key: str) -> str:
    escaped = "".join(f"\\u{ord(c):04x}" for c in key)
    return f'{{"choices": [{{"message": {{"content": "{{\\"value\\": \\"{escaped}\\"}}"}}}}]}}'


def test_no_key_no_header(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    with serving(say({"value": 1})) as server:
        ask(client(server.url, tmp_path))
        assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    "content",
    [
        '{"value": 7}',
        'Here it is:\n```json\n{"value": 7}\n```\nAnything else?',
        'Sure! {"value": 7} Glad to help.',
    ],
)
def test_document_is_found_in_what_a_chatty_model_says(tmp_path: Path, content: str) -> None:
    with serving(say(content)) as server:
        assert ask(client(server.url, tmp_path)) == 7


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("I cannot do that.", "not JSON"),
        ("", "not JSON"),
        ('{"value": "7"}', "value"),
        ('{"value": 700}', "value"),
        ('{"value": NaN}', "finite"),
        ('{"value": Infinity}', "finite"),
        ('{"value": 1e999}', "finite"),
        ('{"value": 1, "value": 2}', "twice"),
        ('{"value": 1, "code": "import os"}', "code"),
        ("[" * 100_000, "characters"),
        ('{"value": ' + "[" * 500 + "]" * 500 + "}", "deeper"),
        ('{"value": ' + "1" * 6000 + "}", "not JSON"),
        ('{"value": "\ud800"}', "value"),
    ],
    ids=short,
)
def test_bad_documents_are_refused_and_not_cached(tmp_path: Path, content: str, part: str) -> None:
    error, requests = fail(tmp_path, say(content))
    assert error.reason == "invalid_answer"
    assert part in str(error)
    assert requests == 1
    assert not (tmp_path / "cache").exists()
    assert (audits(tmp_path)[0] / "answer.txt").is_file()


@pytest.mark.parametrize(
    "body",
    [
        "<html>It works!</html>",
        b"\xff\xfe\x00garbage",
        "",
        "null",
        "[]",
        '{"choices": []}',
        '{"choices": [{"message": {"content": null}}]}',
        '{"choices": [{"message": {"content": ["a"]}}]}',
        '{"choices": [{"message": {"content": "{}"}}], "usage": {"total_tokens": -5}}',
        '{"choices": [{"message": {"content": "{}"}}], "usage": {"total_tokens": "many"}}',
        '{"a":' * 100_000,
    ],
    ids=short,
)
def test_garbage_is_no_completion(tmp_path: Path, body: str | bytes) -> None:
    error, requests = fail(tmp_path, send(200, body))
    assert error.reason == "invalid_answer"
    assert requests == 1


def test_answer_cut_off_by_the_token_limit(tmp_path: Path) -> None:
    choice = {"message": {"content": '{"value": 1'}, "finish_reason": "length"}
    error, _ = fail(tmp_path, send(200, json.dumps({"choices": [choice]})))
    assert "cut off" in str(error)


def test_endless_answer_does_not_eat_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        error, requests = fail(tmp_path, endless)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (error.reason, requests) == ("too_large", 1)
    assert peak < 20_000_000


def test_compressed_answers_are_not_unpacked(tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    error, _ = fail(tmp_path, send(200, bomb, {"Content-Encoding": "gzip"}))
    assert "compressed" in str(error)


def test_connection_that_breaks_is_tried_again(tmp_path: Path) -> None:
    with serving(cut('{"choices": ['), hang_up, say({"value": 5})) as server:
        assert ask(client(server.url, tmp_path)) == 5
        assert len(server.requests) == 3
    assert [bool(entry["error"]) for entry in verdict(tmp_path)["attempts"]] == [True, True, False]


def test_half_an_answer_for_ever(tmp_path: Path) -> None:
    error, requests = fail(tmp_path, cut('{"choices": ['))
    assert (error.reason, requests) == ("unreachable", 3)


def test_nobody_listens(tmp_path: Path) -> None:
    with serving(hang_up) as server:
        url = server.url
    with pytest.raises(VlmError, match="Check the address") as caught:
        ask(client(url, tmp_path))
    assert caught.value.reason == "unreachable"
    assert len(verdict(tmp_path)["attempts"]) == 3


@pytest.mark.parametrize("behaviour", [nothing, drip, drip_headers])
def test_silence_and_slow_drip_end_at_the_deadline(tmp_path: Path, behaviour: Behaviour) -> None:
    options = HttpOptions(timeout=0.3, attempts=2, backoff=0.01, longest_wait=0.1)
    started = time.monotonic()
    error, requests = fail(tmp_path, behaviour, options=options)
    assert (error.reason, requests) == ("timeout", 2)
    assert time.monotonic() - started < 4


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(tmp_path: Path, status: int) -> None:
    with serving(send(status, "later"), send(status, "later"), say({"value": 6})) as server:
        assert ask(client(server.url, tmp_path)) == 6
    assert [entry["status"] for entry in verdict(tmp_path)["attempts"]] == [status, status, 200]


def test_retry_after_is_obeyed(tmp_path: Path) -> None:
    options = HttpOptions(timeout=2, attempts=2, backoff=0.001, longest_wait=5)
    with serving(send(429, "slow down", {"Retry-After": "1"}), say({"value": 6})) as server:
        started = time.monotonic()
        assert ask(client(server.url, tmp_path, options)) == 6
        assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize("header", ["3600", formatdate(time.time() + 9000, usegmt=True)])
def test_too_long_a_pause_is_not_waited_for(tmp_path: Path, header: str) -> None:
    error, requests = fail(tmp_path, send(429, "quota", {"Retry-After": header}))
    assert (error.reason, requests) == ("refused", 1)
    assert "pause" in str(error)


@pytest.mark.parametrize("text", [None, "soon", "-5", "9" * 400, "Mon, 99 Foo 2024", "1e3", "²"])
def test_unreadable_retry_after_counts_as_none(text: str | None) -> None:
    assert retry_after_seconds(text) is None


def test_server_that_stays_broken(tmp_path: Path) -> None:
    error, requests = fail(tmp_path, send(500, "boom"))
    assert (error.reason, requests) == ("refused", 3)
    assert "500" in str(error)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, API_KEY_VARIABLE), (403, "may use"), (404, "/v1"), (400, "log"), (301, "final")],
)
def test_refusals_say_what_to_do_and_are_final(tmp_path: Path, status: int, remedy: str) -> None:
    error, requests = fail(tmp_path, send(status, "no", {"Location": "http://127.0.0.1:1/"}))
    assert (error.reason, requests) == ("refused", 1)
    assert remedy in str(error)


def test_terminal_codes_of_a_server_are_not_shown(tmp_path: Path) -> None:
    error, _ = fail(tmp_path, send(404, "\x1b[2J\x07 gone\n\n" + "x" * 5000))
    assert str(error).isprintable()
    assert len(str(error)) < 500


def test_request_is_adapted_to_what_the_server_knows(tmp_path: Path) -> None:
    with serving(
        send(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        send(400, "'temperature' does not support 0"),
        send(422, "response_format: json_schema is unknown"),
        say({"value": 2}),
    ) as server:
        assert ask(client(server.url, tmp_path)) == 2
        last = server.requests[-1]
    assert last["max_completion_tokens"] > 0
    assert not {"max_tokens", "temperature", "response_format"} & last.keys()


def test_budget_of_requests_counts_every_attempt(tmp_path: Path) -> None:
    with serving(send(500, "boom")) as server:
        front = client(server.url, tmp_path, max_requests=2)
        with pytest.raises(VlmError, match="budget of 2 requests"):
            ask(front)
        assert len(server.requests) == 2
        assert verdict(tmp_path)["verdict"] == "budget"


@pytest.mark.parametrize("usage", [{"total_tokens": 600}, None, {"total_tokens": 0}])
def test_budget_of_tokens_counts_also_when_the_server_does_not_say(tmp_path: Path, usage: Any) -> None:
    with serving(say({"value": 1}, usage=usage)) as server:
        front = client(server.url, tmp_path, max_tokens=500)
        assert ask(front) == 1
        assert server.requests[0]["max_tokens"] == 500
        with pytest.raises(VlmError, match="budget of 500 tokens"):
            ask(front, "And now?")
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a/v1",
        "localhost:8000",
        "http://",
        "http://user:pw@a/v1",
        "https://a/v1?key=1",
        "x",
    ],
)
def test_addresses_that_cannot_be(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        ChatServer(url, "m")


@pytest.mark.parametrize("key", ["a\nX: b", "sk-\u00e4", "two words"])
def test_keys_that_cannot_be(key: str, monkeypatch: Any) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, key)
    with pytest.raises(ValueError, match=API_KEY_VARIABLE) as caught:
        ChatServer("http://localhost/v1", "m")
    assert key not in str(caught.value)


@pytest.mark.parametrize("read", [lambda _: {}["missing"], lambda _: 1 / 0])
def test_fault_of_the_caller_is_not_hidden(tmp_path: Path, read: Callable[[Any], Any]) -> None:
    with serving(say({"value": 1})) as server, pytest.raises((KeyError, ZeroDivisionError)):
        client(server.url, tmp_path).ask(question(), read)
    assert verdict(tmp_path)["verdict"] == "interrupted"


def test_images_are_checked() -> None:
    with pytest.raises(ValueError, match="uint8"):
        Question("test", "", "", (IMAGE.astype(np.float32),), SCHEMA)
    with pytest.raises(ValueError, match="at most"):
        Question("test", "", "", (IMAGE,) * 20, SCHEMA)
