"""Users paged out and brought back: nobody can tell, from lists or after crashes; the erased are gone there too."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from oracle import judge
from shard import Shard, WholeLog, shop, tiny_settings
from test_golden import digests, story
from test_properties import ITEMS, LISTS, USERS, epoch, records_of
from test_runner import judged, lives
from torn_disk import TornDisk

from consumers.memory import Crash
from pipeline.epochs.cold_files import FileColdStore, is_damaged
from pipeline.epochs.digest import config_hash
from pipeline.epochs.disk import Folder
from pipeline.epochs.processor import Processor
from pipeline.epochs.snapshot import FileSnapshotStore, name_of
from pipeline.learning import paging
from pipeline.learning.paging import MemoryColdStore
from pipeline.learning.paging_kernels import CONSUMED, ENTRIES, EXTRA, HEAD
from pipeline.ports import ColdDamaged
from producers.memory import Fault

LISTED = {"segments": ["country"], "min_interval_s": 5, "similar_interval_s": 1, "trending_interval_s": 1}
LEARNED = {"allowed_lateness_s": 1800, "dedupe_window_s": 3600, "micro_batch": 8, "interest_steps": 2}
SOME = hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def paged(processor: Processor) -> int:
    """Users that are not in memory."""
    return processor.learner.users.paging.cold


def held(processor: Processor) -> dict[str, tuple[list[int], list[int], list[int], int, list[int]]]:
    """Everyone's history and consumed items, whoever is in memory. Changes who is."""
    users, items = processor.learner.users, len(processor.learner.catalogue)
    found = {}
    for row in range(len(users.ids)):
        if name := users.ids.name(row):
            history, consumed = users.windows(torch.tensor([row]), items)
            entries = [part[0].tolist() for part in (history.item_QL, history.code_QL, history.time_QL)]
            found[name] = (*entries, int(history.count_Q), torch.nonzero(consumed.whole(items)[0]).flatten().tolist())
    return found


def records_in(store: MemoryColdStore) -> list[tuple[int, bytes]]:
    """Row and words of each record of every segment."""
    found = []
    for block in store.blocks.values():
        words, at = np.frombuffer(block, dtype="<i4"), 0
        while at < len(words):
            size = HEAD + 3 * int(words[at + ENTRIES]) + int(words[at + CONSUMED]) + int(words[at + EXTRA])
            found.append((int(words[at]), words[at : at + size].tobytes()))
            at += size
    return found


def items_of(words: Any) -> list[int]:
    """A record's items: of its history, consumed, and liked, before which stands how many these are."""
    entries, consumed = int(words[ENTRIES]), int(words[CONSUMED])
    eaten = HEAD + 3 * entries
    return [*words[HEAD : HEAD + entries], *words[eaten : eaten + consumed], *words[eaten + consumed + 1 :]]


@pytest.mark.parametrize("most", [1, 3, 8])
def test_what_is_published_and_learned_does_not_depend_on_who_is_in_memory(
    shop_of: Any, settings_of: Any, most: int
) -> None:
    plain, small = shop_of(settings_of(LISTED, LEARNED)), settings_of(LISTED, LEARNED | {"users_in_memory": most})
    epochs, other = story(plain, 5), shop_of(small).fresh()
    assert config_hash(plain.settings) == config_hash(small)
    went = looked = 0
    for number, ((records, clock), expected) in enumerate(zip(epochs, digests(plain.fresh(), epochs), strict=True), 1):
        assert other.apply(number, records, clock).state_digest == expected, number
        assert other.learner.users.in_memory <= most
        went, looked = max(went, paged(other)), max(looked, len(other.learner.users.paging._peeked))
    assert went >= 10 - most
    assert looked > 0, "nobody paged out was anybody's neighbour"
    plain_again = plain.fresh()
    list(digests(plain_again, epochs))
    assert held(other) == held(plain_again)
    assert paged(other) == 0


