"""A commit beside the loop: the next step is taken meanwhile, and nothing of it counts before the commit is known."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from itertools import islice, pairwise
from typing import Any

import pytest
from oracle import judge
from shard import Shard, WholeLog, shop, tiny_settings

from consumers.memory import Crash
from pipeline.epochs.poison import StepFailed
from pipeline.messages import Manifest
from pipeline.ports import Fenced
from pipeline.runtime.desk import Desk
from pipeline.runtime.runner import Runner
from producers.memory import Fault, MemorySink

WAIT_S = 20.0


class _Late(Future[Any]):
    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work

    def result(self, timeout: float | None = None) -> Any:
        return self._work()


class Late(Executor):
    """Commits as late as can be: when somebody waits for them."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:  # type: ignore[override]
        return _Late(lambda: work(*arguments))


class Watched:
    """A shard whose steps and commits are noted as they end, in order; `at` is called with each note before it."""

    def __init__(self, at: Callable[[str], None] = lambda note: None, **epochs: Any) -> None:
        self.shard = Shard(tiny_settings(epochs={"max_events": 3} | epochs), partitions=1)
        self.notes: list[str] = []
        self._at = at
        self.desk = Desk()

    def runner(self, executor: Executor | None = None) -> Runner:
        runner = self.shard.runner(make_sink=self._sink)
        make = runner._parts.make_processor
        parts = {"make_processor": lambda: self._watched(make()), "desk": self.desk}
        for name, part in (parts | ({"commits": lambda: executor} if executor else {})).items():
            object.__setattr__(runner._parts, name, part)
        return Runner(runner._parts)

    def run(self, events: int = 30, executor: Executor | None = None) -> Runner:
        """Over a log that has it all from the start."""
        for step in islice(shop(self.shard, random.Random(1), items=4), 4 + events):
            step()
        runner = self.runner(executor)
        runner.run(self.shard.script())
        return runner

    def judged(self, runner: Runner) -> None:
        judge(WholeLog(self.shard), self.shard.settings)
        assert runner.standing.epoch == self.shard.manifests()[-1].epoch

    def _note(self, note: str) -> None:
        self._at(note)
        self.notes.append(note)

    def _watched(self, processor: Any) -> Any:
        apply = processor.apply

        def applied(epoch: int, *rest: Any, **more: Any) -> Any:
            done = apply(epoch, *rest, **more)
            self._note(f"step {epoch}")
            return done

        processor.apply = applied
        return processor

    def _sink(self) -> MemorySink:
        watched = self

        class Noted(MemorySink):
            def commit(self, outputs: Any, manifest: Manifest | None, positions: Any) -> int:
                at = super().commit(outputs, manifest, positions)
                assert manifest is not None
                watched._note(f"commit {manifest.epoch}")
                return at

        shard = self.shard
        return Noted(shard.log, shard.name, shard.settings.topic("epochs"), group=shard.name, faults=shard.faults)


def test_a_step_is_taken_while_the_commit_before_it_is_under_way() -> None:
    watched = Watched()
    runner = watched.run(executor=Late())
    assert ("step 4", "commit 3") in pairwise(watched.notes)
    commits = [note for note in watched.notes if note.startswith("commit")]
    assert commits == [f"commit {n}" for n in range(1, len(commits) + 1)]
    for n in range(2, len(commits) - 1):
        assert watched.notes.index(f"commit {n}") < watched.notes.index(f"step {n + 2}")
    watched.judged(runner)


def test_in_threads_too() -> None:
    reached, names = threading.Event(), set[str]()

    def at(note: str) -> None:
        names.add(f"{note.split()[0]} {threading.current_thread().name.split('_')[0]}")
        if note == "step 4":
            reached.set()
        if note == "commit 3":
            assert reached.wait(WAIT_S), "nobody goes on while a commit is under way"

    watched = Watched(at)
    watched.judged(watched.run())
    assert names == {"step MainThread", "commit MainThread", "commit commit"}, "a claim is the loop's own"


def test_nothing_of_the_next_is_shown_before_it_is_committed() -> None:
    shown: list[tuple[str, float | None, float | None]] = []
    watched = Watched()
    runner = watched.runner(Late())
    metrics = runner._parts.metrics
    tell = metrics.epoch_committed

    def told(epoch: int, applied: Any, rows: Any) -> None:
        tell(epoch, applied, rows)
        assert watched.desk._epoch == epoch
        assert f"commit {epoch}" in watched.notes
        assert f"commit {epoch + 1}" not in watched.notes
        if f"step {epoch + 1}" in watched.notes:
            assert watched.desk._lock.locked(), "the state is the next epoch's"
            shown.append((str(epoch), applied.counts.lists, rows["users"]))

    metrics.epoch_committed = told  # type: ignore[method-assign]
    for step in islice(shop(watched.shard, random.Random(1), items=4), 40):
        step()
    runner.run(watched.shard.script())
    assert len(shown) > 3
    committed = sum(manifest.kind == "epoch" for manifest in watched.shard.manifests())
    assert metrics.registry.get_sample_value("headrace_epochs_total", {"result": "committed"}) == committed
    watched.judged(runner)


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
@pytest.mark.parametrize("late", [True, False])
def test_a_commit_that_fails_takes_the_next_step_with_it(fault: Fault, late: bool) -> None:
    watched = Watched()
    watched.shard.faults += [*[Fault.NONE] * 4, fault]
    try:
        watched.run(executor=Late() if late else None)
    except Crash:
        assert fault.name.startswith("CRASH")
    else:
        assert not fault.name.startswith("CRASH")
    if late:
        notes = watched.notes[: watched.notes.index("step 6") + 1]
        assert "commit 5" not in notes
        assert notes[-2:] == ["commit 4", "step 6"]
    runner = watched.runner()
    runner.run(watched.shard.script())
    watched.judged(runner)


