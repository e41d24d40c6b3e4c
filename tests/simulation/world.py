"""A world to live and die in: the real runner, recovery, sink, source and snapshot store on a simulated Kafka and disk.

One thread, no real time, no randomness but the plan's. Between any two
requests to Kafka and any two writes to disk lies a point (`World.effect`) at
which a plan may strike. Lives follow one another until the plan is done and all
is read; then what is committed is judged by `model`, and a last life must
recover the same state.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import Any
from unittest import mock

import torch
from cheap import CheapProcessor
from cluster import Admin, Cluster, Consumer, Flying, Producer
from model import Model, Put, decoded
from oracle import check_chain, checksum
from plan import Action, Plan
from torn_disk import TornDisk

import consumers.aligned
import consumers.kafka
import consumers.kafka_client
import consumers.kafka_replay
import pipeline.runtime.pipelining
import pipeline.runtime.polling
import pipeline.runtime.rewinding
import pipeline.runtime.runner
import pipeline.runtime.snapshots
import producers.kafka
from consumers.memory_log import Crash, MemoryLog
from pipeline.epochs.ladder import Ladder
from pipeline.epochs.poison import DEATHS
from pipeline.epochs.recovery import Identity, RecoveryRefused
from pipeline.epochs.snapshot import FileSnapshotStore, LoadedSnapshot
from pipeline.messages import Manifest, Output, Record, Rewind, TopicPartition, Without
from pipeline.ports import CommitUnknown, Fenced, LogGap, SnapshotDamaged
from pipeline.runtime.rewinding import rewound
from pipeline.runtime.runner import Health, Parts, Runner
from pipeline.settings import Settings

START_MS = 1_700_000_000_000
FINGERPRINT = "simulated threads-1"
INPUTS = ("events", "items", "users")
MOST_EFFECTS = 15_000
HOMES = ("home", "second")
MOODS = {"poison": 1 << 30, "moody": 1, "moodier": 2}
"""How often an event of this type makes the step raise."""


class Wrong(AssertionError):
    """The run broke a promise."""


class _Anything:
    """Metrics that nobody reads."""

    def __getattr__(self, name: str) -> _Anything:
        return self

    def __call__(self, *arguments: Any, **named: Any) -> _Anything:
        return self

    def __enter__(self) -> _Anything:
        return self

    def __exit__(self, *error: object) -> None:
        return None


class _Stop(threading.Event):
    """Asked whether to stop; never sleeps."""

    def __init__(self, world: World, says: Callable[[], bool]) -> None:
        super().__init__()
        self._world = world
        self._says = says

    def is_set(self) -> bool:
        return self._says()

    def wait(self, timeout: float | None = None) -> bool:
        self._world.pass_time(timeout or 0.0)
        return self._says()


@dataclass
class _Job:
    """A snapshot being written beside the loop: begun when its time comes."""

    world: World
    due: int
    work: Callable[[], None]
    done: bool = False

    def is_alive(self) -> bool:
        return not self.done

    def join(self) -> None:
        if not self.done:
            self.done = True
            self.work()


class _Commit(Future[Any]):
    """A commit beside the loop: made at one of the loop's effects, or when it is waited for."""

    def __init__(self, life: _Life, due: int, work: Callable[[], Any]) -> None:
        super().__init__()
        self.due = due
        self._life = life
        self._work = work

    def result(self, timeout: float | None = None) -> Any:
        self._life.at = "waiting"
        self.make()
        self._life.commit = None
        return super().result(0)

    def make(self) -> None:
        """Unless it is made already, or under way."""
        if self._life.committing or self.done():
            return
        self._life.committing = True
        try:
            self.set_result(self._work())
        except Exception as error:
            self.set_exception(error)
        finally:
            self._life.committing = False


class _Commits(Executor):
    """One thread's worth of commits: the next is not begun before the last is made."""

    def __init__(self, world: World, life: _Life) -> None:
        self._world = world
        self._life = life

    def submit(self, work: Callable[..., Any], *arguments: Any) -> _Commit:  # type: ignore[override]
        if self._life.commit is not None:
            self._life.commit.make()
        commit = _Commit(self._life, self._world.commit_due(), partial(work, *arguments))
        self._life.at = "waiting"
        if self._world.plan.overlaps:
            self._life.commit = commit
        else:
            commit.make()
        return commit


