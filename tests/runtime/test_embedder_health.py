"""What the embedder says of itself while it works: that it goes on, and how much waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from consumers.decoding import JsonDecoder
from consumers.memory import MemoryLog, MemorySource
from pipeline.encoding.build import LateEncoder
from pipeline.encoding.hashing import HashingEncoder
from pipeline.messages import Item, Output, Record, TopicPartition, encode
from pipeline.ports import Encoder
from pipeline.runtime.composition import SystemClock
from pipeline.runtime.embedder import Embedder
from pipeline.runtime.embedding import LOADING_S, TEXT_S
from pipeline.runtime.serving import STALLED_S
from pipeline.settings import Settings
from producers.dead_letters import dead_letter_output
from producers.memory import MemorySink

SETTINGS = Settings()
ITEMS, EVENTS = SETTINGS.topic("items"), SETTINGS.topic("events")
TOPICS = {topic: 2 for topic in (ITEMS, EVENTS, SETTINGS.topic("vectors"), SETTINGS.topic("event-vectors"))}
DECODE = JsonDecoder({SETTINGS.topic(kind): kind for kind in ("items", "events")})
PATIENCE_S = 20.0


class Heard:
    """When a loop that goes on will have stalled, seen from now."""

    def __init__(self) -> None:
        self.turns = 0
        self._until = time.monotonic()

    def turned(self, more_s: float) -> None:
        self.turns += 1
        self._until = time.monotonic() + more_s + STALLED_S

    @property
    def left_s(self) -> float:
        return self._until - time.monotonic()


class Blocked(HashingEncoder):
    """Gives no vector until it is let go."""

    def __init__(self) -> None:
        super().__init__(32)
        self.reached, self.released = threading.Event(), threading.Event()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.reached.set()
        assert self.released.wait(PATIENCE_S)
        return super().encode(texts)


def log_of(items: int) -> MemoryLog:
    log = MemoryLog(SystemClock(), TOPICS)
    for n in range(items):
        log.append(Output(ITEMS, b"i%d" % n, encode(Item(f"i{n}", title=f"title {n}"))))
    return log


@contextmanager
def running(
    encoder: Encoder, log: MemoryLog, heard: Heard, known: Callable[[], Iterator[Record]]
) -> Iterator[Embedder]:
    stage = Embedder(encoder, DECODE, SETTINGS, dead_letter_output, known=known, turned=heard.turned)
    source, sink, stop = MemorySource(log, [ITEMS, EVENTS]), MemorySink(log, "t", group="g"), threading.Event()
    sink.start()
    source.seek(source.starts())
    thread = threading.Thread(target=stage.run, args=(source, sink, stop))
    thread.start()
    try:
        yield stage
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def nothing() -> Iterator[Record]:
    yield from ()


def test_one_that_only_waits_goes_on() -> None:
    heard = Heard()
    with running(HashingEncoder(32), log_of(0), heard, nothing):
        time.sleep(0.2)
        before = heard.turns
        time.sleep(0.2)
        assert heard.turns > before


def test_one_whose_encoder_hangs_is_heard_no_more_than_its_texts_may_take() -> None:
    heard, encoder = Heard(), Blocked()
    with running(encoder, log_of(3), heard, nothing):
        try:
            assert encoder.reached.wait(PATIENCE_S)
            before = heard.turns
            time.sleep(0.2)
            assert heard.turns == before
            assert STALLED_S < heard.left_s < STALLED_S + 3 * TEXT_S
        finally:
            encoder.released.set()


def test_one_whose_model_loads_for_long_is_given_minutes_and_not_for_ever() -> None:
    heard, reached, released = Heard(), threading.Event(), threading.Event()

    def build() -> HashingEncoder:
        reached.set()
        assert released.wait(PATIENCE_S)
        return HashingEncoder(32)

    with running(LateEncoder(build), log_of(3), heard, nothing):
        try:
            assert reached.wait(PATIENCE_S)
            assert LOADING_S < heard.left_s <= LOADING_S + STALLED_S
        finally:
            released.set()


def test_in_a_quiet_moment_the_model_is_loaded_before_there_is_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.embedder.QUIET_S", 0.5)
    built = threading.Event()

    def build() -> HashingEncoder:
        built.set()
        return HashingEncoder(32)

    log = log_of(0)
    with running(LateEncoder(build), log, Heard(), nothing):
        for _ in range(20):  # under load it has not even a text to load it for
            log.append(Output(EVENTS, b"u", b"{}"))
            time.sleep(0.05)
        assert not built.is_set()
        assert built.wait(PATIENCE_S)


def test_one_that_reads_back_many_vectors_goes_on() -> None:
    heard, turns = Heard(), list[int]()

    def known() -> Iterator[Record]:
        for offset in range(3):
            turns.append(heard.turns)
            yield Record(SETTINGS.topic("vectors"), 0, offset, 0, b"i", None)

    with running(HashingEncoder(32), log_of(1), heard, known):
        deadline = time.monotonic() + PATIENCE_S
        while len(turns) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert turns == [turns[0], turns[0] + 1, turns[0] + 2]


def test_what_waits_is_seen_while_it_embeds_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.embedder.LAG_S", 0)
    encoder = Blocked()
    with running(encoder, log_of(100), Heard(), nothing) as stage:
        try:
            assert encoder.reached.wait(PATIENCE_S)
            assert stage.lag == {ITEMS: 68, EVENTS: 0}, "32 of 100 are polled first"
        finally:
            encoder.released.set()
        deadline = time.monotonic() + PATIENCE_S
        while stage.lag[ITEMS] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stage.lag == {ITEMS: 0, EVENTS: 0}


def test_each_of_several_tells_of_its_own_partitions() -> None:
    log = MemoryLog(SystemClock(), TOPICS)
    source = MemorySource(log, [ITEMS, EVENTS])
    source.seek({TopicPartition(ITEMS, 1): 0})
    stage = Embedder(HashingEncoder(32), DECODE, SETTINGS, dead_letter_output)

    class Once(threading.Event):
        """Set at the second look."""

        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 1

    stage.run(source, MemorySink(log, "t", group="g"), Once())
    assert stage.lag == {ITEMS: 0}
