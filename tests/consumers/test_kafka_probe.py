"""Why Kafka cannot be reached, where what answers is no Kafka at all; tests/kafka/test_secured.py has real ones."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from consumers import kafka_probe
from consumers.kafka_probe import why_unreachable


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """A server that says this to whatever it hears, and goes; None keeps silent."""
    server = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            with suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1 << 16)
                    if answer is None:
                        over.wait(10)
                    else:
                        connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        over.set()
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@pytest.fixture(params=["PLAINTEXT", "SSL"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"security_protocol": request.param, "ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}


def test_where_nobody_listens_there_is_nothing_to_say(options: dict[str, Any]) -> None:
    assert why_unreachable("127.0.0.1:1,nowhere.invalid:9092,[::1]:1", options) is None


def test_nor_where_nobody_answers(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_probe, "STEP_S", 0.5)
    with answering(None) as silent:
        began = time.monotonic()
        assert why_unreachable(silent, options) is None
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\0\0\0\4\0\0\0\7", b"\0" * 64])
def test_what_is_no_kafka_is_said_to_be_none(options: dict[str, Any], answer: bytes) -> None:
    with answering(answer) as other:
        why = why_unreachable(f"127.0.0.1:1,{other}", options)
    wanted = "does not speak TLS" if options["security_protocol"] == "SSL" else "does not answer as a Kafka does"
    assert why is not None
    assert why.startswith(f"{other} {wanted}")


def test_an_alert_of_tls_is_understood_without_tls() -> None:
    with answering(b"\x15\x03\x03\x00\x02\x02\x28") as other:
        why = why_unreachable(other, {"security_protocol": "SASL_PLAINTEXT"})
    assert why == f"{other} speaks TLS; kafka.security_protocol is sasl_plaintext, must be sasl_ssl"
