"""Apache Kafka in KRaft mode, broker and controller in one process: its properties and its command line."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.runtime.broker.child import Child
from pipeline.runtime.broker.errors import BrokerError, BrokerUnavailable
from pipeline.runtime.broker.jars import Announce, ensure_jars
from pipeline.runtime.broker.logs import last_lines
from pipeline.runtime.broker.ports import LOOPBACK, free_port

JAVA_NEEDED = 17
LOG4J = Path(__file__).with_name("log4j2.properties")
FORMAT_TIMEOUT_S = 60.0

# Measured on two cores: the first tier of compilation and the serial collector start a third faster and take
# 70 MB less than the defaults; a development broker does not live long enough to earn more.
JVM_FLAGS = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
             "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")  # fmt: skip

PROPERTIES = {
    "process.roles": "broker,controller",
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
    # After a SIGKILL the broker may register again when its old session has timed out.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "250",
    # The default takes 128 MB of the heap.
    "log.cleaner.dedupe.buffer.size": "16777216",
    "num.network.threads": "2",
    "num.io.threads": "4",
}


@dataclass(frozen=True)
class KafkaEngine:
    """How Apache Kafka is run: `java` is the program, `jars` the class path."""

    java: str
    java_version: int
    jars: tuple[Path, ...]
    version: str

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

        Formats the folder if it is new. `remove` is a folder to delete should this process die meanwhile.
        Raises BrokerError, with the log's last lines, where formatting fails.
        """
        properties = data / "server.properties"
        properties.write_text(_properties(data, port, free_port()), "utf-8")
        (data / "tmp").mkdir(exist_ok=True)
        meta = data / "kafka" / "meta.properties"
        if not meta.exists():
            self._format(data, properties, remove)
        return self._command(data, "kafka.Kafka", str(properties)), _cluster_id(meta)

    def _format(self, data: Path, properties: Path, remove: Path | None) -> None:
        log = data / "broker.log"
        tool = ["kafka.tools.StorageTool", "format", "-t", _new_cluster_id(), "-c", str(properties)]
        formatting = Child(self._command(data, *tool), folder=data, log=log, remove=remove)
        try:
            status = formatting.wait(FORMAT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise BrokerError(f"formatting {data} took longer than {FORMAT_TIMEOUT_S:.0f} s") from None
        finally:
            formatting.kill()
        if status != 0:
            raise BrokerError(f"Kafka could not format {data}; its log ends:\n{last_lines(log, 10)}")

    def _command(self, data: Path, *main: str) -> list[str]:
        return [
            self.java,
            *JVM_FLAGS,
            # Native libraries are unpacked there; a SIGKILLed JVM leaves them behind.
            f"-Djava.io.tmpdir={data / 'tmp'}",
            f"-Dlog4j2.configurationFile={LOG4J}",
            f"-Dheadrace.log={data / 'broker.log'}",
            "-cp",
            os.pathsep.join(map(str, self.jars)),
            *main,
        ]


def kafka_engine(environment: Mapping[str, str], announce: Announce) -> KafkaEngine:
    """Java and Kafka's jars, from `KAFKA_HOME` or the user's cache.

    Raises BrokerUnavailable, saying what is missing; BrokerError where KAFKA_HOME is no Kafka.
    """
    java, java_version = find_java(environment)
    if home := environment.get("KAFKA_HOME"):
        libs = Path(home).expanduser().resolve() / "libs"
        servers = sorted(libs.glob("kafka_2.13-*.jar"))
        if not servers:
            raise BrokerError(f"KAFKA_HOME={home}: {libs} holds no kafka_2.13-*.jar")
        return KafkaEngine(java, java_version, (libs / "*",), _version(servers[0]))
    jars = ensure_jars(environment, announce)
    server = next(jar for jar in jars if jar.name.startswith("kafka_2.13-"))
    return KafkaEngine(java, java_version, tuple(jars), _version(server))


def find_java(environment: Mapping[str, str]) -> tuple[str, int]:
    """Path and major version of a Java that can run Kafka: `JAVA_HOME` first, then `PATH`."""
    found = []
    home = environment.get("JAVA_HOME")
    for candidate in [str(Path(home) / "bin" / "java") if home else None, "java"]:
        program = shutil.which(candidate, path=environment.get("PATH")) if candidate else None
        version = _java_version(program) if program else None
        if program and version and version >= JAVA_NEEDED:
            return program, version
        if version:
            found.append(f"{program} is Java {version}")
    older = f" ({', '.join(found)})" if found else ""
    raise BrokerUnavailable(f"Java {JAVA_NEEDED} or newer was not found{older}")


def _java_version(program: str) -> int | None:
    try:
        answer = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    return int(match[1]) if match else None


def _version(server_jar: Path) -> str:
    return server_jar.stem.removeprefix("kafka_2.13-")


def _properties(data: Path, port: int, controller_port: int) -> str:
    broker = f"PLAINTEXT://{LOOPBACK}:{port}"
    lines = PROPERTIES | {
        "listeners": f"{broker},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": broker,
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "log.dirs": str(data / "kafka").replace("\\", "\\\\"),
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _new_cluster_id() -> str:
    """A random UUID as Kafka writes it: 22 characters of URL-safe base64, the first not a dash."""
    text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
    return text if not text.startswith("-") else _new_cluster_id()


def _cluster_id(meta: Path) -> str:
    match = re.search(r"^cluster\.id=(.+)$", meta.read_text("utf-8"), re.MULTILINE)
    if match is None:
        raise BrokerError(f"{meta} names no cluster.id: this is not the data of a Kafka broker")
    return match[1].strip()
