"""The snapshots' disk: full, damaged, emptied. The log holds all of it, so it costs time and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crashing import World, wait_for
from faults import LEAN, Trial, learns_on
from oracle import Report
from service import Service

DISK_BYTES = 400 << 20


def broken_disks(trial: Trial) -> Report:
    """Between kills the newest snapshot is damaged, cut or left half written, or all are deleted."""
    world = trial.found()
    harms: dict[str, Callable[[Path], None]] = {
        "flipped bits": _flip, "cut files": _cut, "empty files": _empty,
        "deleted folders": lambda newest: shutil.rmtree(newest.parent),
    }  # fmt: skip
    with trial.busy():
        for number in range(trial.times):
            with world.run() as service:
                service.wait_ready()
                wait_for(lambda: any(world.snapshots.glob("*.snapshot")), 60, "a snapshot")
                trial.pause(0, 3)
                service.kill()
            name, harm = list(harms.items())[number % len(harms)]
            harm(max(world.snapshots.glob("*.snapshot")))
            trial.strike(name)
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


def full_disk(trial: Trial) -> Report:
    """Snapshots lie on a disk that fills up: learning goes on, the failure is counted, with room there is one again.

    Every third time the learner is killed while the disk is full, and starts on it.
    """
    epochs = {"snapshot_interval_s": 0.5, "snapshots_hourly": 0, "snapshots_daily": 0}
    world = trial.found(epochs=epochs, learning=LEAN)
    with small_disk(world.settings.epochs.snapshots) as disk, trial.busy() as traffic:
        service = trial.live()
        for number in range(trial.times):
            service.wait_ready()
            _written(world)
            _fill(disk, leaving=trial.chance.choice((0, 0, 4096, 100_000)))
            trial.strike("full disks")
            service = _endures(trial, service, killed=number % 3 == 2)
            (disk / "filler").unlink()
            _written(world)
        traffic.finish()
        return world.finish(service)


def _endures(trial: Trial, service: Service, *, killed: bool) -> Service:
    """It learns and counts the errors, over a kill too; gives the one that lives."""
    _fails(service)
    if killed:
        service.kill()
        trial.strike("SIGKILLs while full")
        service = trial.live()
        service.wait_ready()
        _fails(service)
    learns_on(service)
    assert "could not be written" in service.said
    return service


def _fails(service: Service) -> None:
    """Another snapshot could not be written."""
    name = "headrace_snapshot_errors_total"
    before = service.metrics().get(name, 0.0)
    wait_for(lambda: service.metrics().get(name, 0.0) > before, 60, "a failed snapshot is counted")


def _written(world: World) -> None:
    """There is a new snapshot."""
    before = max(world.snapshots.glob("*.snapshot"), default=None)
    wait_for(lambda: max(world.snapshots.glob("*.snapshot"), default=None) != before, 60, "a snapshot")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A tmpfs of some hundred megabytes at a folder; raises AssertionError where it cannot be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert mounted.returncode == 0, f"a full disk needs one to fill, and {' '.join(command)}: {mounted.stderr.strip()}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(disk: Path, leaving: int) -> None:
    """Write until it is full, but for some bytes; a snapshot that is let go meanwhile makes no room."""
    deadline = time.monotonic() + 30
    with (disk / "filler").open("ab", buffering=0) as filler:
        while (room := _room(disk)) > leaving:
            assert time.monotonic() < deadline, f"{room} bytes are left"
            with suppress(OSError):
                filler.write(bytes(min(room - leaving, 8 << 20)))


def _room(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize
