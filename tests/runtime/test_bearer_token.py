"""Who may read the metrics: whoever bears the token, where there is one; health is told to all."""

from __future__ import annotations

import http.client
import logging
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from pipeline.runtime import composition
from pipeline.runtime.runner import Health
from pipeline.runtime.service import serve
from pipeline.runtime.serving import HttpServer, application
from pipeline.settings import Settings
from pipeline.settings_secrets import Hidden

TOKEN = "tökén-1f"


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    with closing(HttpServer(application(CollectorRegistry(), Health(), Hidden(TOKEN)), "127.0.0.1", 0)) as running:
        yield running


def ask(server: HttpServer, path: str, authorization: bytes | None = None) -> http.client.HTTPResponse:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request("GET", path, headers={} if authorization is None else {"Authorization": authorization})
        answer = connection.getresponse()
        answer.read()
        return answer


@pytest.mark.parametrize("path", ["/metrics", "/"])
@pytest.mark.parametrize(
    "wrong",
    [
        None, b"", b"Bearer", b"Bearer ", b"Bearer no", f"Basic {TOKEN}".encode(), TOKEN.encode(),
        f"Bearer {TOKEN}x".encode(), f"Bearer {TOKEN[:-1]}".encode(), b"Bearer \xff", b"Bearer ***",
    ],
)  # fmt: skip
def test_without_the_token_nothing_is_shown(server: HttpServer, path: str, wrong: bytes | None) -> None:
    answer = ask(server, path, wrong)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/metrics", "/"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_it_all_is(server: HttpServer, path: str, scheme: str) -> None:
    assert ask(server, path, f"{scheme} {TOKEN}".encode()).status == 200


def test_health_is_told_without_it(server: HttpServer) -> None:
    assert ask(server, "/livez").status == 200
    assert ask(server, "/readyz").status == 503


@pytest.mark.parametrize(
    ("metrics", "warned"),
    [({"host": "0.0.0.0"}, True), ({"host": "0.0.0.0", "token": TOKEN}, False), ({"host": "127.0.0.1"}, False)],
)
def test_an_open_address_without_a_token_is_warned_of_once(
    metrics: dict[str, Any], warned: bool, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composition, "KAFKA_WAIT_S", 0.2)
    settings = Settings.model_validate({"kafka": {"bootstrap": "127.0.0.1:1"}, "metrics": {"port": 0, **metrics}})
    with caplog.at_level(logging.WARNING), suppress(ConnectionError):
        serve(settings, None, threading.Event())
    assert [record for record in caplog.messages if "see metrics.token" in record] == (
        ["metrics.host 0.0.0.0 lets other machines read /metrics; see metrics.token"] if warned else []
    )