@lru_cache(maxsize=4096)
def _read(manifest: bytes) -> dict[str, Any]:
    """A manifest, which nobody changes: the same ones are asked for again and again."""
    return dict(json.loads(manifest))


@dataclass
class _Life:
    """A process: dead, it does nothing any more. `at` is where its loop is, whatever goes on beside that."""

    home: str
    instance: str
    job: _Job | None = None
    commit: _Commit | None = None
    committing: bool = False
    at: str = ""
    producer: Producer | None = None
    claims: int = 0
    overtaken: bool = False
    ready: Callable[[], bool] = lambda: False


class _Note:
    """A note beside the snapshots: a crash may lose what was written last."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.text = b""
        self._before = b""

    def read(self) -> bytes:
        return self.text

    def write(self, text: bytes) -> None:
        self._world.effect("note")
        self._before, self.text = self.text, text

    def crash(self, chance: random.Random, at: str) -> tuple[str, int, int] | None:
        """Which record was being tried alone, if one was and that is written down, or was written down last before."""
        lost = chance.random() < 0.2
        if lost:
            self.text = self._before
        said = json.loads(self.text or b"{}")
        if not (lost or at in ("step", "apply", "note")) or not said.get("underway") or not said["record"]:
            return None
        place, offset = said["record"]
        return place["topic"], place["partition"], offset


class _Checked:
    """A snapshot store that is held to its word: what `save` returned from is there, and nothing else is loaded."""

    def __init__(self, disk: TornDisk, ladder: Ladder, saved: dict[int, list[dict[str, torch.Tensor]]]) -> None:
        self._disk = disk
        self._saved = saved
        self._store = FileSnapshotStore(disk, ladder)

    def save(self, epoch: int, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        self._saved.setdefault(epoch, []).append({name: tensor.clone() for name, tensor in tensors.items()})
        self._disk.busy = True
        try:
            self._store.save(epoch, header, tensors)
        finally:
            self._disk.busy = False
        self._disk.promised = epoch

    def epochs(self) -> list[int]:
        return self._store.epochs()

    def load(self, epoch: int) -> LoadedSnapshot:
        snapshot = self._store.load(epoch)
        if not any(_same(snapshot.tensors, saved) for saved in self._saved.get(epoch, ())):
            raise Wrong(f"a snapshot of epoch {epoch} was loaded that nobody saved")
        return snapshot


@dataclass
class Report:
    """What a world came to."""

    crashes: int = 0
    lives: int = 0
    effects: int = 0
    epochs: int = 0
    fenced: int = 0
    refused: int = 0
    strikes: Counter[str] = field(default_factory=Counter)
    crash_points: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, other: Report) -> None:
        """Sum up."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@cache
def _settings_of(max_events: int, linger_ms: int, snapshot_interval_s: float, effort: str) -> Settings:
    epochs = {"max_events": max_events, "linger_ms": linger_ms, "snapshot_interval_s": snapshot_interval_s}
    return Settings(namespace="sim", learning={"allowed_lateness_s": 60, "effort": effort}, epochs=epochs)


def _settings(plan: Plan, effort: str) -> Settings:
    return _settings_of(plan.max_events, plan.linger_ms, plan.snapshot_interval_s, effort)


