"""The faults' own tools: a proxy that does what it is told, and a clock that steps for one process alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy import Proxy
from stepping_clock import SteppingClock


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that gives back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        ended = threading.Event()

        def serve(connection: socket.socket) -> None:
            with connection:
                try:
                    while part := connection.recv(65536):
                        connection.sendall(part)
                except OSError:
                    return

        def accept() -> None:
            while not ended.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                connection.settimeout(None)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        ended.set()
        thread.join()


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def echoed(client: socket.socket, sent: bytes) -> float:
    """Seconds until all that was sent is back."""
    began, back = time.monotonic(), b""
    client.sendall(sent)
    while len(back) < len(sent):
        part = client.recv(65536)
        assert part, "closed"
        back += part
    assert back == sent
    return time.monotonic() - began


def test_bytes_pass_both_ways_whole(echo: int) -> None:
    with Proxy(echo) as proxy, connected(proxy) as one, connected(proxy) as other:
        echoed(one, os.urandom(300_000))
        echoed(other, b"x")


def test_a_cut_resets_all_connections_and_welcomes_new_ones(echo: int) -> None:
    with Proxy(echo) as proxy, connected(proxy) as client:
        echoed(client, b"x")
        proxy.cut()
        assert proxy.cut_connections == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with connected(proxy) as again:
            echoed(again, b"y")


def test_refused_until_calm(echo: int) -> None:
    with Proxy(echo) as proxy:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
        proxy.calm()
        with connected(proxy) as client:
            echoed(client, b"x")


def test_slow_until_calm(echo: int) -> None:
    with Proxy(echo) as proxy, connected(proxy) as client:
        proxy.slow(20_000)
        assert echoed(client, bytes(10_000)) > 0.8  # 10 KB there and back
        proxy.calm()
        assert echoed(client, bytes(10_000)) < 0.8


def test_held_bytes_arrive_once_it_is_calm(echo: int) -> None:
    with Proxy(echo) as proxy, connected(proxy) as client:
        proxy.hold()
        client.sendall(b"held")
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.calm()
        client.settimeout(5)
        assert client.recv(4) == b"held"


def test_the_wall_clock_steps_for_one_process_and_the_monotonic_one_does_not(tmp_path: Path) -> None:
    clock = SteppingClock(tmp_path)
    program = """
import datetime, sys, time
for line in sys.stdin:
    wall = (time.time(), time.time_ns() / 1e9, datetime.datetime.now().timestamp())
    print(*wall, time.monotonic(), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | clock.variables, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for ahead in (0.0, 86400.5, -3 * 86400.25, 0.0):
            clock.set(ahead)
            process.stdin.write("\n")
            process.stdin.flush()
            *walls, monotonic = map(float, process.stdout.readline().split())
            assert all(abs(wall - ahead - time.time()) < 5 for wall in walls), (ahead, walls, time.time())
            assert abs(monotonic - time.monotonic()) < 5
        process.stdin.close()
