"""When a broker that was just started can be used: it answers, and it is the one that we started."""

from __future__ import annotations

# kafka-python declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call"
import socket
import time
from pathlib import Path
from typing import Any, NoReturn

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from pipeline.runtime.broker.child import Child
from pipeline.runtime.broker.errors import BrokerError, PortTaken
from pipeline.runtime.broker.logs import last_lines
from pipeline.runtime.broker.ports import LOOPBACK

POLL_S = 0.05
PORT_TAKEN = ("Address already in use", "AddrInUse")


def wait_ready(child: Child, port: int, cluster_id: str, log: Path, since: int, timeout_s: float) -> None:
    """Return when the broker of `cluster_id` answers on `port`.

    `since` is the length of the log before this start. Raises PortTaken where
    another program has the port, BrokerError with the log's last lines where
    the broker dies or does not answer within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not child.running:
            explain_death(child, log, since)
        found = _answering_cluster(port)
        if found == cluster_id:
            return
        if found is not None:
            raise PortTaken(f"{LOOPBACK}:{port} is taken by another broker, of cluster {found}")
        time.sleep(POLL_S)
    end = last_lines(log, 10, since)
    raise BrokerError(f"the broker did not answer within {timeout_s:.0f} s; its log ends:\n{end}")


def wait_registered(bootstrap: str, cluster_id: str, count: int, timeout_s: float) -> None:
    """Return when so many brokers have joined the cluster. Raises BrokerError where they do not."""
    deadline, found = time.monotonic() + timeout_s, 0
    port = int(bootstrap.rpartition(":")[2])
    while found < count:
        if time.monotonic() > deadline:
            raise BrokerError(f"only {found} of {count} brokers joined the cluster within {timeout_s:.0f} s")
        time.sleep(POLL_S)
        cluster = _described(port)
        if cluster is not None and cluster["cluster_id"] == cluster_id:
            found = len(cluster["brokers"])


def explain_death(child: Child, log: Path, since: int) -> NoReturn:
    """Raise PortTaken or BrokerError, with the last lines of the log, for a process that has ended."""
    status = child.wait()
    end = last_lines(log, 15, since)
    if any(sign in end for sign in PORT_TAKEN):
        raise PortTaken(f"a port was taken while the broker started; its log ends:\n{end}")
    raise BrokerError(f"the broker died at start with status {status}; its log ends:\n{end}")


def _answering_cluster(port: int) -> str | None:
    """The id of the cluster whose broker answers on `port`, once it has registered; None before."""
    cluster = _described(port)
    return str(cluster["cluster_id"]) if cluster is not None and cluster["brokers"] else None


def _described(port: int) -> dict[str, Any] | None:
    """What the broker on `port` says of its cluster; None where none answers."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=0.5).close()
    except OSError:
        return None
    admin = None
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=f"{LOOPBACK}:{port}", bootstrap_timeout_ms=5000, request_timeout_ms=5000
        )
        return dict(admin.describe_cluster())
    except KafkaError:
        return None
    finally:
        if admin is not None:
            admin.close()
