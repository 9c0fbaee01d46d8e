"""What stands before the app: it fetches nothing for anyone, requests have a size, pages load nothing from outside."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any
from urllib.parse import unquote

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MOST_BYTES = 4 << 20  # of a request that is no upload: settings, clicks, and what the page sends back
_UPLOAD = "/upload"
_POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'"


class Guard:
    """ASGI middleware.

    Args:
        app: what it protects.
        most_upload: bytes of a request that uploads files.
        framed: whether pages of other sites may show the app in a frame, as Hugging Face Spaces do.
    """

    def __init__(self, app: Any, *, most_upload: int, framed: bool = False) -> None:
        self.app = app
        self.most_upload = most_upload
        policy = _POLICY if framed else f"{_POLICY}; frame-ancestors 'self'"
        self._headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        if "://" in unquote(scope["path"]):  # gradio would fetch `file=http://...` and pass it on
            await _answer(with_headers, 403, "this server fetches nothing from addresses")
            return
        if scope["path"].rstrip("/").endswith(_UPLOAD):
            receive = _at_most(self.most_upload, receive)
        elif scope["method"] == "POST":
            body = await _body(receive)
            if body is None:
                await _answer(with_headers, 413, f"a request may have {MOST_BYTES >> 20} MB; send files as uploads")
                return
            if any(_is_address(path) for path in _paths(body)):
                await _answer(with_headers, 400, "files are uploaded here, not fetched from addresses")
                return
            receive = _again(body, receive)
        await self.app(scope, receive, with_headers)


def _at_most(size: int, receive: Receive) -> Receive:
    """`receive` that ends the request, as if the other side had gone, where more bytes come than these."""
    come = 0

    async def counted() -> MutableMapping[str, Any]:
        nonlocal come
        message = await receive()
        come += len(message.get("body", b""))
        return {"type": "http.disconnect"} if come > size else message

    return counted


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None where it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MOST_BYTES:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives the body once more, and then what comes."""
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _paths(body: bytes) -> Iterator[str]:
    """Every value that gradio could take for a file."""
    try:
        waiting = [json.loads(body)]
    except (ValueError, RecursionError):
        return  # the app refuses it
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if isinstance(each.get("path"), str):
                yield each["path"]
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)


def _is_address(text: str) -> bool:
    return "://" in text[:16]


async def _answer(send: Send, status: int, words: str) -> None:
    body = json.dumps({"detail": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
