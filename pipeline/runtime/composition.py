"""The composition root: the only place where ports meet what stands behind them."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version

import torch
from prometheus_client import CollectorRegistry
from torch.utils import deterministic

from consumers.aligned import AlignedSource
from consumers.decoding import JsonDecoder
from consumers.kafka import KafkaSource
from consumers.kafka_client import NoAnswer
from consumers.kafka_connection import Connection, connection_options
from consumers.kafka_group import KafkaGroupSource
from pipeline.encoding.build import LateEncoder, build_encoder, check_model
from pipeline.encoding.loading import Stopped, loaded
from pipeline.epochs.cold_files import FileColdStore, ReadColdStore
from pipeline.epochs.digest import fingerprint
from pipeline.epochs.disk import FileNote, Folder
from pipeline.epochs.ladder import Ladder
from pipeline.epochs.processor import Processor
from pipeline.epochs.recovery import Identity
from pipeline.epochs.snapshot import FileSnapshotStore
from pipeline.learning.banned import Banned
from pipeline.learning.ordering import best
from pipeline.messages import Record, Undecodable
from pipeline.ports import ColdStore, CommitUnknown, Encoder, Fenced
from pipeline.runtime.api import Live, Refused, Where
from pipeline.runtime.desk import Desk
from pipeline.runtime.embedder import Embedder
from pipeline.runtime.embedding import Turned
from pipeline.runtime.erasure import Reading
from pipeline.runtime.metrics import EmbedderMetrics, LearnerMetrics
from pipeline.runtime.notices import Notices
from pipeline.runtime.pulse import Pulse
from pipeline.runtime.runner import Health, Parts
from pipeline.runtime.scanning import scanned
from pipeline.runtime.serving import open_to_others
from pipeline.runtime.snapshot_files import ReadSnapshots
from pipeline.runtime.snapshots import Early
from pipeline.runtime.spans import NoSpans, OpenTelemetrySpans
from pipeline.runtime.titles import Titles, follow
from pipeline.settings import Settings, SettingsError
from producers.dead_letters import dead_letter_output
from producers.kafka import KafkaSink
from producers.kafka_events import EventPublisher
from producers.kafka_topics import create_topics

log = logging.getLogger(__name__)

LEARNER_INPUTS = ("events", "items", "users", "vectors", "event-vectors")
EMBEDDER_INPUTS = ("items", "events")
RETRY_S = 1.0
KAFKA_WAIT_S = 20.0
# Titles that come a moment late harm nobody; to ask often costs as much as the learner's own waiting.
TITLES_WAIT_MS = 1_000
QUIET_POLLS = 5


class SystemClock:
    """The machine's wall clock."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000


