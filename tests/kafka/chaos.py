"""`make chaos`: kills, pauses, twins, broker crashes and broken disks on real Kafka, each case judged by the oracle.

chaos.py [--kills N] [--seed N] [--only CASE,CASE]; exit 1 if a case fails.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from crashing import World, wait_for
from erasing import erased
from oracle import Report
from service import Service, small_settings, write_settings
from traffic import Traffic

from pipeline.runtime.broker import Broker, start_broker

PER_SECOND = 30
TIMEOUT_S = 3


def busy(world: World, chance: random.Random) -> Traffic:
    """Events for longer than any case takes."""
    return world.traffic(100_000, PER_SECOND, chance.randrange(2**31))


def kills(world: World, broker: Broker, chance: random.Random, count: int) -> Report:
    """SIGKILL at random moments, start-up and recovery included."""
    with busy(world, chance):
        for _ in range(count):
            world.live_and_die(chance, longest_s=5)
    with world.run() as last:
        return world.finish(last)


def pauses(world: World, broker: Broker, chance: random.Random, count: int) -> Report:
    """SIGSTOP for longer than the transaction's timeout: fenced by the broker, it recovers by itself."""
    with busy(world, chance) as traffic, world.run() as service:
        for _ in range(max(3, count // 10)):
            service.wait_ready()
            time.sleep(chance.uniform(0, 3))
            service.process.send_signal(signal.SIGSTOP)
            time.sleep(TIMEOUT_S + chance.uniform(8, 14))  # the broker looks for expired transactions every 10 s
            service.process.send_signal(signal.SIGCONT)
            time.sleep(chance.uniform(3, 6))
        traffic.finish()
        return world.finish(service)


def twins(world: World, broker: Broker, chance: random.Random, count: int) -> Report:
    """Two learners of one shard at once, each with a folder of its own: one ends for good, in one line, exit 1."""
    lives: list[Service] = []
    with busy(world, chance) as traffic, ExitStack() as stack:
        for name in ("one", "two"):
            lives.append(stack.enter_context(second_home(world, name)))
            time.sleep(chance.uniform(0, 3))
        wait_for(lambda: any(life.process.poll() is not None for life in lives), 120, "neither twin ends")
        loser, winner = sorted(lives, key=lambda life: life.process.poll() is None)
        assert loser.process.returncode == 1, f"exit {loser.process.returncode}\n{loser.said}"
        line = loser.said.splitlines()[-1]
        assert line.startswith("headrace: "), loser.said
        assert "has taken over this shard" in line, loser.said
        assert "Traceback" not in loser.said
        time.sleep(5)
        traffic.finish()
        return world.finish(winner)


def second_home(world: World, name: str) -> Service:
    """A learner of the same shard that keeps its snapshots elsewhere."""
    folder = world.folder / name
    folder.mkdir()
    keys = small_settings(world.bootstrap, world.settings.namespace, folder / "snapshots")
    return Service(write_settings(folder / "headrace.yaml", keys), folder / "headrace.log")


def same_home(world: World, broker: Broker, chance: random.Random, count: int) -> Report:
    """A second learner over the first one's snapshot folder: it is refused at once, the first never notices."""
    with busy(world, chance) as traffic, world.run() as first:
        first.wait_ready()
        with Service(world.config, world.folder / "second.log") as second:
            assert second.wait(60) == 1
            assert "another process writes its snapshots here" in second.said.splitlines()[-1], second.said
        time.sleep(2)
        traffic.finish()
        report = world.finish(first)
        assert report.claims == 1
        return report


def broker_crashes(world: World, broker: Broker, chance: random.Random, count: int) -> Report:
    """The broker is killed under load and comes back: Headrace waits, recovers and loses nothing."""
    with busy(world, chance) as traffic, world.run() as service:
        for _ in range(max(2, count // 25)):
            service.wait_ready()
            time.sleep(chance.uniform(1, 5))
            broker.kill()
            time.sleep(chance.uniform(0, 5))
            broker.restart()
            time.sleep(chance.uniform(2, 8))
            assert service.process.poll() is None, f"it ended: {service.said}"
        traffic.finish()
        return world.finish(service)


def broken_disks(world: World, broker: Broker, chance: random.Random, count: int) -> Report:
    """Between kills the newest snapshot is damaged, cut or left half written, or all are deleted."""
    harms: list[Callable[[Path], None]] = [_flip, _cut, _empty, lambda newest: shutil.rmtree(newest.parent)]
    with busy(world, chance):
        for harm in harms:
            with world.run() as service:
                service.wait_ready()
                wait_for(lambda: any(world.snapshots.glob("*.snapshot")), 60, "a snapshot")
                time.sleep(chance.uniform(0, 3))
                service.kill()
            harm(max(world.snapshots.glob("*.snapshot")))
    with world.run() as last:
        return world.finish(last)


def _flip(newest: Path) -> None:
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 1
    newest.write_bytes(raw)


def _cut(newest: Path) -> None:
    newest.write_bytes(newest.read_bytes()[:-100])


def _empty(newest: Path) -> None:
    newest.write_bytes(b"")
    newest.with_suffix(".partial").write_bytes(b"half")


def erasures(world: World, broker: Broker, chance: random.Random, count: int) -> Report:
    """A user erased in every round, then SIGKILL, often with snapshots from before it alone: nobody returns."""
    return erased(world, chance, count)


CASES: dict[str, Callable[[World, Broker, random.Random, int], Report]] = {
    "kills": kills, "pauses": pauses, "twins": twins, "same-home": same_home,
    "broker-crashes": broker_crashes, "broken-disks": broken_disks, "erasures": erasures,
}  # fmt: skip


def run_case(name: str, broker: Broker, folder: Path, seed: int, count: int) -> str:
    """One line on how a case went; raises AssertionError."""
    began = time.monotonic()
    namespace = f"chaos-{name}-{uuid.uuid4().hex[:8]}"
    world = World.make(broker.bootstrap, namespace, folder / name, kafka={"transaction_timeout_s": TIMEOUT_S})
    report = CASES[name](world, broker, random.Random(f"{seed} {name}"), count)
    return (
        f"{name}: equal; {report.events} events, {report.epochs} epochs, {report.claims} starts, "
        f"{world.replayed()} epochs replayed, {report.lists} lists, {report.dead_letters} dead letters, "
        f"{time.monotonic() - began:.0f} s"
    )


def main() -> int:
    """Run the cases one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs; other cases scale with it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(CASES), help=f"some of {', '.join(CASES)}")
    chosen = parser.parse_args()
    names = chosen.only.split(",")
    if unknown := set(names) - CASES.keys():
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}")
    failed = 0
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-chaos-"))
        broker = stack.enter_context(start_broker("kafka", announce=print))
        for name in names:
            try:
                print(run_case(name, broker, Path(folder), chosen.seed, chosen.kills), flush=True)
            except AssertionError as error:
                failed += 1
                print(f"{name}: FAILED: {error}", flush=True)
            threads = [thread.name for thread in threading.enumerate() if thread.name == "traffic"]
            assert not threads, f"{name} left {threads}"
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
