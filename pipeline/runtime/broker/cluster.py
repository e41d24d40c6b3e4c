"""A cluster of Kafka nodes on loopback, each broker and controller: what fails over, on one machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.runtime.broker.broker import START_TIMEOUT_S, Broker, data_folder
from pipeline.runtime.broker.errors import BrokerError
from pipeline.runtime.broker.jars import Announce
from pipeline.runtime.broker.kraft import (
    BROKER,
    KafkaEngine,
    cluster_id_in,
    kafka_engine,
    lines_of,
    meta_of,
    new_cluster_id,
)
from pipeline.runtime.broker.ports import LOOPBACK, free_port
from pipeline.runtime.broker.readiness import wait_registered

MOST_NODES = 5
SMALL_HEAP = ("-Xmx320m",)

FAILING_OVER = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    # A node that is gone is replaced in seconds, one that is merely slow is not.
    "broker.session.timeout.ms": "6000",
    "broker.heartbeat.interval.ms": "1000",
}


@dataclass(frozen=True)
class KafkaNode:
    """How one node of a cluster is run; an `Engine` for `Broker`. `voters` are the controllers' ports, by node id."""

    engine: KafkaEngine
    number: int
    voters: Mapping[int, int]
    cluster_id: str

    @property
    def kind(self) -> str:
        """Which kind of broker this is."""
        return self.engine.kind

    def describe(self, bootstrap: str, kept_in: Path | None) -> str:
        """One line for a person."""
        return f"node {self.number} of {len(self.voters)}: {self.engine.describe(bootstrap, kept_in)}"

    def prepare(self, data: Path, port: int, remove: Path | None) -> tuple[list[str], str]:
        """Command line of this node on `port` with its files under `data`, and its cluster id.

        Formats the folder if it is new. The other controllers tell when it has
        crashed, so nothing is to be done about that.
        """
        (data / "tmp").mkdir(exist_ok=True)
        properties = data / "server.properties"
        listener = f"PLAINTEXT://{LOOPBACK}:{port}"
        voters = ",".join(f"{node}@{LOOPBACK}:{at}" for node, at in self.voters.items())
        properties.write_text(
            lines_of(BROKER | FAILING_OVER | {
                "node.id": str(self.number),
                "controller.quorum.voters": voters,
                "log.dirs": str(data / "kafka"),
                "listeners": f"{listener},CONTROLLER://{LOOPBACK}:{self.voters[self.number]}",
                "advertised.listeners": listener,
            }), "utf-8")  # fmt: skip
        if not meta_of(data).exists():
            self.engine.format(data, properties, self.cluster_id, remove)
        return self.engine.command(data, "kafka.Kafka", str(properties), flags=SMALL_HEAP), self.cluster_id


class Cluster:
    """Running nodes; a context manager that stops them. Each of `nodes` can be killed and restarted alone."""

    def __init__(self, engine: KafkaEngine, count: int, data: Path | None, port: int) -> None:
        """Start all at once: none is ready before most are."""
        self._engine = engine
        self._kept = data
        folders = [None if data is None else data_folder(data / f"node-{n}") for n in range(1, count + 1)]
        cluster_id = _cluster_id(folders)
        voters = dict(enumerate(_free_ports(count), 1))
        self.nodes: tuple[Broker, ...] = ()
        with ThreadPoolExecutor(count) as pool:
            starting = [
                pool.submit(Broker, KafkaNode(engine, n, voters, cluster_id), folder, port + n - 1 if port else 0)
                for n, folder in enumerate(folders, 1)
            ]
        self.nodes = tuple(future.result() for future in starting if future.exception() is None)
        try:
            _raise_first(starting)
            wait_registered(self.nodes[0].bootstrap, cluster_id, count, START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise

    @property
    def kind(self) -> str:
        """`kafka`."""
        return self._engine.kind

    @property
    def bootstrap(self) -> str:
        """Where clients connect: every node, with commas."""
        return ",".join(node.bootstrap for node in self.nodes)

    @property
    def description(self) -> str:
        """One line for a person."""
        where = f"data kept in {self._kept}" if self._kept else "data removed at stop"
        name = f"Apache Kafka {self._engine.version} (KRaft, {len(self.nodes)} nodes, Java {self._engine.java_version})"
        return f"{name} at {self.bootstrap}, {where}"

    @property
    def log(self) -> Path:
        """What the first node has to say; each has its own."""
        return self.nodes[0].log

    @property
    def running(self) -> bool:
        """Whether any node lives."""
        return any(node.running for node in self.nodes)

    def stop(self) -> None:
        """End all nodes at once, each as `Broker.stop` does. Idempotent."""
        with ThreadPoolExecutor(MOST_NODES) as pool:
            list(pool.map(lambda node: node.stop(), self.nodes))

    def __enter__(self) -> Self:
        """The cluster itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def start_cluster(
    nodes: int,
    data: Path | None = None,
    port: int = 0,
    *,
    announce: Announce,
    environment: Mapping[str, str] | None = None,
) -> Cluster:
    """Nodes that are ready for clients, at `port` and those after it, or at free ones.

    `data` is a folder to keep, with one for each node in it. Raises what `start_broker` does.
    """
    if not 3 <= nodes <= MOST_NODES:
        raise BrokerError(f"a cluster has 3 to {MOST_NODES} nodes, not {nodes}")
    if not 0 <= port <= 65536 - nodes:
        raise BrokerError(f"ports {port} to {port + nodes - 1} are not between 0 and 65535")
    engine = kafka_engine(os.environ if environment is None else environment, announce)
    return Cluster(engine, nodes, None if data is None else data_folder(data), port)


def _cluster_id(folders: list[Path | None]) -> str:
    """That of the folders formatted before, or a new one."""
    known = [meta_of(folder) for folder in folders if folder is not None and meta_of(folder).exists()]
    return cluster_id_in(known[0]) if known else new_cluster_id()


def _free_ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return sorted(found)


def _raise_first(starting: list[Future[Broker]]) -> None:
    for future in starting:
        future.result()
