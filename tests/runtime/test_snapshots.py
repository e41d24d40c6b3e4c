"""When snapshots are taken: after some time, and sooner where a restart would have much to do again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

import pipeline.runtime.snapshots
from pipeline.epochs.history import Standing
from pipeline.epochs.processor import Processor
from pipeline.epochs.snapshot import MemorySnapshotStore
from pipeline.ports import Snapshot, SnapshotDamaged
from pipeline.runtime.composition import SystemClock, new_processor
from pipeline.runtime.metrics import LearnerMetrics
from pipeline.runtime.snapshots import (
    NICE,
    PRESSED_RESTS,
    PRESSING,
    RESTS,
    Copies,
    Early,
    SnapshotWriter,
    Task,
    in_thread,
)
from pipeline.settings import Epochs, Settings

SLOW_S = 0.05


class Watch:
    """Stands in for the module `time`: it goes on when it is told to, whatever else the machine does."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    made = Watch()
    monkeypatch.setattr(pipeline.runtime.snapshots, "time", made)
    return made


class _SlowStore(MemorySnapshotStore):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def save(self, epoch: int, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        self._watch.at += SLOW_S
        super().save(epoch, header, tensors)


class _FullStore(MemorySnapshotStore):
    full = True

    def save(self, epoch: int, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        if self.full:
            raise OSError("no space left")
        super().save(epoch, header, tensors)


class _Done:
    def is_alive(self) -> bool:
        return False

    def join(self) -> None:
        return None


def at_once(work: Callable[[], None]) -> Task:
    work()
    return _Done()


class Bench:
    """A writer over a store, asked after epochs 1, 2, … that took so long."""

    def __init__(self, store: MemorySnapshotStore, **epochs: float) -> None:
        self.store = store
        metrics = LearnerMetrics(CollectorRegistry())
        self.writer = SnapshotWriter(store, Epochs(**epochs), metrics, SystemClock(), at_once)
        self.processor: Processor = new_processor(Settings(learning={"width": 8}), torch.device("cpu"))
        self.epoch = 0

    def work(self, *seconds: float) -> list[int]:
        for worked in seconds:
            self.epoch += 1
            self.writer.maybe_write(self.processor, Standing(self.epoch), worked)
        return self.store.epochs()


def test_work_asks_for_a_snapshot_before_the_time_does(watch: Watch) -> None:
    bench = Bench(MemorySnapshotStore(), snapshot_interval_s=1e9, replay_s=5)
    assert bench.work(2, 2) == []
    assert bench.work(2) == [3]
    watch.at += 0.2
    assert bench.work(2, 2, 0.5) == [3]
    assert bench.work(1) == [3, 7]


def test_what_a_start_did_again_counts_as_work(watch: Watch) -> None:
    bench = Bench(MemorySnapshotStore(), snapshot_interval_s=1e9, replay_s=5)
    bench.writer.worked(6)
    assert bench.work(0.1) == [1]


def test_large_snapshots_are_taken_less_often(watch: Watch) -> None:
    bench = Bench(_SlowStore(watch), snapshot_interval_s=1e9, replay_s=5, most_replay_s=0)
    assert bench.work(6) == [1]
    assert bench.work(6, 6) == [1]
    watch.at += RESTS * SLOW_S * 0.6
    assert bench.work(0) == [1]
    watch.at += RESTS * SLOW_S * 0.3
    assert bench.work(0) == [1, 5]


def test_the_disk_rests_less_where_a_restart_would_soon_have_too_much_to_do_again(watch: Watch) -> None:
    bench = Bench(_SlowStore(watch), snapshot_interval_s=1e9, replay_s=5, most_replay_s=100 / PRESSING)
    assert bench.work(6) == [1]
    watch.at += PRESSED_RESTS * SLOW_S * 0.3
    assert bench.work(99) == [1]
    assert bench.work(1) == [1], "the disk has rested for too short a time"
    watch.at += PRESSED_RESTS * SLOW_S * 0.3
    assert bench.work(0) == [1, 4]
    watch.at += PRESSED_RESTS * SLOW_S * 0.9
    assert bench.work(99) == [1, 4], "nothing presses"
    assert bench.work(1) == [1, 4, 6]


def test_the_thread_beside_the_loop_leaves_it_the_processor() -> None:
    found = []
    in_thread(lambda: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))).join()
    assert found == [min(os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICE, 19)]