def test_who_is_fenced_while_a_step_fails_has_been_fenced() -> None:
    watched = Watched()
    shard = watched.shard

    def at(note: str) -> None:
        if note == "step 5" and not shard.faults:
            shard.faults.append(Fault.NONE)
            younger = shard.runner(instance="younger")
            younger.run(shard.script())
            raise StepFailed("so be it")

    watched._at = at
    with pytest.raises(Fenced, match="instance younger has taken over"):
        watched.run(executor=Late())
    assert [m.instance for m in shard.manifests() if m.kind == "claim"][-1] == "younger"


def test_a_snapshot_is_of_an_epoch_that_no_step_was_taken_upon() -> None:
    watched = Watched(snapshot_interval_s=0.02)
    watched.run(events=90, executor=Late())
    shard = watched.shard
    states = {manifest.epoch: manifest.state_digest for manifest in shard.manifests()}
    kept = shard.snapshots.epochs()
    assert kept
    assert all(shard.snapshots.load(epoch).header["state_digest"] == states[epoch] for epoch in kept)
    for note in (f"commit {epoch}" for epoch in kept[:-1]):
        after = watched.notes[watched.notes.index(note) :]
        assert len(after) == 1 or after[1].startswith("step")
    last = shard.runner()
    last.run(shard.script())
    watched.judged(last)


def test_a_stop_waits_for_the_commit_and_leaves_a_snapshot_of_it() -> None:
    watched = Watched()
    for step in islice(shop(watched.shard, random.Random(1), items=4), 40):
        step()
    runner = watched.runner(Late())
    stop = watched.shard.script()
    watched._at = lambda note: stop.set() if note == "step 5" else None
    runner.run(stop)
    assert watched.notes[-2:] == ["commit 4", "commit 5"]
    assert runner.standing.epoch == 5 == watched.shard.snapshots.epochs()[-1]
    assert not watched.desk._held


def test_where_nothing_waits_a_commit_is_known_at_once() -> None:
    watched = Watched(max_events=64)

    def turn(n: int) -> None:
        if n % 5 == 0:
            watched.shard.event("u", f"i{n}")
        if n % 5 == 4:
            steps = sum(note.startswith("step") for note in watched.notes)
            assert sum(note.startswith("commit") for note in watched.notes) == 1 + steps > 1

    watched.runner(Late()).run(watched.shard.script([lambda n=n: turn(n) for n in range(20)]))  # type: ignore[misc]


def test_while_less_than_an_epoch_waits_no_step_makes_lists_late() -> None:
    watched = Watched(max_events=64)
    watched.judged(watched.run(events=100, executor=Late()))
    steps = [note for note in watched.notes if note.startswith("step")]
    assert len(steps) == 2
    for step in steps:
        assert watched.notes[watched.notes.index(step) + 1] == f"commit {step.split()[1]}"


def test_who_asks_is_answered_under_a_backlog() -> None:
    watched, answers = Watched(), list[str]()

    def ask() -> None:
        watched.desk.active(3)
        answers.append("answered")

    asking = threading.Thread(target=ask)

    def at(note: str) -> None:
        if note == "step 4":
            asking.start()
            while not watched.desk.asked:
                pass
        if note == "step 6":
            asking.join(WAIT_S)

    watched._at = at
    watched.run(executor=Late())
    asking.join(WAIT_S)
    assert answers == ["answered"]
    notes = watched.notes
    assert notes.index("commit 4") < notes.index("step 5"), "who asks is not kept waiting for another step"


@pytest.mark.parametrize("most", [1, 3, 7])
@pytest.mark.parametrize("error", [Crash, ValueError])
@pytest.mark.parametrize("place", range(6, 12))
def test_a_record_that_ends_the_step_is_found_whatever_is_under_way(
    most: int, error: type[BaseException], place: int
) -> None:
    watched = Watched(max_events=most)
    shard, make = watched.shard, watched.shard.processor

    def spoilt(*arguments: Any) -> Any:
        processor = make(*arguments)
        learn = processor._learn

        def learned(intake: Any, *rest: Any) -> Any:
            if any(timed.event.user_id == "bad" for timed in intake.events):
                raise error
            return learn(intake, *rest)

        processor._learn = learned  # type: ignore[method-assign]
        return processor

    shard.processor = spoilt  # type: ignore[method-assign]
    for item in ("i1", "i2"):
        shard.item(item)
    for n in range(16):
        shard.event("bad" if n == place else "good", "i1", event_id=f"e{n}")
    for _ in range(20):
        runner = watched.runner(Late())
        with suppress(Crash):
            runner.run(shard.script())
            break
    (poisoned,) = (p for manifest in shard.manifests() for p in manifest.poisoned)
    assert poisoned.offset == place
    watched.judged(runner)
