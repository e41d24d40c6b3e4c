"""HTTP beside the loop: /metrics for Prometheus, /livez and /readyz for an orchestrator, / for a person."""

from __future__ import annotations

import hmac
import ipaddress
import socket
import threading
import time
from collections.abc import Callable

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

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


def application(registry: CollectorRegistry, health: Health, token: str | None = None) -> Starlette:
    """The ASGI application.

    With a `token`, /metrics and / answer to whoever bears it (RFC 6750) and
    401 to others; /livez and /readyz, which tell nothing, always answer.
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

    guard = _bearing(token)
    routes = [Route("/", guard(index)), Route("/metrics", guard(metrics))]
    return Starlette(routes=[*routes, Route("/livez", livez), Route("/readyz", readyz)])


Endpoint = Callable[[Request], Response]


def _bearing(token: str | None) -> Callable[[Endpoint], Endpoint]:
    """Lets requests through that bear the token; all, where there is none."""
    if token is None:
        return lambda endpoint: endpoint
    wanted = token.encode()

    def guard(endpoint: Endpoint) -> Endpoint:
        def guarded(request: Request) -> Response:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            # Headers come as Latin-1; compared in a time that does not tell where they differ.
            known = hmac.compare_digest(given.strip().encode("latin-1"), wanted)
            if scheme.lower() != "bearer" or not known:
                return PlainTextResponse("a bearer token is needed\n", 401, {"WWW-Authenticate": "Bearer"})
            return endpoint(request)

        return guarded

    return guard


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
        config = uvicorn.Config(app, log_config=None, log_level="warning", lifespan="off", access_log=False)
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
