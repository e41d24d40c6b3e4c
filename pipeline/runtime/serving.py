"""HTTP beside the loop: /metrics for Prometheus, /livez and /readyz for an orchestrator, the page for a person."""

from __future__ import annotations

import hmac
import ipaddress
import socket
import threading
import time
from collections.abc import Sequence

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.runtime.runner import Health
from pipeline.settings import SettingsError

STALLED_S = 60.0
INDEX = """Headrace

/metrics   Prometheus metrics
/livez     200 while the loop turns
/readyz    200 once recovered and reading
"""


class ServingFailed(SettingsError):
    """The metrics address cannot be listened on."""


def open_to_others(host: str) -> bool:
    """Whether an address to listen on can be reached from other machines.

    >>> [host for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "metrics.example") if open_to_others(host)]
    ['0.0.0.0', '::', 'metrics.example']
    """
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def application(
    registry: CollectorRegistry,
    health: Health,
    token: str | None = None,
    *,
    asked: Sequence[Route] = (),
    files: Sequence[Route] = (),
    local: bool = False,
) -> Starlette:
    """The ASGI application.

    With a `token`, /metrics and what is `asked` answer to whoever bears it
    (RFC 6750) and 401 to others; /livez, /readyz and the `files`, which tell
    nothing, always answer. A browser that comes from another site's page is
    refused, and with `local` whatever calls this machine by another name than
    its own: some site's name may have been pointed here.
    """

    def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def livez(request: Request) -> Response:
        silent = time.monotonic() - health.turned_at
        if silent > STALLED_S:
            return PlainTextResponse(f"stalled for {silent:.0f} s\n", 503)
        return PlainTextResponse("ok\n")

    def readyz(request: Request) -> Response:
        if not health.ready.is_set():
            return PlainTextResponse("recovering\n", 503)
        return PlainTextResponse("ok\n")

    def index(request: Request) -> Response:
        return PlainTextResponse(INDEX)

    private = [Route("/metrics", metrics), *([] if files else [Route("/", index)])]
    routes: list[BaseRoute] = [Route(r.path, _Guarded(r.app, token), methods=r.methods) for r in private]
    routes += [Route(r.path, _Guarded(_SameSite(r.app, local), token), methods=r.methods) for r in asked]
    return Starlette(routes=[*routes, *files, Route("/livez", livez), Route("/readyz", readyz)])


class _Guarded:
    """An ASGI application for whoever bears the token; for all, where there is none."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._wanted = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._wanted is not None:
            scheme, _, given = Request(scope).headers.get("authorization", "").partition(" ")
            # Headers come as Latin-1; compared in a time that does not tell where they differ.
            known = hmac.compare_digest(given.strip().encode("latin-1"), self._wanted)
            if scheme.lower() != "bearer" or not known:
                told = JSONResponse({"error": "a bearer token is needed"}, 401, {"WWW-Authenticate": "Bearer"})
                return await told(scope, receive, send)
        await self._app(scope, receive, send)


class _SameSite:
    """An ASGI application for this site's own page, and for whoever is no browser."""

    def __init__(self, app: ASGIApp, local: bool) -> None:
        self._app = app
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Request(scope).headers
        host, origin = headers.get("host", ""), headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] != host
        if foreign or (self._local and open_to_others(_name(host))):
            told = JSONResponse({"error": "asked from another site, or by another name than this machine's"}, 403)
            return await told(scope, receive, send)
        await self._app(scope, receive, send)


def _name(host: str) -> str:
    """A Host header without its port.

    >>> [_name(host) for host in ("localhost:9464", "[::1]:9464", "127.0.0.1", "shop.example:80")]
    ['localhost', '::1', '127.0.0.1', 'shop.example']
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


class HttpServer:
    """Serves an application from a daemon thread until `close`."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        """Listens at once; raises ServingFailed where the address is taken. Port 0 picks a free one."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise ServingFailed(
                f"metrics.port, metrics.host: cannot listen on {host}:{port}: {error.strerror}; port 0 takes a free one"
            ) from None
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app, log_config=None, log_level="warning", lifespan="off", access_log=False, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(timeout=2)
        self._socket.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])
