"""Writes snapshots beside the loop: the state is copied at a commit, the disk is waited for in a thread."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol

from torch import Tensor

from pipeline.epochs.history import Standing
from pipeline.epochs.processor import Processor
from pipeline.ports import Clock, Snapshot, SnapshotStore
from pipeline.runtime.metrics import LearnerMetrics
from pipeline.settings import Epochs

log = logging.getLogger(__name__)


class Task(Protocol):
    """Something that goes on beside the loop."""

    def is_alive(self) -> bool:
        """Whether it still does."""
        ...

    def join(self) -> None:
        """Wait until it does not."""
        ...


NICE = 10
"""By so much nicer than the loop, where a thread can be (Linux): what goes on beside it takes what it leaves."""


def in_thread(work: Callable[[], None]) -> Task:
    """Do this beside the loop."""

    def nicely() -> None:
        if sys.platform == "linux":
            with suppress(OSError):
                thread = threading.get_native_id()
                os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICE)
        work()

    thread = threading.Thread(target=nicely, name="snapshot")
    thread.start()
    return thread


RESTS = 4
"""Times as long as the last snapshot took, at least, until the amount of work asks for the next."""
PRESSED_RESTS = 2
PRESSING = 0.5
"""Of `most_replay_s` so much is in no snapshot yet: then sooner, since at the whole of it lists are made to wait."""


MOST_HELD = 256 << 20
"""Bytes of the last copy that the next is written over, at most: new memory costs four times what copying does."""


class Copies:
    """Copies of the state, one at a time: a copy is over when the next is taken."""

    def __init__(self, most_held: int = MOST_HELD) -> None:
        self._most_held = most_held
        self._held: dict[str, Tensor] = {}

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as they are now."""
        last, self._held = self._held, {}
        copied = {name: _copied(tensor.detach(), last.pop(name, None)) for name, tensor in tensors.items()}
        if sum(tensor.nbytes for tensor in copied.values()) <= self._most_held:
            self._held = copied
        return dict(copied)


def _copied(tensor: Tensor, onto: Tensor | None) -> Tensor:
    if onto is None or (onto.shape, onto.dtype, onto.device) != (tensor.shape, tensor.dtype, tensor.device):
        return tensor.clone()
    return onto.copy_(tensor)


class Early:
    """A store whose newest snapshot is already being read and verified while a start waits for Kafka."""

    def __init__(self, store: SnapshotStore) -> None:
        """Begins at once, in a thread."""
        self._store = store
        self._epoch = max(store.epochs(), default=0)
        self._read: Future[Snapshot] | None = Future() if self._epoch else None
        if self._read is not None:
            threading.Thread(target=self._begin, args=(self._read,), name="early").start()

    def save(self, epoch: int, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """As the store does."""
        self._store.save(epoch, header, tensors)

    def epochs(self) -> list[int]:
        """As the store does."""
        return self._store.epochs()

    def load(self, epoch: int) -> Snapshot:
        """As the store does; the first time, what was read early, if it is that."""
        read, self._read = self._read, None
        early = None if read is None else read.exception()
        if read is None or epoch != self._epoch or isinstance(early, OSError):
            return self._store.load(epoch)
        return read.result()

    def _begin(self, read: Future[Snapshot]) -> None:
        try:
            read.set_result(self._store.load(self._epoch))
        except BaseException as error:
            read.set_exception(error)


class SnapshotWriter:
    """A snapshot now and then: after some time, and sooner where a restart would have much to do again.

    At most one is being written at a time; a failure is logged and counted, the next one tries again.
    """

    def __init__(
        self,
        store: SnapshotStore,
        settings: Epochs,
        metrics: LearnerMetrics,
        clock: Clock,
        beside: Callable[[Callable[[], None]], Task],
    ) -> None:
        self._store = store
        self._interval_s = settings.snapshot_interval_s
        self._replay_s = settings.replay_s or float("inf")
        self._pressing_s = PRESSING * (settings.most_replay_s or float("inf"))
        self._worked_s = self._copied_s = self._saved_s = 0.0
        self._took_s = 0.0
        self._metrics = metrics
        self._clock = clock
        self._last = time.monotonic()
        self._written = 0
        self._beside = beside
        self._task: Task | None = None
        self._copies = Copies()

    def maybe_write(self, processor: Processor, standing: Standing, worked_s: float) -> None:
        """Copy the state and begin writing it, if it is time and no write is under way.

        `worked_s` are the seconds that the last epoch's step took: a replay takes them again.
        """
        due = self.is_due(worked_s)
        self.worked(worked_s)
        if not due:
            return
        self._last, self._copied_s = time.monotonic(), self._worked_s
        copied = self._copies.take(processor.state())
        header = standing.header() | processor.paged_out()
        worked_s = self._worked_s
        self._task = self._beside(lambda: self._save(standing.epoch, header, copied, worked_s))

    def is_due(self, worked_s: float) -> bool:
        """Whether `maybe_write` would begin one."""
        since = time.monotonic() - self._last
        uncopied_s = self._worked_s + worked_s - self._copied_s
        rests = RESTS if self.unsaved_s + worked_s < self._pressing_s else PRESSED_RESTS
        due = since >= self._interval_s or (uncopied_s >= self._replay_s and since >= rests * self._took_s)
        return due and not (self._task is not None and self._task.is_alive())

    def worked(self, seconds: float) -> None:
        """So much was done, or done again at a start: without a snapshot the next start does it once more."""
        self._worked_s += seconds

    def write(self, processor: Processor, standing: Standing) -> None:
        """Write a snapshot now, unless this epoch has one, and wait for it."""
        self.close()
        if standing.epoch > self._written:
            header = standing.header() | processor.paged_out()
            tensors = {name: tensor.detach() for name, tensor in processor.state().items()}
            self._save(standing.epoch, header, tensors, self._worked_s)

    @property
    def unsaved_s(self) -> float:
        """Seconds of learning that are in no snapshot on disk yet: a restart would have to do them again."""
        return self._worked_s - self._saved_s

    def close(self) -> None:
        """Wait for the write under way."""
        if self._task is not None:
            self._task.join()
            self._task = None

    def _save(self, epoch: int, header: dict[str, Any], tensors: dict[str, Tensor], worked_s: float) -> None:
        began = time.monotonic()
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        self._metrics.state_bytes.set(size)
        try:
            self._store.save(epoch, header | {"saved_at": self._clock.now_ms()}, tensors)
        except OSError as error:
            self._metrics.snapshot_errors.inc()
            log.warning("snapshot of epoch %d could not be written: %s", epoch, error)
            return
        self._written, self._took_s, self._saved_s = epoch, time.monotonic() - began, worked_s
        self._metrics.snapshot_bytes.set(size)
        self._metrics.snapshot_seconds.set(self._took_s)
        self._metrics.snapshot_time.set(self._clock.now_ms() / 1000)
