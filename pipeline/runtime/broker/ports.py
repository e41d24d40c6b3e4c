"""Loopback ports that nobody else has."""

from __future__ import annotations

import errno
import random
import socket

from pipeline.runtime.broker.errors import BrokerError, PortTaken

LOOPBACK = "127.0.0.1"

# Below the range from which Linux and macOS take the ports of outgoing connections: otherwise a client that
# keeps reconnecting to a broker that is down could be given the broker's own port, and connect to itself.
LOWEST, HIGHEST = 20_000, 32_000


def free_port() -> int:
    """A port that was free a moment ago; another program may still be faster."""
    for port in random.SystemRandom().sample(range(LOWEST, HIGHEST), 200):
        try:
            check_free(port, reuse=False)
        except PortTaken:
            continue
        return port
    raise BrokerError(f"no free port between {LOWEST} and {HIGHEST} on {LOOPBACK}")


def check_free(port: int, *, reuse: bool = True) -> None:
    """Raise PortTaken where something listens on `port`, BrokerError where it cannot be had at all.

    With `reuse`, connections of a broker that has just ended are no obstacle.
    """
    with socket.socket() as probe:
        if reuse:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                taken = f"{LOOPBACK}:{port} is taken by another program: choose another port"
                raise PortTaken(taken) from None
            raise BrokerError(f"cannot listen on {LOOPBACK}:{port}: {error.strerror}") from error
