"""The process: killed at random and at named points, frozen, started twice, killed amid thousands of tiny epochs."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from crashing import World, wait_for
from faults import LEAN, PER_SECOND, TIMEOUT_S, Trial
from kill_points import ONCE, POINTS
from nursery import Nursery
from oracle import Report
from service import Service, environment, small_settings, write_settings

LAUNCHER = (str(Path(__file__).with_name("kill_points.py")),)
SLOWEST_START_S = 60.0
CATALOGUE = 2_000
"""About as many records, and so tiny epochs, are items and their vectors."""


def kills(trial: Trial) -> Report:
    """SIGKILL at random moments, start-up and recovery included."""
    world = trial.found()
    with Nursery(environment()) as nursery, trial.busy():
        for _ in range(trial.times):
            world.live_and_die(trial.chance, 3, nursery)
            trial.strike("SIGKILLs")
    with world.run() as last:
        return world.finish(last)


def points(trial: Trial) -> Report:
    """SIGKILL at each named place of the protocol in turn, at its first to fifth time."""
    world = trial.found(epochs={"snapshot_interval_s": 0.5}, learning=LEAN)
    with trial.busy():
        for number in range(trial.times):
            point = POINTS[number % len(POINTS)]
            passing = 1 if point == ONCE else trial.chance.randint(1, 3 if "remove" in point else 5)
            with world.run(program=(*LAUNCHER, point, str(passing))) as service:
                code = service.wait(120)
                assert code == -signal.SIGKILL, f"{point}: it was never there; exit {code}\n{service.said}"
            trial.strike("SIGKILLs at points")
    trial.notes.append(f"{min(trial.times, len(POINTS))} of {len(POINTS)} points")
    with world.run() as last:
        return world.finish(last)


def tiny_epochs(trial: Trial) -> Report:
    """One record per epoch, tens of thousands in a row: a start stays quick, by snapshot and by replaying it all."""
    world = trial.found(epochs={"max_events": 1, "snapshot_interval_s": 5}, learning=LEAN)
    slowest, each = 0.0, trial.epochs // max(trial.times, 1)
    with world.traffic(trial.epochs, max(PER_SECOND, trial.epochs), trial.chance.randrange(2**31)) as traffic:
        wait_for(lambda: traffic.exhausted, trial.epochs / 50 + 60, "all is sent")
    for _ in range(trial.times):
        began = time.monotonic()
        with world.run() as service:
            service.wait_ready()
            slowest = max(slowest, time.monotonic() - began)
            aim = service.metrics().get("headrace_epoch", 0.0) + each * trial.chance.uniform(0.2, 1.0)
            wait_for(partial(_reached, service, aim), each / 5 + 60, f"epoch {aim:.0f}")
            service.kill()
        trial.strike("SIGKILLs")
    assert slowest < SLOWEST_START_S, f"a start took {slowest:.1f} s"
    trial.notes.append(f"slowest start {slowest:.1f} s")
    with world.run() as last:
        return world.finish(last, timeout_s=(trial.epochs + CATALOGUE) / 5 + 120)


def _reached(service: Service, epoch: float) -> bool:
    """Whether it is there, or has nothing more to read."""
    metrics = service.metrics()
    lags = [value for name, value in metrics.items() if name.startswith("headrace_lag_records")]
    return metrics.get("headrace_epoch", 0.0) >= epoch or (bool(lags) and not any(lags))


def pauses(trial: Trial) -> Report:
    """SIGSTOP for longer than the transaction's timeout: fenced by the broker, it recovers by itself."""
    world = trial.found(learning=LEAN)
    with trial.busy() as traffic, world.run() as service:
        for _ in range(trial.times):
            service.wait_ready()
            trial.pause(0, 3)
            service.process.send_signal(signal.SIGSTOP)
            time.sleep(TIMEOUT_S + trial.chance.uniform(1.5, 11))
            service.process.send_signal(signal.SIGCONT)
            trial.strike("freezes")
            trial.pause(3, 6)
        traffic.finish()
        return world.finish(service)


def twins(trial: Trial) -> Report:
    """Two learners of one shard at once, each with a folder of its own: one ends for good, in one line, exit 3."""
    world = trial.found(learning=LEAN)
    homes = [_home(world, name) for name in ("one", "two")]
    with trial.busy() as traffic:
        for left in reversed(range(trial.times)):
            lives: list[Service] = []
            with ExitStack() as stack:
                for home in trial.chance.sample(homes, 2):
                    lives.append(stack.enter_context(Service(home, home.with_suffix(".log"))))
                    trial.pause(0, 3)
                winner = _survivor(lives)
                trial.strike("pairs")
                trial.pause(0, 3)
                if not left:
                    traffic.finish()
                    return world.finish(winner)
    raise AssertionError("no pair")


def _survivor(lives: list[Service]) -> Service:
    """The one that goes on, after the other has said what it must."""
    wait_for(lambda: any(life.process.poll() is not None for life in lives), 120, "neither twin ends")
    loser, winner = sorted(lives, key=lambda life: life.process.poll() is None)
    assert loser.process.returncode == 3, f"exit {loser.process.returncode}\n{loser.said}"
    line = loser.said.splitlines()[-1]
    assert line.startswith("headrace: "), loser.said
    assert "has taken over this shard" in line, loser.said
    assert "Traceback" not in loser.said
    assert winner.process.poll() is None, f"both ended\n{winner.said}"
    return winner


def _home(world: World, name: str) -> Path:
    """Settings of a learner of the same shard that keeps its snapshots elsewhere."""
    folder = world.folder / name
    folder.mkdir()
    changed = {"kafka": {"transaction_timeout_s": TIMEOUT_S}, "learning": LEAN}
    keys = small_settings(world.bootstrap, world.settings.namespace, folder / "snapshots", **changed)
    return write_settings(folder / "headrace.yaml", keys)


def same_home(trial: Trial) -> Report:
    """A second learner over the first one's snapshot folder: it is refused at once, the first never notices."""
    world = trial.found(learning=LEAN)
    with trial.busy() as traffic, world.run() as first:
        first.wait_ready()
        for _ in range(trial.times):
            with Service(world.config, world.folder / "second.log") as second:
                assert second.wait(60) == 1
                assert "another process writes its snapshots here" in second.said.splitlines()[-1], second.said
            trial.strike("second learners")
        trial.pause(1, 3)
        traffic.finish()
        report = world.finish(first)
        assert report.claims == 1
        return report