def device_of(wanted: str) -> torch.device:
    """The device that `learning.device` asks for; `auto` is the GPU where there is one. Raises SettingsError."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(1, device=wanted).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).splitlines()[0]
        raise SettingsError(f"learning.device: {wanted} cannot be used here: {said}") from None


def fix_threads(settings: Settings, device: torch.device) -> int:
    """Fix the threads and ask torch for determinism: results depend on both.

    Where the settings name none, half the processors: the broker, the embedder
    and the metrics page want the others, and two threads on two shared
    processors wait for each other more than they help.
    """
    threads = settings.learning.threads or max(1, min((os.cpu_count() or 1) // 2, 4))
    torch.set_num_threads(threads)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import torch's compiler
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # else all tensors are written twice
    return threads


def decoder_of(settings: Settings) -> JsonDecoder:
    """The decoder of the topics under a namespace."""
    return JsonDecoder({settings.topic(kind): kind for kind in LEARNER_INPUTS})


def new_processor(settings: Settings, device: torch.device, cold: ColdStore | None = None) -> Processor:
    """A blank processor; idle users go to `cold`."""
    return Processor(settings, device, decoder_of(settings), dead_letter_output, cold=cold)


def new_encoder(settings: Settings) -> Encoder:
    """The encoder that the settings name."""
    return build_encoder(settings.encoding)


def prepare_topics(settings: Settings, stop: threading.Event) -> None:
    """Create missing topics if the settings allow it; say what is wrong with existing ones.

    A Kafka that does not answer yet is waited for `KAFKA_WAIT_S`, or until `stop`. Raises
    ConnectionError where it cannot be reached: a start ends there, where later on it is waited for.
    """
    if settings.kafka.security_protocol == "sasl_plaintext":
        log.warning("kafka.security_protocol is sasl_plaintext: all is sent in the clear, with PLAIN the password too")
    until, told = time.monotonic() + KAFKA_WAIT_S, False
    while True:
        try:
            return _prepare_topics(settings)
        except NoAnswer:
            if stop.is_set() or time.monotonic() > until:
                raise
        if not told:
            log.info("waiting for Kafka at %s", settings.kafka.bootstrap)
        told = True
        stop.wait(RETRY_S)


def _prepare_topics(settings: Settings) -> None:
    options = connection_options(settings.kafka)
    if settings.kafka.create_topics:
        for warning in create_topics(settings.kafka.bootstrap, settings, options):
            log.warning("%s", warning)
    else:
        KafkaSource(settings.kafka.bootstrap, [], options=options).close()


def identity(device: torch.device, threads: int) -> Identity:
    """This process: a name that no other has, and what its results depend on, this version of Headrace included."""
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return Identity(name, f"headrace-{version('headrace')} {fingerprint(device, threads)}")


def prepare_kernels() -> None:
    """Have numba take in all that it knows, half a second at its first kernel, while a start waits for Kafka.

    An end waits for it: a daemon thread that Python cuts off inside numba's C++ aborts the process.
    """
    one, nothing = torch.zeros(1, 1), Banned.of(torch.zeros(1, 1, dtype=torch.bool))
    threading.Thread(target=lambda: best(one, nothing, 1), name="kernels").start()


def learner_parts(
    settings: Settings,
    registry: CollectorRegistry,
    health: Health,
    *,
    accept_gap: bool = False,
    desk: Desk | None = None,
) -> Parts:
    """What a learner is made of: Kafka, and the snapshot folder, which it now owns. Raises FolderInUse."""
    prepare_kernels()
    device = device_of(settings.learning.device)
    threads = fix_threads(settings, device)
    clock, connection = SystemClock(), Connection(settings.kafka)
    bootstrap, kafka, epochs = settings.kafka.bootstrap, settings.kafka, settings.epochs
    folder = Folder(settings.snapshot_folder)
    cold = FileColdStore(folder)
    ladder = Ladder(epochs.snapshots_kept, epochs.snapshots_hourly, epochs.snapshots_daily)
    inputs = [settings.topic(kind) for kind in LEARNER_INPUTS]
    name = f"{settings.namespace}.learner.{settings.instance}"

    def make_sink() -> KafkaSink:
        return KafkaSink(
            bootstrap,
            name,
            settings.topic("epochs"),
            0,
            name,
            transaction_timeout_s=kafka.transaction_timeout_s,
            options=connection.options(),
        )

    return Parts(
        settings=settings,
        make_source=lambda: AlignedSource(_opened(bootstrap, inputs, connection), clock),
        make_sink=make_sink,
        make_processor=lambda: new_processor(settings, device, cold),
        snapshots=Early(FileSnapshotStore(folder, ladder)),
        who=identity(device, threads),
        clock=clock,
        metrics=LearnerMetrics(registry, inputs, settings.snapshot_folder),
        health=health,
        accept_gap=accept_gap,
        note=FileNote(settings.snapshot_folder / "attempts"),
        desk=desk or Desk(Notices().committed),
        spans=OpenTelemetrySpans() if settings.metrics.tracing else NoSpans(),
    )


def _opened(bootstrap: str, topics: Sequence[str], connection: Connection) -> KafkaSource:
    """A source of topics that exist: to wait for the offsets of others would take half a minute."""
    source = KafkaSource(bootstrap, topics, options=connection.options())
    try:
        source.partitions()
    except ConnectionError:
        source.close()
        raise
    return source


def live_page(settings: Settings, registry: CollectorRegistry, health: Health, stop: threading.Event) -> Live:
    """What the page is made of, nothing begun: titles once the learner is ready, clicks go to the events topic.

    They do where nobody else can reach the page, or whoever does bears a token.
    """
    connection, decode = Connection(settings.kafka), decoder_of(settings)
    bootstrap, topic = settings.kafka.bootstrap, settings.topic("events")
    publisher = EventPublisher(bootstrap, topic, decode, connection.options)
    titles = Titles()

    def publish(value: bytes) -> Where:
        try:
            where, offset = publisher.publish(value)
        except Undecodable as error:
            raise Refused(str(error)) from None
        return Where(where.topic, where.partition, offset)

    def follow_titles() -> None:
        while not health.ready.wait(0.2) and not stop.is_set():
            pass
        items = [settings.topic("items")]

        def source() -> KafkaSource:
            return KafkaSource(bootstrap, items, fetch_max_wait_ms=TITLES_WAIT_MS, options=connection.options())

        follow(titles, source, decode, stop)
        publisher.close()

    metrics = settings.metrics
    private = not open_to_others(metrics.host) or metrics.token is not None or metrics.token_file is not None
    pulse = Pulse(registry, health)
    return Live(Desk(Notices().committed), titles, pulse, publish if private else None, stop.is_set, follow_titles)


@contextmanager
def reading_of(settings: Settings) -> Iterator[Reading]:
    """Log and snapshots for whoever only reads, beside a learner that may be running."""
    device = device_of(settings.learning.device)
    fix_threads(settings, device)
    bootstrap, options = settings.kafka.bootstrap, connection_options(settings.kafka)
    inputs = [settings.topic(kind) for kind in LEARNER_INPUTS]
    named = [*inputs, *(f"{topic}.dlq" for topic in inputs), settings.topic("recommendations")]
    source, everything = (KafkaSource(bootstrap, topics, options=options) for topics in (inputs, named))
    sink = KafkaSink(bootstrap, "never-started", settings.topic("epochs"), options=options)
    cold = ReadColdStore(settings.snapshot_folder)
    try:
        yield Reading(
            settings, source, everything, sink, ReadSnapshots(settings.snapshot_folder),
            lambda: new_processor(settings, device, cold),
        )  # fmt: skip
    finally:
        source.close()
        everything.close()


def run_embedder(settings: Settings, metrics: EmbedderMetrics, stop: threading.Event, turned: Turned) -> None:
    """Embed until `stop`; after a doubtful commit begin again at the committed positions.

    The model is loaded at the first text, or in the first quiet moment. Nobody else has this life's
    transactional id: whoever is fenced was slow, and the broker gave the
    transaction up. `turned` hears that it goes on, also while it waits for
    Kafka: to be started anew would not bring that back. Raises UnusableModel.
    """
    check_model(settings.encoding)
    connection = Connection(settings.kafka)
    embedder = Embedder(
        LateEncoder(lambda: loaded(lambda: new_encoder(settings), stop)), decoder_of(settings), settings,
        dead_letter_output, known=lambda: _vectors(settings, connection, stop), turned=turned,
    )  # fmt: skip
    metrics.watch(embedder)
    while not stop.is_set():
        turned(0)
        try:
            _embed(settings, connection, embedder, stop)
        except Stopped:
            return
        except (CommitUnknown, Fenced, ConnectionError) as error:
            log.warning("embedder: %s: %s; starting again", type(error).__name__, error)
            stop.wait(RETRY_S)


def _embed(settings: Settings, connection: Connection, embedder: Embedder, stop: threading.Event) -> None:
    bootstrap, group = settings.kafka.bootstrap, f"{settings.namespace}.embedder"
    options = connection.options()
    source = KafkaGroupSource(bootstrap, [settings.topic(kind) for kind in EMBEDDER_INPUTS], group, options=options)
    sink = KafkaSink(
        bootstrap,
        f"{group}.{uuid.uuid4().hex[:12]}",
        group=group,
        transaction_timeout_s=settings.kafka.transaction_timeout_s,
        group_metadata=source.group_metadata,
        options=options,
    )
    try:
        sink.start()
        embedder.run(source, sink, stop)
    finally:
        sink.close()
        source.close()


def _vectors(settings: Settings, connection: Connection, stop: threading.Event) -> Iterator[Record]:
    """What the vectors topic holds, so that a restart embeds nothing again; raises Stopped once `stop` is set."""
    source = KafkaSource(settings.kafka.bootstrap, [settings.topic("vectors")], options=connection.options())
    try:
        for records in scanned(source, QUIET_POLLS):
            if stop.is_set():
                raise Stopped("a stop was asked for while the vectors topic was being read")
            yield from records
    finally:
        source.close()


def supervised(
    name: str, work: Callable[[], None], stop: threading.Event, failures: list[BaseException]
) -> threading.Thread:
    """Run `work` in a thread; whatever ends it stops everything, and an error is kept."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            stop.set()

    thread = threading.Thread(target=run, name=name)
    thread.start()
    return thread

