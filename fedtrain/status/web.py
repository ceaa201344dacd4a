"""A page that shows where a run or a server stands, for a browser on this machine. It is read-only.

It listens on loopback alone. Other users of the machine reach that too, so what it tells takes a token: a browser has
it from the fragment of the address, which it sends to nobody, and sends it in a header. The page itself has no data,
and its policy (CSP) lets it load nothing from elsewhere.
"""

import hmac
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from fedtrain.crypto import read_or_create_secret
from fedtrain.errors import FedtrainError, KeyFileError, RunError
from fedtrain.status.metrics import exposition

HOST = "127.0.0.1"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,512}")  # 128 bits and more
_FRESH = 0.5  # seconds for which an answer is given again, whoever asks

Look = Callable[[], dict[str, Any]]
Endpoint = Callable[[Request], Awaitable[Response]]


def new_token() -> str:
    """Return a token of 256 bits that nobody can guess."""
    return token_urlsafe(32)


def kept_token(path: Path) -> str:
    """Return the token in a file, which is made where there is none.

    Raises:
        KeyFileError: the file can be used by others, or holds what can be guessed or is no part of an address.
        StorageError: it cannot be written.
    """
    try:
        token = read_or_create_secret(path, lambda: new_token().encode()).decode().strip()
    except UnicodeDecodeError:
        token = ""
    if not _TOKEN.fullmatch(token):
        raise KeyFileError(
            f"{path} holds no token of 22 or more letters, digits, - and _: remove it, and another is made, or name "
            "another file with --token"
        )
    return token


def make_app(look: Look, token: str) -> Starlette:
    """Return the application.

    Args:
        look: returns what the page shows as a JSON object, with ``runs``.
        token: what a reader has to show.
    """
    guard = _Guard(look, token)
    return Starlette(
        routes=[
            *(Route(path, _static(*file)) for path, file in _FILES.items()),
            Route("/status", guard.answering(lambda found: JSONResponse(found, headers=_HEADERS))),
            Route("/metrics", guard.answering(_metrics)),
        ],
        # A name of somebody else's that leads to this machine is not answered.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


class _Guard:
    """Answers those who have the token, and looks at most twice a second for all of them."""

    def __init__(self, look: Look, token: str) -> None:
        self._look = look
        self._expected = f"Bearer {token}".encode()
        self._seen: tuple[float, dict[str, Any]] = (float("-inf"), {})
        self._one = threading.Lock()  # who looks goes on from where the look before ended

    def answering(self, answer: Callable[[dict[str, Any]], Response]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            given = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, self._expected):
                return PlainTextResponse("a token is needed\n", 401, {**_HEADERS, "WWW-Authenticate": "Bearer"})
            try:
                found = await run_in_threadpool(self._latest)
            except FedtrainError as error:
                return PlainTextResponse(f"{error}\n", 503, _HEADERS)
            return answer(found)

        return endpoint

    def _latest(self) -> dict[str, Any]:
        with self._one:
            if time.monotonic() - self._seen[0] > _FRESH:
                self._seen = (time.monotonic(), {**self._look(), "now": time.time()})
            return self._seen[1]


def _static(name: str, kind: str) -> Endpoint:
    data = files("fedtrain.status").joinpath("page", name).read_bytes()

    async def endpoint(_request: Request) -> Response:
        return Response(data, media_type=kind, headers=_HEADERS)

    return endpoint


def _metrics(found: dict[str, Any]) -> Response:
    text = exposition(found)
    if text is None:
        return PlainTextResponse("metrics need an extra: pip install 'fedtrain[metrics]'\n", 404, _HEADERS)
    return Response(text, media_type="text/plain; version=0.0.4", headers=_HEADERS)


def serve(look: Look, *, port: int, token: str, say: Callable[[str], None]) -> None:
    """Serve the page until the process is asked to end.

    Args:
        look: as `make_app`.
        port: on loopback; 0 for a free one.
        token: as `make_app`.
        say: tells a person the address.

    Raises:
        RunError: the port is in use.
    """
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise RunError(
            f"port {port} of {HOST} cannot be used: {error.strerror or error}; choose another with --port"
        ) from error
    with listening:
        say(f"http://{HOST}:{listening.getsockname()[1]}/#{token}")
        config = uvicorn.Config(
            make_app(look, token),
            log_level="error",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
        )
        uvicorn.Server(config).run(sockets=[listening])
