"""One HTTP request to a model's server: a deadline for all of it, a bound on its size, no redirects.

The deadline covers connecting, headers and body together: a server that drips bytes holds nobody. Redirects
are not followed: the key goes nowhere but to the address that the user gave.
"""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import anyio
import httpx2

from grape_preference.vlm import Reason, VlmError
from grape_preference.vlm_json import shorten


@dataclass(frozen=True)
class HttpOptions:
    """Limits of one chat server.

    Attributes:
        timeout: seconds for one attempt, from connecting to the last byte.
        attempts: tries per question.
        backoff: bound of the first pause in seconds, doubled with every attempt; the pause is drawn below it.
        longest_wait: bound of all pauses in seconds; a server that asks for more (Retry-After) is given up.
        max_bytes: of a response.
        max_answer_tokens: what the server may generate.
    """

    timeout: float = 120.0
    attempts: int = 4
    backoff: float = 1.0
    longest_wait: float = 60.0
    max_bytes: int = 2 * 1024 * 1024
    max_answer_tokens: int = 4096


class PassingError(VlmError):
    """A failure that may pass: a connection, a time-out, 408, 429, 5xx; ``wait`` is its Retry-After."""

    def __init__(
        self, reason: Reason, what: str, remedy: str, raw: str = "", wait: float | None = None
    ) -> None:
        super().__init__(reason, what, remedy, raw)
        self.wait = wait


@dataclass(frozen=True)
class Response:
    """A whole response; ``retry_after`` is the header; bytes that are not UTF-8 are escaped in ``text``."""

    status: int
    retry_after: str | None
    text: str


def post(url: str, headers: dict[str, str], body: dict[str, Any], options: HttpOptions) -> Response:
    """Send ``body`` as JSON and return the whole response, whatever its status.

    Raises:
        PassingError: no connection, a broken one, or not whole within ``options.timeout``.
        VlmError: the answer is larger than ``options.max_bytes`` or is compressed.
    """
    try:
        return anyio.run(_post, url, headers, body, options)
    except (TimeoutError, httpx2.TimeoutException):
        what = f"{url} gave no whole answer within {options.timeout:g} s"
        raise PassingError(
            "timeout", what, "Allow more with --vlm-timeout, or take a smaller model"
        ) from None
    except (httpx2.TransportError, OSError) as error:
        what = f"the connection to {url} failed ({shorten(str(error)) or type(error).__name__})"
        raise PassingError("unreachable", what, "Check the address and that the server runs") from None


async def _post(url: str, headers: dict[str, str], body: dict[str, Any], options: HttpOptions) -> Response:
    # Unpacked, a small answer can be of any size; so it must come as it is.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", **headers}
    with anyio.fail_after(options.timeout):
        async with (
            httpx2.AsyncClient(verify=_tls(), timeout=options.timeout, follow_redirects=False) as client,
            client.stream("POST", url, headers=headers, json=body) as response,
        ):
            if response.headers.get("content-encoding", "identity") != "identity":
                what = f"{url} sends compressed answers although asked not to"
                raise VlmError("invalid_answer", what, "Turn compression off there")
            data = bytearray()
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > options.max_bytes:
                    what = f"{url} sends more than {options.max_bytes} bytes"
                    raise VlmError("too_large", what, "No good answer is that long", _text(data[:4096]))
            return Response(response.status_code, response.headers.get("retry-after"), _text(data))


@cache
def _tls() -> ssl.SSLContext:
    """Return the library's default context; making one reads all certificates, which takes long."""
    return httpx2.create_ssl_context()


def _text(data: bytearray) -> str:
    return data.decode("utf-8", errors="backslashreplace")


def checked_url(text: str) -> str:
    """Return a server's base address without a slash at its end; raise ValueError when it cannot be one."""
    try:
        url = httpx2.URL(text.strip())
    except httpx2.InvalidURL as error:
        raise ValueError(f"{shorten(text)!r} is no address ({error})") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{shorten(text)!r} is no http(s) address like http://localhost:11434/v1")
    if url.userinfo or url.query or url.fragment:
        raise ValueError(
            "the server's address must carry no user, query or fragment; keys come from the environment"
        )
    return str(url).rstrip("/").removesuffix("/chat/completions")


def retry_after_seconds(header: str | None) -> float | None:
    """Return the pause asked for, in seconds or as an HTTP date (RFC 9110, 10.2.3); None if unreadable."""
    if header is None:
        return None
    if header.strip().isdecimal() and len(header) < 10:
        return float(header)
    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