@SOME
@given(epochs=st.lists(epoch, min_size=2, max_size=7), cut=st.integers(0, 6), most=st.integers(1, 4))
def test_users_come_back_as_they_were_whatever_happens(
    shop_of: Any, settings_of: Any, differing: Any, epochs: list[Any], cut: int, most: int
) -> None:
    lists = {"lists": LISTS, "similar_size": 0, "trending_size": 0}
    shop = shop_of(settings_of(lists, {"allowed_lateness_s": 3600}))
    store = MemoryColdStore(keeps=True)
    settings = settings_of(lists, {"allowed_lateness_s": 3600, "users_in_memory": most})

    def fresh() -> Processor:
        return Processor(settings, torch.device("cpu"), shop.processor.decode, lambda letter: None, cold=store)  # type: ignore

    other, restored = fresh(), None
    told = [records_of(shop, [("item", {"item": i, "category": "c1", "price": 8, "available": True, "expires": None})
                              for i in ITEMS])]  # fmt: skip
    for number, (passed, actions) in enumerate([(0, None), *epochs], 1):
        shop.now += passed
        records = told[0] if actions is None else records_of(shop, actions)
        records = [record for record in records if record.value != b"[]"]
        expected = shop.processor.apply(number, records, shop.now)
        for each in filter(None, (other, restored)):
            assert each.apply(number, records, shop.now).outputs == expected.outputs
        assert other.learner.users.in_memory <= most
        if number == cut:
            restored = fresh()
            restored.load({name: tensor.detach().clone() for name, tensor in other.state().items()})
            restored.state_digest = other.state_digest
    if restored is not None:
        assert differing(other.state(), restored.state()) == []
    assert held(other) == held(shop.processor)
    assert all(who in USERS for who in held(other))


def test_an_erased_user_leaves_the_segment_that_held_them(shop_of: Any, settings_of: Any) -> None:
    store = MemoryColdStore()
    shop = shop_of(settings_of({}, {"users_in_memory": 2}))
    shop.processor = Processor(
        shop.settings, torch.device("cpu"), shop.processor.decode, lambda letter: None, cold=store
    )
    bought = [(n, m) for n in range(6) for m in range(3)]
    shop.apply(*[shop.event(f"u{n}", f"i{n}-{m}", "purchase", at=shop.now + n) for n, m in bought])
    assert len(store.blocks) == 1
    users = shop.processor.learner.users
    row = users.ids.find("u1")
    assert row in {r for r, _ in records_in(store)}
    shop.apply(shop.erase("u1"))
    left = records_in(store)
    assert row not in {r for r, _ in left}
    assert len(left) == paged(shop.processor) == 3
    item = shop.processor.learner.catalogue.ids.find("i1-0")
    assert not [words for _, words in left if item in items_of(np.frombuffer(words, dtype="<i4"))]


