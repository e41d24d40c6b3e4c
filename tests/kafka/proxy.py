"""A TCP proxy between Headrace and a broker that cuts, refuses, slows and swallows, as told."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from contextlib import suppress

from pipeline.runtime.broker.ports import LOOPBACK, free_port

CHUNK = 16 << 10
TICK_S = 0.02


class Proxy:
    """Forwards connections to a port of loopback, in a thread. A context manager."""

    def __init__(self, target: int) -> None:
        """Listens at once, at a port of its own."""
        self.port = free_port()
        self._target = target
        self._listener: socket.socket | None = None
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._waiting: dict[socket.socket, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._lock = threading.RLock()
        self._rate: float | None = None
        self._allowance = 0.0
        self._holding = False
        self._ended = False
        self.cut_connections = 0
        self._listen()
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    @property
    def bootstrap(self) -> str:
        """Where clients connect."""
        return f"{LOOPBACK}:{self.port}"

    def listener(self) -> dict[str, str]:
        """Properties of a broker with a second listener, at the target, whose clients are told to come here."""
        return {
            "listeners": f"DETOUR://{LOOPBACK}:{self._target}",
            "advertised.listeners": f"DETOUR://{self.bootstrap}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,DETOUR:PLAINTEXT",
        }

    def cut(self) -> None:
        """Reset every connection; new ones are welcome."""
        with self._lock:
            for side in list(self._pairs):
                if side in self._pairs:
                    self.cut_connections += 1
                    self._drop(side)

    def refuse(self) -> None:
        """Reset every connection and refuse new ones, until `calm`."""
        with self._lock:
            if self._listener is not None:
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
            self.cut()

    def slow(self, bytes_per_second: float) -> None:
        """Let so much pass, both ways together, until `calm`."""
        with self._lock:
            self._rate, self._allowance = bytes_per_second, 0.0

    def hold(self) -> None:
        """Take connections and bytes, and pass nothing on, until `calm`; then all of it goes on."""
        with self._lock:
            self._holding = True

    def calm(self) -> None:
        """A good network again."""
        with self._lock:
            self._holding, self._rate = False, None
            if self._listener is None:
                self._listen()

    def __enter__(self) -> Proxy:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close everything."""
        with self._lock:
            self._ended = True
        self._thread.join()
        self.refuse()
        self._selector.close()

    def _listen(self) -> None:
        self._listener = socket.create_server((LOOPBACK, self.port), backlog=128)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _run(self) -> None:
        last = time.monotonic()
        while True:
            # Outside the lock; what it says may be out of date, which reading again finds out.
            ready = [key.fileobj for key, _ in self._selector.select(TICK_S)]
            with self._lock:
                if self._ended:
                    return
                now = time.monotonic()
                if self._rate is not None:
                    self._allowance = min(self._allowance + (now - last) * self._rate, self._rate)
                last = now
                for side in ready:
                    if side is self._listener:
                        self._accept()
                    elif side in self._pairs:
                        self._read(side)  # type: ignore[arg-type]
                for side in list(self._waiting):
                    self._pass_on(side)
                stalled = self._holding or self._rate is not None
            if stalled:
                time.sleep(TICK_S)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        try:
            server = socket.create_connection((LOOPBACK, self._target), timeout=1)
        except OSError:
            client.close()
            return
        for side, other in ((client, server), (server, client)):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[side] = other
            self._selector.register(side, selectors.EVENT_READ)

    def _read(self, side: socket.socket) -> None:
        other = self._pairs[side]
        if len(self._waiting.get(other, b"")) >= CHUNK:
            return
        try:
            received = side.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if received:
            self._waiting[other] = self._waiting.get(other, b"") + received
        elif not self._holding and not self._waiting.get(other):
            self._drop(side)

    def _pass_on(self, side: socket.socket) -> None:
        if self._holding or side not in self._pairs:
            return
        waiting = self._waiting[side]
        part = waiting if self._rate is None else waiting[: int(self._allowance)]
        if not part:
            return
        try:
            sent = side.send(part)
        except BlockingIOError:
            return
        except OSError:
            self._drop(side)
            return
        self._allowance -= sent if self._rate is not None else 0
        if sent == len(waiting):
            del self._waiting[side]
        else:
            self._waiting[side] = waiting[sent:]

    def _drop(self, side: socket.socket) -> None:
        """Reset both halves of a connection."""
        for each in (side, self._pairs[side]):
            del self._pairs[each]
            self._waiting.pop(each, None)
            self._selector.unregister(each)
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