class World:
    """One plan, lived through. `run` raises Wrong."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._every_settings = [_settings(plan, effort) for effort in plan.efforts]
        self.settings = self._every_settings[0]
        self.report = Report()
        self.steady = 0.0
        self.skew = 0
        self.log = MemoryLog(self, {self._topic("events"): 2, self._topic("items"): 2, self._topic("users"): 1})
        self.log.create(self._topic("recommendations"), 2)
        self.log.create(self._topic("epochs"), 1)
        self.cluster = Cluster(self.log, self.effect, self._fly)
        self.disks = {home: TornDisk(self.effect, home) for home in HOMES}
        self.notes = {home: _Note(self) for home in HOMES}
        self._deaths: Counter[tuple[str, int, int]] = Counter()
        self._moods: dict[tuple[str, int, int], int] = {}
        self._mended: set[tuple[str, int, int]] = set()
        self.saved: dict[str, dict[int, list[dict[str, torch.Tensor]]]] = {home: {} for home in HOMES}
        self.puts: dict[TopicPartition, list[Put]] = {}
        self._ladder = Ladder(plan.kept, plan.hourly)
        self._waiting = list(reversed(plan.actions))
        self._pending: list[Action] = []
        self._flying: list[tuple[int, Flying]] = []
        self._upstream: list[tuple[int, str, bool, list[tuple[TopicPartition, Put]]]] = []
        self._delays = random.Random(plan.seed)
        self._life: _Life | None = None
        self._in_job = False
        self._lost_request = -1
        self._gaps = 0
        self._wishes: list[Any] = []
        self._done: int | None = None
        self._name = f"sim.learner.{self.settings.instance}"

    def now_ms(self) -> int:
        """The wall clock, which may be set back."""
        return START_MS + round(self.steady * 1000) + self.skew

    def monotonic(self) -> float:
        """Seconds that only pass."""
        return self.steady

    def sleep(self, seconds: float) -> None:
        """Of `time`."""
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.steady += max(seconds, 0.0)

    def run(self) -> Report:
        """Lives until all is read, then the judgement; raises Wrong."""
        with _simulated(self):
            try:
                self._survivor()
                self._judge(self._survivor())
            except AssertionError as error:
                raise Wrong(str(error)) from error
        return self.report

    def _survivor(self) -> Runner:
        """Lives until one has read all there is."""
        while (last := self._live("home", self._finished)) is None:
            continue
        return last

    def effect(self, kind: str) -> str | None:
        """Called before each request and write; gives the fault that it is to meet, or raises Crash."""
        report = self.report
        report.effects += 1
        if report.effects > MOST_EFFECTS:
            raise Wrong("it goes on and on")
        self.steady += 0.002
        while self._flying and self._flying[0][0] <= report.effects:
            self.cluster.arrive(self._flying.pop(0)[1])
        while self._upstream and self._upstream[0][0] <= report.effects:
            self._end_upstream()
        while self._waiting and self._waiting[-1].at <= report.effects:
            self._begin(self._waiting.pop())
        life = self._life
        if life is not None:
            self._go_on_beside(life, kind)
        return self._struck(kind)

    def commit_due(self) -> int:
        """At which effect a commit is made that is asked for now, if it is not waited for before."""
        return self.report.effects + (self._delays.randrange(8) if self.plan.overlaps else 0)

    def _go_on_beside(self, life: _Life, kind: str) -> None:
        if not self._in_job and not life.committing:
            life.at = kind
            if life.commit is not None and life.commit.due <= self.report.effects:
                life.commit.make()
        if life.job is not None and not self._in_job and life.job.due <= self.report.effects:
            self._write_snapshot(life.job)

    def _struck(self, kind: str) -> str | None:
        for action in self._pending:
            if kind not in _STRIKES[action.what] or (action.what == "crash" and action.how[2] not in (None, kind)):
                continue
            self._pending.remove(action)
            self.report.strikes[action.what] += 1
            if action.what == "crash":
                self._crash(kind, *action.how[:2])
            if action.what == "unknown":
                self._lost_request = action.how
            if action.what == "retain-late":
                self._retain(action.how)
            return action.what
        return None

    def _begin(self, action: Action) -> None:
        match action.what:
            case "input":
                self._put(*action.how)
            case "upstream":
                self._begin_upstream(action)
            case "clock":
                self.skew += action.how
                self.report.strikes["clock"] += 1
            case "grow":
                count = len(self.log.topic_partitions(self._topic("events")))
                self.log.create(self._topic("events"), min(count + 1, 4))
                self.report.strikes["grow"] += 1
            case "timeout":
                if self.log.is_open(self._name):
                    self.log.take_over(self._name)
                    self.report.strikes["timeout"] += 1
            case "flip" | "wipe":
                self._harm(action)
            case "retain":
                self._retain(action.how)
            case "rewind":
                # The operator stops the learner, none too gently.
                self._wishes.append(action.how)
                self._pending.append(Action(action.at, "crash", (-1, self.report.effects, None)))
            case "twin":
                if self._life is not None and self._life.home == "home" and not self._in_job:
                    self._twin(action.how)
            case _:
                self._pending.append(action)

    def _harm(self, action: Action) -> None:
        """Somebody or something spoils the snapshots, though not while one is being written."""
        disk = self.disks["home"]
        if disk.busy:
            return
        if action.what == "wipe":
            disk.wipe()
        elif disk.flip(random.Random(action.how)) is None:
            return
        disk.promised = None
        self.report.strikes[action.what] += 1

    def _crash(self, kind: str, delay: int, salt: int) -> None:
        life = self._life
        assert life is not None
        if kind == "commit" and delay >= 0 and life.producer is not None:
            self._send_off(life.producer.flying(), delay)
        self.disks[life.home].crash(random.Random(salt))
        at = "step" if kind == "step" else life.at
        if (tried := self.notes[life.home].crash(random.Random(salt), at)) is not None:
            self._deaths[tried] += 1
        if life.commit is not None and at in ("step", "apply"):
            self.report.strikes["overlapped"] += 1
        life.job = life.commit = None
        self.report.crashes += 1
        self.report.crash_points[kind] += 1
        raise Crash(kind)

    def _peril(self, record: Record, kind: str) -> None:
        """What an event does to the step in the middle of which it is met; what happens if a commit is under way."""
        if self._life is not None and self._life.commit is not None:
            self.effect("apply")
        key = record.topic, record.partition, record.offset
        if (kind != "deadly" and kind not in MOODS) or key in self._mended:
            return
        if self._changed_past() and self._life is not None and not self._life.ready():
            # Learned for the first time in a replay: whoever runs it goes to a version that can.
            self._mended.add(key)
        if kind == "deadly":
            self.report.strikes["deadly"] += 1
            self._crash("step", -1, self._delays.randrange(1 << 30))
        left = self._moods[key] = self._moods.get(key, MOODS[kind]) - 1
        if left >= 0:
            self.report.strikes[kind] += 1
            raise ValueError(kind)

    def _fly(self, request: Flying) -> None:
        self._send_off(request, self._lost_request)

    def _send_off(self, request: Flying, delay: int) -> None:
        if delay >= 0:
            self._flying.append((self.report.effects + delay, request))
            self._flying.sort(key=lambda flight: flight[0])

    def _write_snapshot(self, job: _Job) -> None:
        self._in_job = True
        try:
            job.join()
        finally:
            self._in_job = False

    def _live(self, home: str, finished: Callable[[], bool]) -> Runner | None:
        """One life; None unless it came to its end."""
        self._check_promise(home)
        health = Health(turned_at=0)
        before = self._life
        self._life = _Life(home, f"life-{self.report.lives}", ready=health.ready.is_set)
        self.report.lives += 1
        try:
            runner = self._runner(self._life, health)
            if home == "home" and self._wished():
                self._rewind(runner._parts)
                return None
            runner.run(_Stop(self, lambda: health.ready.is_set() and (finished() or self._wished())))
            if self._wishes:
                return None
        except Crash:
            return None
        except Fenced:
            self.report.fenced += 1
            assert self._claims()[-1] != self._life.instance, "it ends for good, though nobody has taken over"
            return None
        except (RecoveryRefused, LogGap) as error:
            self._refused(str(error))
            return None
        finally:
            self._life = before
        return runner

    def _wished(self) -> bool:
        return bool(self._wishes) and bool(self._manifests())

    def _rewind(self, parts: Parts) -> None:
        """An operator takes back what is wished for, unless a crash before this one left it done."""
        far, item, restore = self._wishes[0]
        kinds = [manifest["kind"] for manifest in self._manifests()]
        if self._done is None:
            self._done = kinds.count("rewind")
        if kinds.count("rewind") == self._done:
            without = () if restore and item is None else (Without(item_id=item),)
            try:
                rewound(parts, Rewind(int(far * len(kinds)), without, restore))
            except (CommitUnknown, ConnectionError):
                return
        self._wishes.pop(0)
        self._done = None
        self.report.strikes["rewind"] += 1

    def _manifests(self) -> list[dict[str, Any]]:
        return [_read(record.value or b"") for record in self.log.records(self._topic("epochs"))]

    def _runner(self, life: _Life, health: Health) -> Runner:
        def beside(work: Callable[[], None]) -> _Job:
            life.job = _Job(self, self.report.effects + self._delays.randrange(12), work)
            return life.job

        def make_sink() -> producers.kafka.KafkaSink:
            if life.overtaken:
                raise Wrong("it goes on, though it has heard that another one took over")
            return self._sink(life)

        topics = [self._topic(kind) for kind in INPUTS]
        settings = self._every_settings[self.report.lives % len(self._every_settings)]
        return Runner(
            Parts(
                settings=settings,
                make_source=lambda: consumers.aligned.AlignedSource(consumers.kafka.KafkaSource("sim", topics), self),
                make_sink=make_sink,
                make_processor=lambda: CheapProcessor(settings, self._peril),  # type: ignore[arg-type,return-value]
                snapshots=_Checked(self.disks[life.home], self._ladder, self.saved[life.home]),
                who=Identity(life.instance, FINGERPRINT),
                clock=self,
                metrics=_Anything(),  # type: ignore[arg-type]
                health=health,
                accept_gap=self._gaps > 0,
                beside=beside,
                commits=lambda: _Commits(self, life),
                note=self.notes[life.home],
            )
        )

    def _sink(self, life: _Life) -> producers.kafka.KafkaSink:
        """The real sink, which is watched: who is fenced after a claim that it has not read must end."""
        sink = producers.kafka.KafkaSink("sim", self._name, self._topic("epochs"), 0, self._name)
        manifests, commit = sink.manifests, sink.commit

        def read(start: int = 0) -> Iterator[Manifest]:
            found = list(manifests(start))
            life.claims = len(self._claims())
            return iter(found)

        def committed(*arguments: Any) -> int:
            try:
                return commit(*arguments)
            except Fenced:
                life.overtaken = any(claim != life.instance for claim in self._claims()[life.claims :])
                raise

        sink._within_limit = lambda request: request()  # type: ignore[method-assign]
        sink.manifests, sink.commit = read, committed  # type: ignore[method-assign]
        return sink

    def _check_promise(self, home: str) -> None:
        """The newest snapshot of which `save` said that it is on disk can be loaded, or a newer one."""
        promised = self.disks[home].promised
        if promised is None:
            return
        with mock.patch.object(self.disks[home], "_effect", _unheeded):
            store = FileSnapshotStore(self.disks[home], self._ladder)
            found = [epoch for epoch in store.epochs() if epoch >= promised and _loads(store, epoch)]
        assert found, f"the snapshot of epoch {promised} was saved and is gone, and there is no newer one"

    def _twin(self, effects: int) -> None:
        """A second learner lives while the first one stands still; when that wakes, it must see that it is over."""
        until = self.report.effects + effects
        claims = len(self._claims())
        self._live("second", lambda: self.report.effects >= until or self._finished())
        if len(self._claims()) > claims:
            self.report.strikes["twin"] += 1

    def _claims(self) -> list[str]:
        """Who has claimed the shard, in order."""
        return [manifest["instance"] for manifest in self._manifests() if manifest["kind"] == "claim"]

    def _changed_past(self) -> bool:
        """Whether a replay may come to other steps than those that were taken: after a gap, or a rewind."""
        return self._gaps > 0 or bool(self._wishes) or any(m["kind"] == "rewind" for m in self._manifests())

    def _refused(self, why: str) -> None:
        if "cannot be learned again" in why and self._changed_past():
            self.report.strikes["mended"] += 1
            return
        if not self.plan.retention or not self.report.strikes["retain"]:
            raise Wrong(f"it refuses to go on: {why}")
        self.report.refused += 1
        self._gaps += 1

    def _finished(self) -> bool:
        if self._waiting or self._flying or self._upstream or self._wishes:
            return False
        committed = self.log.committed(self._name)
        return all(not puts or committed.get(place, 0) > puts[-1].offset for place, puts in self.puts.items())

    def _put(self, kind: str, key: str | None, meaning: Any) -> None:
        place, put = self._append(kind, key, meaning, lambda output: self.log.append(output))
        self.puts.setdefault(place, []).append(put)

    def _append(
        self, kind: str, key: str | None, meaning: Any, append: Callable[[Output], tuple[TopicPartition, int]]
    ) -> tuple[TopicPartition, Put]:
        stamp = self.now_ms()
        if isinstance(meaning, dict) and kind == "events":
            meaning = {k: v for k, v in meaning.items() if k != "ago"} | {"timestamp": stamp - meaning["ago"]}
        value = meaning if isinstance(meaning, bytes | None) else json.dumps(meaning).encode()
        place, offset = append(Output(self._topic(kind), None if key is None else key.encode(), value))
        return place, Put(kind, place.partition, offset, stamp, key, meaning)

    def _begin_upstream(self, action: Action) -> None:
        """Another program writes inputs in a transaction, which hides all after them until it ends."""
        messages, commits, effects = action.how
        name = f"upstream-{len(self._waiting)}"
        epoch = self.log.take_over(name)
        self.log.begin(name, epoch)

        def append(output: Output) -> tuple[TopicPartition, int]:
            places = self.log.topic_partitions(output.topic)
            place = places[sum(output.key or b"") % len(places)]
            return place, self.log.send(name, epoch, output, place.partition)

        written = [self._append(*message, append) for message in messages]
        self._upstream.append((self.report.effects + effects, name, commits, written))
        self._upstream.sort(key=lambda ending: ending[0])

    def _end_upstream(self) -> None:
        _, name, commits, written = self._upstream.pop(0)
        if not commits:
            self.log.take_over(name)
            return
        self.log.commit(name, 0, None, {})
        for place, put in written:
            self.puts.setdefault(place, []).append(put)
            self.puts[place].sort(key=lambda one: one.offset)

    def _retain(self, left: int) -> None:
        """Retention takes all but the last few records of each events partition."""
        for place in self.log.topic_partitions(self._topic("events")):
            stable = self.log.stable_end(place)
            if stable - left > self.log.start(place):
                self.log.delete_before(place, stable - left)
                self.report.strikes["retain"] += 1

    def _judge(self, last: Runner) -> None:
        manifests = self._manifests()
        self.report.epochs = sum(manifest["kind"] == "epoch" for manifest in manifests)
        positions, begun = self._check_ranges(manifests), _begun(manifests)
        committed = begun | self.log.committed(self._name)
        for place, at in positions.items():
            assert committed.get(place) == at, f"the group stands at {committed.get(place)} of {place}, not {at}"
        self._check_poisoned(manifests)
        if self._gaps:
            return
        check_chain(manifests)
        model = Model()
        for done, manifest in enumerate(manifests, 1):
            if manifest["kind"] == "rewind":
                model = model.rewound(manifests[:done], self._within)
            if manifest["kind"] == "epoch":
                model.follow(manifest, [put for part in manifest["ranges"] for put in self._within(part)])
        self.report.outcomes = model.outcomes
        self._check_published(model)
        assert last.processor is not None
        found = last.processor
        assert isinstance(found, CheapProcessor)
        assert (found.total, found.users, found.due) == (model.total, model.users, model.due), "another state"

    def _check_ranges(self, manifests: list[dict[str, Any]]) -> dict[TopicPartition, int]:
        """Contiguous; each input in exactly one range that counts it, or in one that is named as lost."""
        positions: dict[TopicPartition, int] = {}
        for manifest in manifests:
            for begin in manifest["begins"]:
                place = TopicPartition(begin["topic"], begin["partition"])
                assert manifest["kind"] == "claim"
                assert place not in positions, f"epoch {manifest['epoch']}: {place} begins again"
                assert begin["at"] == 0 or (self.plan.retention and manifest["epoch"] == 1), f"{begin}"
                positions[place] = begin["at"]
            for part in manifest["ranges"]:
                place = TopicPartition(part["topic"], part["partition"])
                said = f"epoch {manifest['epoch']}: {place} [{part['from']}, {part['to']})"
                expected = positions.get(place, 0)
                assert part["from"] == expected, f"{said} does not begin at {expected}"
                positions[place] = part["to"]
                if manifest["kind"] != "epoch":
                    assert self._gaps, f"{said} is stepped over"
                    continue
                puts = self._within(part)
                assert len(puts) == part["records"], f"{said} holds {len(puts)} records, not {part['records']}"
                records = [self._record(place, put) for put in puts]
                assert checksum(records) == part["crc32c"], f"{said}: another checksum"
        for place, puts in self.puts.items():
            unread = [put.offset for put in puts if put.offset >= positions.get(place, 0)]
            assert not unread, f"{place}: offsets {unread} are in no manifest"
        return positions

    def _check_poisoned(self, manifests: list[dict[str, Any]]) -> None:
        """Nothing is set apart but what always ends the step, or was tried alone again and again when lives ended."""
        for poison in (poison for manifest in manifests for poison in manifest["poisoned"]):
            place = TopicPartition(poison["topic"], poison["partition"])
            (put,) = (put for put in self.puts[place] if put.offset == poison["offset"])
            kind = put.meaning.get("event_type") if isinstance(put.meaning, dict) else None
            deaths = self._deaths[place.topic, place.partition, put.offset]
            assert kind in ("poison", "deadly") or deaths + MOODS.get(kind, 0) >= DEATHS, f"{poison}: innocent"

    def _within(self, part: dict[str, Any]) -> list[Put]:
        puts = self.puts.get(TopicPartition(part["topic"], part["partition"]), ())
        return [put for put in puts if part["from"] <= put.offset < part["to"]]

    def _record(self, place: TopicPartition, put: Put) -> Record:
        value = put.meaning if isinstance(put.meaning, bytes | None) else json.dumps(put.meaning).encode()
        key = None if put.key is None else put.key.encode()
        return Record(place.topic, place.partition, put.offset, put.stamp, key, value)

    def _check_published(self, model: Model) -> None:
        found: dict[str, list[Any]] = {}
        for record in self.log.records(self._topic("recommendations")):
            found.setdefault((record.key or b"").decode(), []).append(decoded(record.value))
        for key in sorted(model.published.keys() | found.keys()):
            expected = model.published.get(key, [])
            assert found.get(key, []) == expected, f"{key}: published {found.get(key)}, expected {expected}"
        dead: Counter[tuple[str, int, int]] = Counter()
        for kind in INPUTS:
            topic = f"{self._topic(kind)}.dlq"
            for record in self.log.records(topic) if self.log.topic_partitions(topic) else ():
                headers = {name.rpartition(".")[2]: value.decode() for name, value in record.headers}
                dead[kind, int(headers["partition"]), int(headers["offset"])] += 1
        assert dead == model.dead, f"dead letters {dead - model.dead} too many, {model.dead - dead} missing"

    def _topic(self, kind: str) -> str:
        return self.settings.topic(kind)


_REQUESTS = ("connect", "init", "metadata", "fetch", "produce", "offsets", "commit")
_WRITES = ("write", "sync", "rename", "remove", "sync-names", "read")
_STRIKES = {
    "crash": (*_REQUESTS, "committed", *_WRITES, "note", "apply"),
    "away": _REQUESTS,
    "lose": ("produce",),
    "bump": ("produce",),
    "unknown": ("commit", "committed"),
    "full": ("write",),
    "retain-late": ("committed",),
}
"""The effects that each fault can meet."""


@contextmanager
def _silence() -> Iterator[None]:
    """Thousands of lives have nothing to say."""
    logger = logging.getLogger("pipeline")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _simulated(world: World) -> Iterator[None]:
    """Kafka's clients and the time are the world's."""

    def producer(**options: Any) -> Producer:
        made = Producer(world.cluster, **options)
        if world._life is not None:
            world._life.producer = made
        return made

    def consumer(**options: Any) -> Consumer:
        return Consumer(world.cluster, world.pass_time, **options)

    with (
        _silence(),
        mock.patch.object(producers.kafka, "KafkaProducer", producer),
        mock.patch.object(producers.kafka, "KafkaConsumer", consumer),
        mock.patch.object(consumers.kafka_client, "KafkaConsumer", consumer),
        mock.patch.object(consumers.kafka, "KafkaAdminClient", lambda **options: Admin(world.cluster, **options)),
        mock.patch.object(consumers.kafka_client, "time", world),
        mock.patch.object(consumers.kafka_client, "why_unreachable", return_value=""),
        mock.patch.object(consumers.kafka_replay, "time", world),
        mock.patch.object(consumers.aligned, "time", world),
        mock.patch.object(pipeline.runtime.pipelining, "time", world),
        mock.patch.object(pipeline.runtime.polling, "time", world),
        mock.patch.object(pipeline.runtime.runner, "time", world),
        mock.patch.object(pipeline.runtime.rewinding, "time", world),
        mock.patch.object(pipeline.runtime.snapshots, "time", world),
    ):
        yield


def _begun(manifests: list[dict[str, Any]]) -> dict[TopicPartition, int]:
    begins = [begin for manifest in manifests for begin in manifest["begins"]]
    return {TopicPartition(begin["topic"], begin["partition"]): begin["at"] for begin in begins}


def _unheeded(kind: str) -> None:
    """The effects of whoever looks on."""


def _loads(store: FileSnapshotStore, epoch: int) -> bool:
    try:
        store.load(epoch)
    except SnapshotDamaged:
        return False
    return True


def _same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
