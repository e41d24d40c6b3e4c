"""Starts a broker of the kind that the machine can run, and ends it."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from pipeline.runtime.broker.child import Child
from pipeline.runtime.broker.embedded import embedded_engine
from pipeline.runtime.broker.errors import BrokerError, BrokerUnavailable, PortTaken
from pipeline.runtime.broker.jars import Announce
from pipeline.runtime.broker.kraft import kafka_engine
from pipeline.runtime.broker.ports import LOOPBACK, check_free, free_port
from pipeline.runtime.broker.readiness import wait_ready

Kind = Literal["auto", "kafka", "embedded"]

START_TIMEOUT_S = 90.0
START_ATTEMPTS = 5

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """A program that can be a broker."""

    @property
    def kind(self) -> str:
        """`kafka` or `embedded`."""
        ...

    def describe(self, bootstrap: str, kept_in: Path | None) -> str:
        """One line for a person."""
        ...

    def prepare(self, data: Path, port: int, remove: Path | None) -> tuple[list[str], str]:
        """Command line of a broker on `port` with its files under `data`, and its cluster id.

        `remove` is a folder to delete should this process die meanwhile.
        """
        ...


class Broker:
    """A running broker on loopback; a context manager that stops it. Safe to use from several threads.

    It ends with this process, however this process ends.
    """

    def __init__(self, engine: Engine, data: Path | None, port: int) -> None:
        """Start; `data` is a folder to keep, or None for a temporary one; `port` 0 takes a free one."""
        self._engine = engine
        self._kept = data
        self._data = data or Path(tempfile.mkdtemp(prefix="headrace-broker-"))
        self._lock = threading.RLock()
        self._child: Child | None = None
        self._port = port
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    @property
    def kind(self) -> str:
        """`kafka` or `embedded`."""
        return self._engine.kind

    @property
    def bootstrap(self) -> str:
        """Where clients connect: `127.0.0.1:PORT`."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int:
        """The broker's own process; that of the last one after `stop` or `kill`."""
        assert self._child is not None
        return self._child.pid

    @property
    def log(self) -> Path:
        """What the broker has to say."""
        return self._data / "broker.log"

    @property
    def description(self) -> str:
        """One line for a person: what runs, where, and what it does not do."""
        return self._engine.describe(self.bootstrap, self._kept)

    @property
    def running(self) -> bool:
        """Whether the broker's process lives."""
        return self._child is not None and self._child.running

    def stop(self) -> None:
        """End it within 10 s, cleanly if it lets itself, and remove its data unless a folder was given.

        Idempotent.
        """
        with self._lock:
            if self._child is not None:
                self._child.stop()
            if self._kept is None:
                shutil.rmtree(self._data, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL, as a crash would; the data stays, for `restart`. Idempotent."""
        with self._lock:
            if self._child is not None:
                self._child.kill()

    def restart(self) -> None:
        """Start again on the same port and data, after a clean end if it still runs.

        The embedded broker keeps no data: it comes back empty. Raises BrokerError.
        """
        with self._lock:
            if not self._data.exists():
                raise BrokerError("the broker was stopped and its data removed: start a new one")
            if self._child is not None:
                self._child.stop()
            self._start()

    def __enter__(self) -> Self:
        """The broker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _start(self) -> None:
        chosen = self._port
        if chosen:
            check_free(chosen)
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                return self._attempt(chosen or free_port())
            except PortTaken:
                if attempt == START_ATTEMPTS:
                    raise
                time.sleep(0.1 * attempt)

    def _attempt(self, port: int) -> None:
        remove = self._data if self._kept is None else None
        since = self.log.stat().st_size if self.log.exists() else 0
        command, cluster_id = self._engine.prepare(self._data, port, remove)
        self._child = Child(command, folder=self._data, log=self.log, remove=remove)
        try:
            wait_ready(self._child, port, cluster_id, self.log, since, START_TIMEOUT_S)
        except BaseException:
            self._child.kill()
            raise
        self._port = port


def start_broker(
    kind: Kind = "auto",
    data: Path | None = None,
    port: int = 0,
    *,
    announce: Announce = _log.info,
    environment: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
) -> Broker:
    """A broker that is ready for clients.

    `auto` is Apache Kafka where Java 17 and its jars can be had, else the
    embedded broker, whose description says why. `data` is a folder to keep
    (made if need be), else a temporary one is used; `port` 0 takes a free one.
    `announce` hears what takes long. `environment` stands in for os.environ
    (KAFKA_HOME, JAVA_HOME, XDG_CACHE_HOME, PATH). `properties` are server
    properties of Kafka beside our own: `listeners` and `advertised.listeners`
    among them come after the plaintext one that `bootstrap` names. Raises BrokerUnavailable
    where the machine lacks what is needed, BrokerError where the start fails.
    """
    if not 0 <= port <= 65535:
        raise BrokerError(f"port {port} is not between 0 and 65535")
    engine = _engine(kind, os.environ if environment is None else environment, announce, properties or {})
    return Broker(engine, None if data is None else data_folder(data), port)


def data_folder(given: Path) -> Path:
    """The folder to keep data in, made if need be. Raises BrokerError."""
    data = given.expanduser().absolute()
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BrokerError(f"cannot keep data in {data}: {error.strerror}") from error
    return data


def _engine(
    kind: Kind, environment: Mapping[str, str], announce: Announce, properties: Mapping[str, str]
) -> Engine:
    if kind == "embedded":
        if properties:
            raise BrokerUnavailable("the embedded broker knows no properties of Kafka")
        return embedded_engine()
    try:
        return kafka_engine(environment, announce, properties)
    except BrokerUnavailable as error:
        # What the properties ask for, a stand-in does not give.
        if kind == "kafka" or properties:
            raise
        return embedded_engine(reason=str(error))
