"""Erasures among crashes: users erased in every round, old snapshots put back, and a watch for whoever returns."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from committed_log import CommittedLog
from crashing import World, wait_for
from faults import Trial
from kafka import KafkaProducer
from oracle import Report
from service import Service

from pipeline.epochs.snapshot import epochs_among, name_of

NAME = rb"erased-[0-9a-f]{5}-[0-9]{4}"
OLD = ".before"
ROUNDS = 5
"""For each time that another fault strikes."""
EVERY = 8
"""After so many rounds another snapshot becomes the old one, so that replays do not grow without end."""


@dataclass
class Watch:
    """Who was erased, where the tombstone lies, and what was seen of them since."""

    world: World
    tombstones: dict[str, tuple[int, int]] = field(default_factory=dict)
    looked_at: int = 0
    """States, of a snapshot file each, in which somebody was looked for who had been erased by then."""
    searched: int = 0
    present: int = 0
    """Users yet to be erased who were found in those states: it can be seen where somebody is."""

    def epochs(self, log: CommittedLog) -> dict[str, int]:
        """The epoch that committed each erasure, of those that are."""
        users, found = self.world.settings.topic("users"), {}
        for record in log.partition((self.world.settings.topic("epochs"), 0)):
            manifest = json.loads(record.value or b"")
            for part in manifest["ranges"]:
                for user, (partition, offset) in self.tombstones.items():
                    if (
                        part["topic"] == users
                        and part["partition"] == partition
                        and part["from"] <= offset < part["to"]
                    ):
                        found[user] = manifest["epoch"]
        return found

    def look(self) -> int:
        """Raises AssertionError where an erased user is in a list or in a state; gives how many are erased."""
        settings = self.world.settings
        log = CommittedLog(self.world.bootstrap, [settings.topic(kind) for kind in ("epochs", "recommendations")])
        erased = self.epochs(log)
        lists: defaultdict[str, list[Any]] = defaultdict(list)
        for place in log.places([settings.topic("recommendations")]):
            for record in log.partition(place):
                lists[(record.key or b"").decode()].append(None if record.value is None else json.loads(record.value))
        for user, epoch in erased.items():
            values = lists[f"home:{user}"]
            assert values, f"{user} had no list to be withdrawn"
            back = [value["epoch"] for value in values if value is not None and value["epoch"] >= epoch]
            assert not back, f"RESURRECTED: {user}, erased in epoch {epoch}, has lists of epochs {back}"
            assert values[-1] is None, f"RESURRECTED: the last list of {user}, erased in epoch {epoch}, stays"
        self._look_into_snapshots(erased)
        return len(erased)

    def _look_into_snapshots(self, erased: dict[str, int]) -> None:
        folder = self.world.snapshots
        for number in epochs_among(path.name for path in folder.iterdir()) if folder.exists() else ():
            gone = {user for user, epoch in erased.items() if epoch <= number}
            try:
                raw = (folder / name_of(number)).read_bytes()
            except FileNotFoundError:
                continue
            held = {match.decode() for match in re.findall(NAME, raw)}
            assert not gone & held, f"RESURRECTED: {sorted(gone & held)} are in the state of epoch {number}"
            self.looked_at += bool(gone)
            self.searched += len(gone)
            self.present += len(held)


class Eraser:
    """Makes users known, then erases them; a last event of each is appended before its tombstone and read after it."""

    def __init__(self, world: World, watch: Watch, salt: str) -> None:
        self._world, self._watch, self._salt = world, watch, salt
        self._number = 0
        self._producer = KafkaProducer(bootstrap_servers=world.bootstrap, acks="all", linger_ms=0)
        self._upstream = KafkaProducer(
            bootstrap_servers=world.bootstrap, transactional_id=f"{world.settings.namespace}-upstream", linger_ms=0
        )
        self._upstream.init_transactions()

    def close(self) -> None:
        """Let go of connections."""
        self._producer.close()
        self._upstream.close()

    def become_known(self, service: Service) -> str:
        """A user with a history, a text and a list."""
        self._number += 1
        user = f"erased-{self._salt}-{self._number:04}"
        made = service.metrics().get("headrace_lists_total", 0)
        for number in range(3):
            self._send(self._producer, user, number)
        self._producer.flush()
        wait_for(lambda: service.metrics().get("headrace_lists_total", 0) > made, 60, "no list is published")
        wait_for(lambda: self._has_list(user), 60, f"{user} gets no list")
        return user

    def erase(self, user: str, late_s: float) -> None:
        """The tombstone, with an event of the user hidden before it in a transaction that ends after it."""
        self._upstream.begin_transaction()
        self._send(self._upstream, user, 3)
        self._upstream.flush()
        time.sleep(0.02)  # the tombstone is appended later by the broker's clock
        topic = self._world.settings.topic("users")
        at = self._producer.send(topic, None, key=user.encode()).get(timeout=60)
        self._watch.tombstones[user] = (at.partition, at.offset)
        time.sleep(late_s)
        self._upstream.commit_transaction()

    def _send(self, producer: KafkaProducer, user: str, number: int) -> None:
        event: dict[str, Any] = {"event_type": "rating", "user_id": user, "item_id": f"{number}", "value": 5}
        if number == 1:
            event = {"event_type": "search", "user_id": user, "text": f"what {user} wrote"}
        event |= {"timestamp": time.time_ns() // 1_000_000, "event_id": f"{user}-{number}"}
        producer.send(self._world.settings.topic("events"), json.dumps(event).encode(), key=user.encode()).add_errback(
            _failed
        )

    def _has_list(self, user: str) -> bool:
        topic = self._world.settings.topic("recommendations")
        log = CommittedLog(self._world.bootstrap, [topic])
        return any(r.key == f"home:{user}".encode() for place in log.places([topic]) for r in log.partition(place))


def _failed(error: BaseException) -> None:
    raise error


def erasures(trial: Trial) -> Report:
    """A user erased in every round, then SIGKILL, often with snapshots from before it alone: nobody returns."""
    report = erased(trial.found(), trial.chance, ROUNDS * trial.times)
    trial.struck["erasures"] = ROUNDS * trial.times
    return report


def erased(world: World, chance: random.Random, rounds: int) -> Report:
    """Rounds of: a user becomes known and is erased, a SIGKILL, perhaps only snapshots from before it, a restart."""
    watch = Watch(world)
    eraser = Eraser(world, watch, f"{chance.randrange(1 << 20):05x}")
    from_before = 0
    with world.traffic(100_000, 5, chance.randrange(2**31)):
        for number in range(rounds):
            with world.run() as service:
                service.wait_ready()
                watch.look()
                if number % EVERY == 0 or not any(world.snapshots.glob(f"*{OLD}")):
                    _keep_old(world)
                eraser.erase(eraser.become_known(service), chance.uniform(0, 0.5))
                time.sleep(chance.choice((0, 0.1, 0.5, 1.5)))
                service.kill()
            watch.look()
            if chance.random() < 0.6:
                from_before += _put_old_back(world)
            if number % 10 == 9:
                print(f"  {number + 1} rounds: {len(watch.tombstones)} erased, 0 back", flush=True)
        eraser.close()
    with world.run() as last:
        report = world.finish(last)
    count = watch.look()
    assert count == len(watch.tombstones) == rounds
    assert watch.present, "no state was looked into that held anybody: the search proves nothing"
    print(
        f"  {rounds} rounds: {count} users erased, 0 resurrected; {from_before} starts from a snapshot taken before "
        f"erasures; {watch.looked_at} states searched for {watch.searched} erased users "
        f"(of those not erased yet {watch.present} found); {_starts(world)}",
        flush=True,
    )
    return report


def _starts(world: World) -> str:
    said = world.log.read_text("utf-8", "replace")
    replays = [int(count) for count in re.findall(r"then (\d+) epochs to replay", said)]
    return f"{len(replays)} starts replayed {sum(replays)} epochs, {max(replays)} at most"


def _keep_old(world: World) -> None:
    """A copy of the newest snapshot."""
    files = sorted(world.snapshots.glob("*.snapshot"))
    if files:
        for path in world.snapshots.glob(f"*{OLD}"):
            path.unlink()
        shutil.copy(files[-1], files[-1].with_name(files[-1].name + OLD))


def _put_old_back(world: World) -> bool:
    """Only the snapshot from before the last erasures is left; False where there is none."""
    old = next(world.snapshots.glob(f"*{OLD}"), None)
    if old is None:
        return False
    for path in world.snapshots.glob("*.snapshot"):
        path.unlink()
    shutil.copy(old, Path(str(old).removesuffix(OLD)))
    return True
