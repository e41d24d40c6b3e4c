"""`make chaos`: real processes on real Kafka, killed, frozen, doubled, cut off, misled; each case judged by the oracle.

chaos.py [--kills N] [--times N] [--epochs N] [--seed N] [--only CASE,CASE]; exit 1 if a case fails.
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from erasing import erasures
from faults import Trial
from faults_broker import black_holes, broker_crashes, connections, leaders, partitions
from faults_clock import clocks
from faults_disk import broken_disks, full_disk
from faults_log import retention, versions
from faults_poison import poison
from faults_process import kills, pauses, points, same_home, tiny_epochs, twins
from oracle import Report

from pipeline.runtime.broker import Broker, start_broker

CASES: dict[str, Callable[[Trial], Report]] = {
    "kills": kills, "points": points, "pauses": pauses, "twins": twins, "same-home": same_home,
    "broker-crashes": broker_crashes, "leaders": leaders, "connections": connections, "black-holes": black_holes,
    "broken-disks": broken_disks, "full-disk": full_disk, "clocks": clocks, "retention": retention,
    "partitions": partitions, "versions": versions, "tiny-epochs": tiny_epochs, "erasures": erasures, "poison": poison,
}  # fmt: skip


def main() -> int:
    """Run the cases one after the other; one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs at random moments")
    parser.add_argument("--times", type=int, default=20, help="how often each other fault strikes")
    parser.add_argument("--epochs", type=int, default=50_000, help="how many tiny ones in a row")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(CASES), help=f"some of {', '.join(CASES)}")
    chosen = parser.parse_args()
    names = chosen.only.split(",")
    if unknown := set(names) - CASES.keys():
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the processes and mounts of a case end with it
    failed = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-chaos-")))

        @functools.cache
        def broker() -> Broker:
            return stack.enter_context(start_broker("kafka", announce=print))

        for name in names:
            times = chosen.kills if name == "kills" else chosen.times
            trial = Trial(name, folder, times, broker, chosen.seed, chosen.epochs)
            try:
                with trial:
                    print(trial.line(CASES[name](trial)), flush=True)
            except AssertionError as error:
                failed += 1
                print(f"{name}: FAILED after {dict(trial.struck)}: {error}", flush=True)
            threads = [thread.name for thread in threading.enumerate() if thread.name in ("traffic", "proxy")]
            assert not threads, f"{name} left {threads}"
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