def test_segments_do_not_pile_up(shop_of: Any, settings_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MOST_SEGMENTS", 8)
    monkeypatch.setattr(paging, "MERGED", 4)
    store = MemoryColdStore()
    shop = shop_of(settings_of({}, {"users_in_memory": 2}))
    shop.processor = Processor(
        shop.settings, torch.device("cpu"), shop.processor.decode, lambda letter: None, cold=store
    )
    chance = random.Random(1)
    for n in range(90):
        shop.now += 1_000
        shop.apply(shop.event(f"u{n if n < 40 else chance.randrange(40)}", f"i{n % 7}"))
        table = shop.processor.learner.users.paging.state()["paging.segments"]
        assert len(store.blocks) == len(table) <= 9
        assert paged(shop.processor) == min(n + 1, 40) - min(n + 1, 2) == int(table[:, 2].sum())
        assert len(records_in(store)) <= 4 * paged(shop.processor) + 4
    assert shop.processor.learner.users.histories.begin_S.shape[0] == 64


def test_a_full_disk_keeps_users_in_memory_until_it_is_not(shop_of: Any, settings_of: Any) -> None:
    class Full(MemoryColdStore):
        full = True

        def write(self, name: str, block: bytes) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            super().write(name, block)

    store = Full()
    shop = shop_of(settings_of({}, {"users_in_memory": 2}))
    shop.processor = Processor(
        shop.settings, torch.device("cpu"), shop.processor.decode, lambda letter: None, cold=store
    )
    for n in range(5):
        shop.apply(shop.event(f"u{n}", "i1"))
    assert shop.processor.learner.users.in_memory == 5
    store.full = False
    shop.apply(shop.event("u5", "i1"))
    assert (shop.processor.learner.users.in_memory, paged(shop.processor)) == (2, 4)


class PagedShard(Shard):
    """A shard with a snapshot folder, in which what is paged out lies too."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        interval = chance.choice((1e-9, 1e-9, 0.02))
        epochs = {"max_events": chance.choice((1, 3, 7)), "snapshot_interval_s": interval}
        super().__init__(tiny_settings(epochs=epochs, learning={"users_in_memory": chance.choice((1, 2, 3))}))
        self.folder = folder
        self.disk = Folder(folder)
        self.snapshots = FileSnapshotStore(self.disk, 2)
        self.cold = FileColdStore(self.disk)


@pytest.mark.parametrize("first", [0, 20])
def test_no_schedule_of_crashes_loses_or_changes_a_user_paged_out(tmp_path: Path, first: int) -> None:
    went = 0
    for seed in range(first, first + 20):
        chance = random.Random(seed)
        shard = PagedShard(tmp_path / str(seed), chance)
        faults = [fault for fault in Fault if fault is not Fault.NONE]
        shard.faults += [chance.choice(faults) if chance.random() < 0.25 else Fault.NONE for _ in range(20)]
        shard.crash_after += [chance.randrange(12) for _ in range(chance.randrange(3))]
        runner = lives(shard, islice(shop(shard, chance, items=4), 30))
        judged(shard, runner)
        assert runner.processor is not None
        went += paged(runner.processor)
        _, plain = judge(WholeLog(shard), shard.settings.model_copy(update={"learning": all_in_memory(shard)}))
        assert held(plain) == held(runner.processor)
        newest = shard.snapshots.load(shard.snapshots.epochs()[-1])
        there = {name for name in shard.disk.names() if name.startswith("cold-")}
        assert set(newest.header["segments"]) <= there
        shard.disk.close()
    assert went > 10


def all_in_memory(shard: Shard) -> Any:
    """The shard's learning settings, but nobody is paged out."""
    return shard.settings.learning.model_copy(update={"users_in_memory": 0})


def ran_and_stopped(folder: Path) -> PagedShard:
    """After two lives, a snapshot at the end of each, users paged out in both."""
    shard = PagedShard(folder, random.Random(4))
    stream = shop(shard, random.Random(1), items=4)
    for _ in range(2):
        shard.run(islice(stream, 25))
    return shard


@pytest.mark.parametrize("harm", [lambda raw: raw[:-4], lambda raw: raw[:4] + b"??" + raw[6:], None])
def test_a_snapshot_whose_segment_is_damaged_is_passed_over_and_the_segment_made_again(
    tmp_path: Path, harm: Any
) -> None:
    shard = ran_and_stopped(tmp_path)
    newest = shard.snapshots.epochs()[-1]
    name = shard.snapshots.load(newest).header["segments"][-1]
    path = tmp_path / name
    whole = path.read_bytes()
    if harm is None:
        path.unlink()
    else:
        path.write_bytes(harm(whole))
    assert is_damaged(shard.disk.read, name)
    runner = shard.run([lambda: shard.event("u9", "i1")])
    judged(shard, runner)
    store = shard.snapshots
    assert all(store.load(epoch).header["segments"] is not None for epoch in store.epochs() if epoch > newest)
    shard.disk.close()


def test_a_record_that_changed_under_a_running_learner_is_noticed_and_made_again(tmp_path: Path) -> None:
    shard = ran_and_stopped(tmp_path)
    names = shard.snapshots.load(shard.snapshots.epochs()[-1]).header["segments"]

    def damage() -> None:
        for name in names:
            raw = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(raw[:16] + bytes(byte ^ 1 for byte in raw[16:]))

    back = [lambda u=u: shard.event(f"u{u}", "i1") for u in range(5)]
    runner = shard.run([*[lambda: None] * 3, damage, *back])
    assert [manifest.kind for manifest in shard.manifests()].count("claim") == 4
    judged(shard, runner)
    shard.disk.close()


def test_segments_go_with_the_last_snapshot_that_names_them(tmp_path: Path) -> None:
    shard = ran_and_stopped(tmp_path)
    for n in range(40):
        shard.run([lambda n=n: shard.event(f"u{n % 12}", "i1")])
    store = shard.snapshots
    assert isinstance(store, FileSnapshotStore)
    named = {name for epoch in store.epochs() for name in store.load(epoch).header["segments"]}
    assert {name for name in shard.disk.names() if name.startswith("cold-")} == named
    oldest, newest = store.epochs()[0], store.epochs()[-1]
    (tmp_path / name_of(newest)).rename(tmp_path / f"{name_of(newest)}.aside")
    for n in range(10):
        shard.run([lambda n=n: shard.event(f"u{n % 12}", "i2")])
    assert oldest not in store.epochs()
    (tmp_path / f"{name_of(newest)}.aside").rename(tmp_path / name_of(newest))
    assert store.load(newest).header["segments"] is not None
    shard.disk.close()


def test_a_segment_is_waited_for_before_a_snapshot_that_names_it(tmp_path: Path) -> None:
    done: list[str] = []

    class Watched(Folder):
        def sync(self, name: str) -> None:
            done.append(f"sync {name.split('-')[0]}")
            super().sync(name)

        def rename(self, name: str, to: str) -> None:
            done.append(f"rename {to.split('-')[0]}")
            super().rename(name, to)

        def sync_names(self) -> None:
            done.append("names")
            super().sync_names()

    disk = Watched(tmp_path)
    store, cold = FileSnapshotStore(disk), FileColdStore(disk)
    name = paging.segment_name(0, b"1234")
    cold.write(name, b"1234")
    store.save(1, {"segments": [name], "next_segment": 1}, {"n": torch.ones(1)})
    assert done == ["rename cold", "sync cold", "names", "sync epoch", "rename epoch", "names"]
    store.save(2, {"segments": [name], "next_segment": 1}, {"n": torch.ones(1)})
    assert done[6:] == ["sync epoch", "rename epoch", "names"]
    assert cold.read(name, 1, 2) == b"23"
    with pytest.raises(ColdDamaged):
        cold.read("cold-none", 0, 1)
    disk.close()


def test_a_crash_between_any_two_writes_leaves_a_snapshot_with_all_its_segments() -> None:
    for seed in range(300):
        chance = random.Random(seed)
        left = chance.randrange(40)

        def effect(kind: str) -> str | None:
            nonlocal left
            left -= kind != "read"
            if left == 0:
                raise Crash("power")
            return None

        disk = TornDisk(effect, "disk")
        cold, held_ids, saved = FileColdStore(disk), list[str](), 0
        try:
            store = FileSnapshotStore(disk, 2)
            for number in range(6):
                block = bytes([number]) * chance.randrange(1, 50)
                name = paging.segment_name(number, block)
                cold.write(name, block)
                held_ids = [*held_ids[-2:], name]
                store.save(number + 1, {"segments": held_ids, "next_segment": number + 1}, {"n": torch.ones(1)})
                saved = number + 1
        except Crash:
            pass
        left = -1
        disk.crash(chance)
        after = FileSnapshotStore(disk, 2)
        assert not saved or after.load(saved).header["segments"], seed
        for found in after.epochs():
            after.load(found)