def test_work_is_unsaved_until_it_is_on_disk(watch: Watch) -> None:
    store = _FullStore()
    bench = Bench(store, snapshot_interval_s=1e9, replay_s=5)
    assert bench.work(3, 3, 3) == []
    assert bench.writer.unsaved_s == 9
    store.full = False
    assert bench.work(3) == [4]
    assert bench.writer.unsaved_s == 0
    bench.work(1)
    assert bench.writer.unsaved_s == 1
    bench.writer.write(bench.processor, Standing(bench.epoch))
    assert bench.writer.unsaved_s == 0


def test_without_it_time_alone_counts(watch: Watch) -> None:
    bench = Bench(MemorySnapshotStore(), snapshot_interval_s=0.1, replay_s=0)
    assert bench.work(1e6) == []
    watch.at += 0.1
    assert bench.work(0) == [2]


class _ReadStore(MemorySnapshotStore):
    """Notes what is read, and fails as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []
        self.trouble: Exception | None = None

    def load(self, epoch: int) -> Snapshot:
        self.read.append(epoch)
        if self.trouble is not None:
            trouble, self.trouble = self.trouble, None
            raise trouble
        return super().load(epoch)


def two_snapshots() -> _ReadStore:
    store = _ReadStore()
    for epoch in (4, 9):
        store.save(epoch, {"epoch": epoch}, {"x": torch.tensor(epoch)})
    return store


def test_the_newest_snapshot_is_read_once_and_early() -> None:
    store = two_snapshots()
    early = Early(store)
    assert early.epochs() == [4, 9]
    assert early.load(9).header["epoch"] == 9
    assert store.read == [9]
    assert early.load(9).header["epoch"] == 9
    assert store.read == [9, 9], "what was read early is not kept"


def test_another_snapshot_than_the_newest_is_read_when_it_is_asked_for() -> None:
    store = two_snapshots()
    early = Early(store)
    assert early.load(4).header["epoch"] == 4
    assert early.load(9).header["epoch"] == 9
    assert sorted(store.read) == [4, 9, 9]


def test_what_is_wrong_with_the_newest_is_said_when_it_is_asked_for() -> None:
    store = two_snapshots()
    store.trouble = SnapshotDamaged("a bit")
    early = Early(store)
    with pytest.raises(SnapshotDamaged, match="a bit"):
        early.load(9)
    assert early.load(4).header["epoch"] == 4


def test_a_disk_that_failed_early_is_asked_again() -> None:
    store = two_snapshots()
    store.trouble = OSError("busy")
    assert Early(store).load(9).header["epoch"] == 9


def test_a_copy_is_of_the_state_as_it_was_and_taken_over_the_last_one() -> None:
    copies = Copies()
    state = {"same": torch.arange(4.0), "grows": torch.zeros(2), "kind": torch.zeros(2, dtype=torch.int64)}
    first = copies.take(state)
    place = first["same"].data_ptr()
    state["same"] += 1
    assert first["same"].tolist() == [0, 1, 2, 3], "a copy"
    state |= {"grows": torch.ones(3), "kind": torch.ones(2), "new": torch.ones(1)}
    del first
    second = copies.take(state)
    assert second["same"].data_ptr() == place
    assert {name: tensor.tolist() for name, tensor in second.items()} == {n: t.tolist() for n, t in state.items()}
    assert {name: tensor.dtype for name, tensor in second.items()} == {n: t.dtype for n, t in state.items()}
    assert all(second[name].data_ptr() != tensor.data_ptr() for name, tensor in state.items())


def test_of_a_large_state_no_copy_is_held() -> None:
    copies = Copies(most_held=15)
    first = copies.take({"state": torch.zeros(4)})
    second = copies.take({"state": torch.ones(4)})
    assert (first["state"].tolist(), second["state"].tolist()) == ([0] * 4, [1] * 4)
