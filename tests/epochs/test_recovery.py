"""Starting from what is left: damaged snapshots, changed software, logs that lost something, foreign histories."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from msgspec.structs import replace
from oracle import judge
from shard import Shard, WholeLog, of_a_later_version, shop, tiny_settings

from consumers.memory import Crash
from pipeline.epochs import tail
from pipeline.epochs.digest import chained_input
from pipeline.epochs.recovery import RecoveryRefused
from pipeline.epochs.snapshot import FORMAT, FileSnapshotStore, MemorySnapshotStore, name_of
from pipeline.messages import Counts, Manifest, TopicPartition
from pipeline.settings import Settings
from producers.memory import Fault, MemorySink


def small() -> Settings:
    """Three records an epoch, so that there are many; a snapshot only at a stop."""
    return tiny_settings(epochs={"max_events": 3})


def ran(shard: Shard, steps: int = 24, seed: int = 1) -> Shard:
    """After a first life that stopped as asked."""
    shard.run(islice(shop(shard, random.Random(seed), items=4), steps))
    return shard


def crashed(shard: Shard, epochs: int = 6, seed: int = 1) -> Shard:
    """After a first life that was killed at the commit after this many epochs: without a snapshot of its last."""
    shard.faults += [Fault.NONE] * (epochs + 1) + [Fault.CRASH_BEFORE_COMMIT]
    with pytest.raises(Crash):
        ran(shard, 40, seed)
    return shard


def kinds(shard: Shard) -> list[str]:
    """What the manifests are, runs of epochs told once."""
    found = [manifest.kind for manifest in shard.manifests()]
    return [kind for n, kind in enumerate(found) if kind != "epoch" or n == 0 or found[n - 1] != "epoch"]


def first_event_range(shard: Shard) -> tuple[TopicPartition, int, int]:
    """Where the first events lay that an epoch read, and where that range ends."""
    parts = [part for manifest in shard.manifests() for part in manifest.ranges]
    part = next(part for part in parts if part.topic == shard.settings.topic("events"))
    return TopicPartition(part.topic, part.partition), part.start, part.stop


def test_a_restart_after_a_clean_stop_replays_nothing() -> None:
    shard = ran(Shard(small()))
    applied: list[int] = []
    fresh = shard.processor

    def counted(settings: Settings | None = None) -> object:
        processor = fresh(settings)
        apply = processor.apply
        processor.apply = lambda epoch, *rest: applied.append(epoch) or apply(epoch, *rest)  # type: ignore
        return processor

    shard.processor = counted  # type: ignore
    shard.run()
    assert applied == []
    assert kinds(shard) == ["claim", "epoch", "claim"]


def test_a_replay_in_which_the_step_fails_is_refused_with_its_epoch_and_what_to_do() -> None:
    shard = crashed(Shard(small()))
    fresh = shard.processor

    def falters(settings: Settings | None = None) -> object:
        processor = fresh(settings)
        apply = processor.apply

        def at_five(epoch: int, *rest: object, **named: object) -> object:
            if epoch == 5:
                raise ZeroDivisionError("of a newer version")
            return apply(epoch, *rest, **named)  # type: ignore[arg-type]

        processor.apply = at_five  # type: ignore
        return processor

    shard.processor = falters  # type: ignore
    with pytest.raises(
        RecoveryRefused, match=r"epoch 5 cannot be learned again: ZeroDivisionError: of a newer.*--to 4"
    ):
        shard.run()
    shard.processor = fresh  # type: ignore
    shard.run()
    judge(WholeLog(shard), shard.settings)


def test_a_snapshot_of_another_log_is_refused() -> None:
    there = ran(Shard(small()))
    here = Shard(small())
    here.snapshots = there.snapshots
    with pytest.raises(RecoveryRefused, match=r"snapshot of epoch \d+, but the epochs topic has no such manifest"):
        here.run()
    assert here.manifests() == []


def test_a_snapshot_newer_than_the_log_is_refused() -> None:
    here, there = ran(Shard(small()), 10), ran(Shard(small()), 30)
    here.snapshots = there.snapshots
    before = here.manifests()
    with pytest.raises(RecoveryRefused, match="Move the snapshots away"):
        here.run()
    assert here.manifests() == before


def test_a_snapshot_of_another_history_is_passed_over() -> None:
    here, there = ran(Shard(small()), 30, seed=1), ran(Shard(small()), 14, seed=2)
    here.snapshots = there.snapshots
    here.run()
    report, _ = judge(WholeLog(here), here.settings)
    assert report.claims == 2


@pytest.mark.parametrize("damaged", [1, 3])
@pytest.mark.parametrize("harm", [lambda raw: raw[:-9], lambda raw: raw[:200] + b"?" + raw[201:], lambda raw: b""])
def test_damaged_snapshots_are_passed_over(tmp_path: Path, damaged: int, harm: Callable[[bytes], bytes]) -> None:
    shard = Shard(small())
    store = FileSnapshotStore(tmp_path / "snapshots", 3)
    shard.snapshots = store
    stream = shop(shard, random.Random(1), items=4)
    for _ in range(3):
        shard.run(islice(stream, 8))
    shard.faults += [Fault.NONE] * 2 + [Fault.CRASH_AFTER_COMMIT]
    with pytest.raises(Crash):
        shard.run(islice(stream, 12))
    assert len(store.epochs()) == 3
    for path in sorted((tmp_path / "snapshots").iterdir())[-damaged:]:
        path.write_bytes(harm(path.read_bytes()))
    shard.run()
    report, _ = judge(WholeLog(shard), shard.settings)
    assert (report.claims, report.resets) == (5, 0)
    store.close()


def test_a_snapshot_of_a_later_version_is_refused_by_name(tmp_path: Path) -> None:
    shard = Shard(small())
    store = FileSnapshotStore(tmp_path)
    shard.snapshots = store
    ran(shard)
    path = tmp_path / name_of(store.epochs()[-1])
    of_a_later_version(path)
    before = shard.manifests()
    with pytest.raises(
        RecoveryRefused, match=rf"{path.name}: written by a later version of Headrace .format {FORMAT + 1}"
    ):
        shard.run()
    assert shard.manifests() == before
    store.close()


def changed_settings(settings: Settings) -> Settings:
    """Another width: older snapshots do not fit."""
    return settings.model_copy(update={"learning": settings.learning.model_copy(update={"width": 12})})


def changed_signal(settings: Settings) -> Settings:
    """Another size of list: snapshots fit, lists differ."""
    return settings.model_copy(update={"publishing": settings.publishing.model_copy(update={"trending_size": 3})})


@pytest.mark.parametrize("stopped", [ran, crashed])
@pytest.mark.parametrize("change", [changed_settings, changed_signal])
def test_changed_settings_are_told_by_a_digest_reset(
    stopped: Callable[[Shard], Shard], change: Callable[[Settings], Settings]
) -> None:
    shard = stopped(Shard(small()))
    settings = change(shard.settings)
    shard.run(settings=settings)
    assert kinds(shard)[:4] == ["claim", "epoch", "claim", "digest-reset"]
    shard.run([lambda: shard.event("u9", "i1")], settings=settings)
    assert kinds(shard)[-2:] == ["claim", "epoch"], "told once"


@pytest.mark.parametrize("stopped", [ran, crashed])
def test_another_machine_is_told_by_a_digest_reset(stopped: Callable[[Shard], Shard]) -> None:
    shard = stopped(Shard(small()))
    shard.run(fingerprint="another threads-1")
    assert kinds(shard)[:4] == ["claim", "epoch", "claim", "digest-reset"]
    shard.run(fingerprint="another threads-1")
    assert kinds(shard)[-1] == "claim"


def test_a_gap_in_what_must_be_replayed_is_refused_by_name_or_accepted() -> None:
    shard = crashed(Shard(small()))
    place, start, stop = first_event_range(shard)
    shard.log.delete_before(place, stop)
    with pytest.raises(RecoveryRefused, match=rf"{place.topic}-{place.partition}.*\[{start}, {stop}\).*--accept-gap"):
        shard.run()
    runner = shard.run(accept_gap=True)
    assert "digest-reset" in kinds(shard)
    assert shard.all_read()
    assert runner.standing.epoch == len(shard.manifests())
    shard.run([lambda: shard.event("u9", "i1")])
    assert kinds(shard)[-2:] == ["claim", "epoch"], "after a snapshot nothing is asked any more"


def test_events_lost_before_they_were_read_are_refused_by_name_or_accepted() -> None:
    shard = ran(Shard(small()))
    place, _, _ = first_event_range(shard)
    stood = shard.log.end(place)
    for n in range(20):
        shard.event(f"late-{n}", "i1")
    lost = stood + 3
    shard.log.delete_before(place, lost)
    assert lost < shard.log.end(place)
    with pytest.raises(RecoveryRefused, match=rf"{place.topic}-{place.partition} \[{stood}, {lost}\).*--accept-gap"):
        shard.run()
    assert kinds(shard) == ["claim", "epoch"], "no claim before it is known that this can go on"
    shard.run(accept_gap=True)
    assert shard.all_read()
    reset = next(manifest for manifest in shard.manifests() if manifest.kind == "digest-reset")
    assert [(part.start, part.stop, part.records) for part in reset.ranges] == [(stood, lost, 0)]
    shard.run([lambda: shard.event("u9", "i1")])
    assert kinds(shard)[-2:] == ["claim", "epoch"]


def test_a_partition_that_was_never_read_cannot_lose_its_events_unnoticed() -> None:
    shard = Shard(small(), partitions=1)
    shard.event("u1", "i1")
    shard.run()
    users = TopicPartition(shard.settings.topic("users"), 0)
    assert users in {TopicPartition(b.topic, b.partition) for b in shard.manifests()[0].begins}
    for user in ("u1", "u2", "u3"):
        shard.append("users", user, None)
    shard.log.delete_before(users, 2)
    with pytest.raises(RecoveryRefused, match=rf"{users.topic}-0 \[0, 2\)"):
        shard.run()


def test_the_first_start_begins_where_the_log_does() -> None:
    shard = Shard(small(), partitions=1)
    for n in range(5):
        shard.event("u1", "i1", event_id=f"e{n}")
    events = TopicPartition(shard.settings.topic("events"), 0)
    shard.log.delete_before(events, 3)
    shard.run()
    begins = {TopicPartition(b.topic, b.partition): b.at for b in shard.manifests()[0].begins}
    assert begins[events] == 3
    assert shard.manifests()[1].ranges[0].start == 3
    shard.run()
    assert shard.manifests()[-1].begins == ()


def test_what_is_stepped_over_is_no_lag() -> None:
    shard = ran(Shard(small()))
    place, _, _ = first_event_range(shard)
    for n in range(20):
        shard.event(f"late-{n}", "i1")
    shard.log.delete_before(place, shard.log.end(place))
    shard.run(accept_gap=True)
    assert shard.log.committed(shard.name)[place] == shard.log.end(place)


def test_a_snapshot_from_before_an_accepted_gap_does_not_lead_to_the_state_after_it() -> None:
    shard = ran(Shard(small()))
    whole, shard.snapshots = shard.snapshots, MemorySnapshotStore()
    place, _, stop = first_event_range(shard)
    shard.log.delete_before(place, stop)
    shard.run([lambda: shard.event("u9", "i1")], accept_gap=True)
    assert kinds(shard)[-2:] == ["digest-reset", "epoch"]
    shard.snapshots = whole
    shard.run()
    assert kinds(shard)[-2:] == ["claim", "digest-reset"], "it says that its state is another one"


def test_a_state_that_starts_anew_is_saved_at_once() -> None:
    shard = crashed(Shard(small()))
    place, _, stop = first_event_range(shard)
    shard.log.delete_before(place, stop)
    shard.crash_after.append(0)
    with pytest.raises(Crash):
        shard.run(accept_gap=True)
    shard.run()
    assert kinds(shard)[-3:] == ["digest-reset", "claim", "epoch"]


def test_a_gap_at_the_very_end_does_not_break_the_chain() -> None:
    shard = crashed(Shard(small(), partitions=1))
    last = next(manifest for manifest in reversed(shard.manifests()) if manifest.ranges)
    for part in last.ranges:
        place = TopicPartition(part.topic, part.partition)
        shard.log.delete_before(place, part.stop)
    shard.faults += [Fault.NONE, Fault.NONE, Fault.CRASH_AFTER_COMMIT]
    with pytest.raises(Crash):
        shard.run([lambda: shard.event("u9", "i1")], accept_gap=True)
    assert kinds(shard)[-3:] == ["claim", "digest-reset", "epoch"]
    shard.run()
    assert kinds(shard)[-2:] == ["epoch", "claim"]


def test_a_record_that_vanished_is_noticed() -> None:
    shard = crashed(Shard(small()))
    place, start, _ = first_event_range(shard)
    shard.log.compact_away(place, start)
    with pytest.raises(RecoveryRefused, match="the log now holds"):
        shard.run()


def test_an_epochs_topic_that_lost_its_beginning_is_refused() -> None:
    shard = crashed(Shard(small()))
    shard.log.delete_before(TopicPartition(shard.settings.topic("epochs"), 0), 4)
    with pytest.raises(RecoveryRefused, match="the log has a hole"):
        shard.run()


def test_the_beginning_of_the_epochs_topic_is_not_needed_once_there_is_a_snapshot() -> None:
    shard = ran(Shard(small()))
    shard.log.delete_before(TopicPartition(shard.settings.topic("epochs"), 0), 4)
    runner = shard.run([lambda: shard.event("u9", "i1")])
    assert runner.standing.epoch == shard.manifests()[-1].epoch


@pytest.mark.parametrize(
    ("forged", "complaint"),
    [
        ({"state_digest": "f" * 64}, "state and log disagree"),
        ({"input_digest": "f" * 64}, "its input digest does not follow"),
        ({"epoch": 99}, "the log has a hole"),
    ],
)
def test_a_manifest_that_does_not_follow_is_refused(forged: dict[str, str | int], complaint: str) -> None:
    shard = crashed(Shard(small()))
    shard.snapshots = MemorySnapshotStore()
    last = shard.manifests()[-1]
    assert last.kind == "epoch"
    digest = chained_input(last.input_digest, ())
    true = replace(last, epoch=last.epoch + 1, ranges=(), input_digest=digest, counts=Counts())
    sink = MemorySink(shard.log, shard.name, shard.settings.topic("epochs"))
    sink.start()
    sink.commit([], replace(true, **forged), {})
    with pytest.raises(RecoveryRefused, match=complaint):
        shard.run()


def test_a_start_holds_a_few_manifests_in_memory_and_not_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MOST_HELD", 4)
    shard = Shard(small(), partitions=1)
    shard.event("u1", "i1")
    shard.run()
    shard.snapshots = MemorySnapshotStore()
    last = shard.manifests()[-1]
    sink = MemorySink(shard.log, shard.name, shard.settings.topic("epochs"))
    sink.start()
    for epoch in range(last.epoch + 1, last.epoch + 3_000):
        digest = last.input_digest
        sink.commit([], replace(last, epoch=epoch, kind="claim", ranges=(), input_digest=digest, counts=Counts()), {})
    held: list[weakref.ref[Held]] = []
    most = 0

    class Held(Manifest, weakref=True):
        """A manifest that can be watched: whether anything still refers to it."""

    class Watched(MemorySink):
        def manifests(self, start: int = 0) -> Iterator[Manifest]:
            nonlocal most
            for manifest in super().manifests(start):
                one = Held(**{name: getattr(manifest, name) for name in manifest.__struct_fields__})
                held.append(weakref.ref(one))
                yield one
                del one
                held[:] = [ref for ref in held if ref() is not None]
                most = max(most, len(held))

    runner = shard.run(
        make_sink=lambda: Watched(shard.log, shard.name, shard.settings.topic("epochs"), group=shard.name)
    )
    assert runner.standing.epoch == last.epoch + 3_000
    assert 1 <= most <= 8
