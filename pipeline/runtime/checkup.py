"""`headrace doctor`: whether a learner could run here, found by trying what it will need, one thing after the other."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from consumers.kafka_connection import connection_options
from pipeline.encoding.build import check_model
from pipeline.runtime.composition import device_of, fix_threads, new_encoder
from pipeline.settings import Settings
from pipeline.showing import shown
from producers.kafka_checkup import look_at_topics, try_transaction

How = Literal["ok", "warn", "fail"]
OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"
SLOW_S = 1.0
AHEAD_S = 5.0
SLOW_DISK_S = 0.1
LEAST_FREE_BYTES = 2 << 30
SNAPSHOTS_AT_ONCE = 3
RESET = "\x1b[0m"


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: how it went, what was found, and what to do where it is not well."""

    what: str
    how: How
    found: str
    advice: str = ""

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def checkup(settings: Settings) -> Iterator[Finding]:
    """Everything, in the order in which a start needs it; what cannot be tried after a failure is left out."""
    yield tried("processors", lambda: _processors(settings))
    yield tried("model", lambda: _model(settings))
    yield tried("disk", lambda: _disk(settings))
    yield tried("port", lambda: _port(settings))
    there: list[str] = []
    kafka = tried("kafka", lambda: _kafka(settings, there))
    yield kafka
    if kafka.how != FAIL:
        yield tried("transactions", lambda: _transactions(settings, there))


def tried(what: str, look: Callable[[], Finding]) -> Finding:
    """A finding, or the failure that came in its stead."""
    try:
        return look()
    except Exception as error:
        return Finding(what, FAIL, f"{type(error).__name__}: {error}" if not str(error) else str(error))


def _processors(settings: Settings) -> Finding:
    device = device_of(settings.learning.device)
    threads = fix_threads(settings, device)
    return Finding("processors", OK, f"learning on {device} with {threads} threads, {os.cpu_count()} processors here")


def _model(settings: Settings) -> Finding:
    check_model(settings.encoding)
    began = time.monotonic()
    encoder = new_encoder(settings)
    width = encoder.encode(["headrace doctor"]).shape[1]
    took = time.monotonic() - began
    return Finding("model", OK, f"{settings.encoding.model}: {width} numbers a text; loaded and tried in {took:.1f} s")


def _disk(settings: Settings) -> Finding:
    folder = settings.snapshot_folder
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.NamedTemporaryFile(dir=nearest) as file:
        began = time.monotonic()
        file.write(b"headrace doctor")
        file.flush()
        os.fsync(file.fileno())
        took = time.monotonic() - began
    free = shutil.disk_usage(nearest).free
    largest = max((path.stat().st_size for path in folder.glob("*.snapshot")), default=0) if folder.exists() else 0
    found = f"{folder}: {free / 1e9:.1f} GB free, a flush takes {1000 * took:.0f} ms"
    if free < max(LEAST_FREE_BYTES, SNAPSHOTS_AT_ONCE * largest):
        advice = f"epochs.snapshots_hourly and _daily keep up to a snapshot each, the last is {largest / 1e6:.0f} MB"
        return Finding("disk", WARN, found, advice)
    slow = took > SLOW_DISK_S
    return Finding("disk", WARN if slow else OK, found, "each snapshot waits for several flushes" if slow else "")


def _port(settings: Settings) -> Finding:
    host, port = settings.metrics.host, settings.metrics.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried_on:
        tried_on.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried_on.bind((host, port))
        except OSError as error:
            advice = "a learner is running here already? else metrics.port takes another, 0 a free one"
            return Finding("port", WARN, f"{host}:{port}: {error.strerror}", advice)
    return Finding("port", OK, f"{host}:{port} is free for metrics and page")


def _kafka(settings: Settings, there: list[str]) -> Finding:
    """`there` is told which of our topics there are."""
    topics = look_at_topics(settings, connection_options(settings.kafka))
    there += topics.there
    found = f"{settings.kafka.bootstrap}: {topics.brokers} brokers, {len(topics.there)} of our topics"
    if topics.missing and not settings.kafka.create_topics:
        missing = ", ".join(topics.missing)
        advice = f"kafka.create_topics is off: make them as config/topics.yaml says: {missing}"
        return Finding("kafka", FAIL, found, advice)
    if topics.warnings:
        return Finding("kafka", WARN, found, "; ".join(topics.warnings))
    later = f"; {len(topics.missing)} will be made by the first run" if topics.missing else ""
    return Finding("kafka", OK, found + later)


def _transactions(settings: Settings, there: list[str]) -> Finding:
    if f"{settings.topic('events')}.dlq" not in there:
        return Finding("transactions", WARN, "not tried: there are no topics yet", "ask again after the first run")
    took, ahead = try_transaction(settings, connection_options(settings.kafka))
    found = f"one was begun and aborted in {took:.2f} s; the broker's clock is within {abs(ahead):.1f} s of this one"
    if abs(ahead) > AHEAD_S:
        return Finding("transactions", WARN, found, "set the clocks: lists say when they expire")
    slow = took > SLOW_S
    return Finding("transactions", WARN if slow else OK, found, "epochs are held up by this" if slow else "")


def told(finding: Finding, colours: bool) -> str:
    """A line for a person; what others said in it cannot colour a terminal."""
    colour = {OK: "\x1b[32m", WARN: "\x1b[33m", FAIL: "\x1b[31m"}[finding.how] if colours else ""
    mark = f"{colour}{finding.how:4}{RESET if colours else ''}"
    advice = f"\n      {shown(finding.advice)}" if finding.advice else ""
    return f"{mark}  {finding.what}: {shown(finding.found)}{advice}"


