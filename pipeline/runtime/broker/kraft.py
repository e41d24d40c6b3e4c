"""Apache Kafka in KRaft mode, broker and controller in one process: its properties and its command line."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.runtime.broker.child import Child
from pipeline.runtime.broker.errors import BrokerError
from pipeline.runtime.broker.jars import Announce, ensure_jars
from pipeline.runtime.broker.java import find_java
from pipeline.runtime.broker.logs import last_lines, written_since
from pipeline.runtime.broker.ports import LOOPBACK, free_port
from pipeline.runtime.broker.readiness import explain_death

LOG4J = Path(__file__).with_name("log4j2.properties")
FORMAT_TIMEOUT_S = 60.0
CONTROLLER_START_TIMEOUT_S = 60.0
FENCING_TIMEOUT_S = 3.0
FENCING_WRITTEN_S = 0.5  # the log tells of the decision, which reaches the disk after a linger of 25 ms

# Measured on two cores: the first tier of compilation and the serial collector start a third faster and take
# 70 MB less than the defaults; a development broker does not live long enough to earn more.
JVM_FLAGS = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
             "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")  # fmt: skip

PROPERTIES = {
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "5",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "5",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    # A crashed consumer or producer is noticed in seconds, so that fault tests need not wait.
    "group.min.session.timeout.ms": "1000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # The default takes 128 MB of the heap.
    "log.cleaner.dedupe.buffer.size": "16777216",
    "num.network.threads": "2",
    "num.io.threads": "4",
}
BROKER = {
    "process.roles": "broker,controller",
    # On a busy machine the only broker must not be taken for dead: commits under way would be lost.
    "broker.session.timeout.ms": "30000",
}
CONTROLLER = {
    "process.roles": "controller",
    "broker.session.timeout.ms": "100",
    "broker.heartbeat.interval.ms": "50",
}


@dataclass(frozen=True)
class KafkaEngine:
    """How Apache Kafka is run: `java` is the program, `jars` the class path.

    `properties` are the broker's beside our own; listeners among them come after ours.
    """

    java: str
    java_version: int
    jars: tuple[Path, ...]
    version: str
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Which kind of broker this is."""
        return "kafka"

    def describe(self, bootstrap: str, kept_in: Path | None) -> str:
        """One line for a person."""
        where = f"data kept in {kept_in}" if kept_in else "data removed at stop"
        name = f"Apache Kafka {self.version} (KRaft, one node, Java {self.java_version})"
        return f"{name} at {bootstrap}, {where}"

    def prepare(self, data: Path, port: int, remove: Path | None) -> tuple[list[str], str]:
        """Command line of a broker on `port` with its files under `data`, and its cluster id.

        Formats the folder if it is new; after a crash, fences the broker that crashed. `remove` is a
        folder to delete should this process die meanwhile. Raises BrokerError, with the log's last lines.
        """
        (data / "tmp").mkdir(exist_ok=True)
        properties = data / "server.properties"
        controller = _controller(data)
        listener = f"PLAINTEXT://{LOOPBACK}:{port}"
        ours = BROKER | controller | {
            "listeners": f"{listener},{controller['listeners']}",
            "advertised.listeners": listener,
        }  # fmt: skip
        further = {key: f"{ours[key]},{value}" if key in ours else value for key, value in self.properties.items()}
        properties.touch(0o600)  # passwords may be among them
        properties.write_text(lines_of(ours | further), "utf-8")
        meta = meta_of(data)
        if not meta.exists():
            self.format(data, properties, new_cluster_id(), remove)
        elif not meta.with_name(".kafka_cleanshutdown").exists():
            self._fence_crashed_broker(data, remove)
        return self.command(data, "kafka.Kafka", str(properties)), cluster_id_in(meta)

    def format(self, data: Path, properties: Path, cluster_id: str, remove: Path | None) -> None:
        """Make `data` the folder of a node of this cluster. Raises BrokerError, with the log's last lines."""
        log = data / "broker.log"
        tool = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)]
        formatting = Child(self.command(data, *tool), folder=data, log=log, remove=remove)
        try:
            status = formatting.wait(FORMAT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise BrokerError(f"formatting {data} took longer than {FORMAT_TIMEOUT_S:.0f} s") from None
        finally:
            formatting.kill()
        if status != 0:
            raise BrokerError(f"Kafka could not format {data}; its log ends:\n{last_lines(log, 10)}")

    def _fence_crashed_broker(self, data: Path, remove: Path | None) -> None:
        """Run the controller alone until it has written down that the broker is gone.

        Without that, a single node that comes back takes itself for the leader that it was, finds a
        transaction whose commit was answered but not yet marked in its partitions, loses the leadership
        when its old session ends, takes the partitions without a leader for deleted topics, and calls the
        transaction complete without its markers: read_committed consumers stop there for ever
        (seen with Kafka 4.3.1).
        """
        properties, log = data / "controller.properties", data / "broker.log"
        properties.write_text(lines_of(CONTROLLER | _controller(data)), "utf-8")
        since = log.stat().st_size if log.exists() else 0
        command = self.command(data, "kafka.Kafka", str(properties))
        controller = Child(command, folder=data, log=log, remove=remove)
        try:
            _await(controller, log, since, "Kafka Server started", CONTROLLER_START_TIMEOUT_S)
            # A broker that crashed before it was up is fenced already, and nothing more is written.
            _await(controller, log, since, "because its session has timed out", FENCING_TIMEOUT_S)
            time.sleep(FENCING_WRITTEN_S)
        finally:
            controller.stop()

    def command(self, data: Path, *main: str, flags: Sequence[str] = ()) -> list[str]:
        """A JVM that runs `main` for the node in `data`; `flags` come after the usual ones."""
        return [
            self.java,
            *JVM_FLAGS,
            *flags,
            # Native libraries are unpacked there; a SIGKILLed JVM leaves them behind.
            f"-Djava.io.tmpdir={data / 'tmp'}",
            f"-Dlog4j2.configurationFile={LOG4J}",
            f"-Dheadrace.log={data / 'broker.log'}",
            "-cp",
            os.pathsep.join(map(str, self.jars)),
            *main,
        ]


def kafka_engine(
    environment: Mapping[str, str], announce: Announce, properties: Mapping[str, str] | None = None
) -> KafkaEngine:
    """Java and Kafka's jars, from `KAFKA_HOME` or the user's cache; `properties` are the broker's beside our own.

    Raises BrokerUnavailable, saying what is missing; BrokerError where KAFKA_HOME is no Kafka.
    """
    java, java_version = find_java(environment)
    if home := environment.get("KAFKA_HOME"):
        libs = Path(home).expanduser().resolve() / "libs"
        servers = sorted(libs.glob("kafka_2.13-*.jar"))
        if not servers:
            raise BrokerError(f"KAFKA_HOME={home}: {libs} holds no kafka_2.13-*.jar")
        return KafkaEngine(java, java_version, (libs / "*",), _version(servers[0]), properties or {})
    jars = ensure_jars(environment, announce)
    server = next(jar for jar in jars if jar.name.startswith("kafka_2.13-"))
    return KafkaEngine(java, java_version, tuple(jars), _version(server), properties or {})


def _version(server_jar: Path) -> str:
    return server_jar.stem.removeprefix("kafka_2.13-")


def _controller(data: Path) -> dict[str, str]:
    """The properties of a controller on a free port."""
    port = free_port()
    return {
        "listeners": f"CONTROLLER://{LOOPBACK}:{port}",
        "controller.quorum.voters": f"1@{LOOPBACK}:{port}",
        "log.dirs": str(data / "kafka"),
    }


def lines_of(properties: Mapping[str, str]) -> str:
    """A properties file: these, and what they leave of the development broker's."""
    return "".join(f"{key}={value}\n" for key, value in (PROPERTIES | dict(properties)).items())


def _await(controller: Child, log: Path, since: int, sign: str, timeout_s: float) -> None:
    """Until `sign` stands in the log, or the time is over. Raises BrokerError where the controller dies."""
    deadline = time.monotonic() + timeout_s
    while sign not in written_since(log, since) and time.monotonic() < deadline:
        if not controller.running:
            explain_death(controller, log, since)
        time.sleep(0.05)


def new_cluster_id() -> str:
    """A random UUID as Kafka writes it: 22 characters of URL-safe base64, the first not a dash."""
    text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
    return text if not text.startswith("-") else new_cluster_id()


def meta_of(data: Path) -> Path:
    """The file that is there once a folder was formatted, and names its cluster."""
    return data / "kafka" / "meta.properties"


def cluster_id_in(meta: Path) -> str:
    """The id of the cluster that a formatted folder belongs to. Raises BrokerError."""
    match = re.search(r"^cluster\.id=(.+)$", meta.read_text("utf-8"), re.MULTILINE)
    if match is None:
        raise BrokerError(f"{meta} names no cluster.id: this is not the data of a Kafka broker")
    return match[1].strip()
