"""A chat-completions server on the loopback that answers as told: well, badly, slowly or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class VlmServer:
    """``behaviours`` are used one per request, the last one for all further requests."""

    behaviours: list[Behaviour]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(*behaviours: Behaviour) -> Iterator[VlmServer]:
    state = VlmServer(list(behaviours))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "test"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.requests.append({"path": self.path, **json.loads(body)})
            state.headers.append(dict(self.headers))
            self.close_connection = True
            behaviour = state.behaviours[min(len(state.requests), len(state.behaviours)) - 1]
            self.closing = state.closing
            with suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
                behaviour(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def completion(content: Any, **fields: Any) -> str:
    """A chat completion's body; ``content`` that is not text becomes JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"total_tokens": 100}, **fields})


def say(content: Any, **fields: Any) -> Behaviour:
    return send(200, completion(content, **fields))


def send(status: int, body: str | bytes, headers: dict[str, str] | None = None) -> Behaviour:
    data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {
            "Content-Length": str(len(data)),
            "Connection": "close",
            **(headers or {}),
        }.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return behave


def cut(body: str) -> Behaviour:
    """Promise more than is sent, then break the connection."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body) + 1000))
        handler.end_headers()
        handler.wfile.write(body.encode())

    return behave


def nothing(handler: BaseHTTPRequestHandler) -> None:
    """Accept the request and stay silent."""
    handler.closing.wait(10)  # type: ignore[attr-defined]


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Close without a word."""


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, each well within any time-out of a single read."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.closing.wait(0.05):  # type: ignore[attr-defined]
        handler.wfile.write(b" ")
        handler.wfile.flush()


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    """Headers that never end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.closing.wait(0.05):  # type: ignore[attr-defined]
        handler.wfile.write(b"X-More: x\r\n")
        handler.wfile.flush()


def endless(handler: BaseHTTPRequestHandler) -> None:
    """An answer without end, as fast as it can be read."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    while not handler.closing.is_set():  # type: ignore[attr-defined]
        handler.wfile.write(b"a" * 65536)
