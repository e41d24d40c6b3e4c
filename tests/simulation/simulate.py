"""Simulated crashes of the epoch protocol, by the thousand; and whether they would find a mistake.

simulate.py --crashes N [--first SEED] [--processes N]   live through plans until so many crashes have passed
simulate.py --replay SEED [--shrink] [--mutant NAME]     one plan again, and the smallest one that fails likewise
simulate.py --mutants                                    break the protocol in each way; say which seed finds it
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "kafka")]

import torch
from mutants import MUTANTS
from plan import Plan, drawn
from tqdm import tqdm
from world import Report, World, Wrong

CHUNK = 20
MOST_SEEDS = 1_500
SHRINK_S = 60.0


def lived(plan: Plan) -> tuple[Report, str]:
    """What came of a plan, and what was wrong with it, or nothing."""
    world = World(plan)
    try:
        return world.run(), ""
    except Wrong as error:
        return world.report, str(error) or "wrong"
    except Exception as error:
        return world.report, f"it ended with {type(error).__name__}: {error}"


def chunk(first: int) -> tuple[Report, list[tuple[int, str]]]:
    """`CHUNK` seeds in a row: the sum of their reports, what was wrong."""
    torch.set_num_threads(1)
    gc.freeze()  # what was imported: collections have less to go through
    total, wrong = Report(), []
    for seed in range(first, first + CHUNK):
        report, problem = lived(drawn(seed))
        total.add(report)
        if problem:
            wrong.append((seed, problem))
    return total, wrong


def lives(crashes: int, first: int, processes: int) -> tuple[Report, list[tuple[int, str]], int]:
    """Chunk after chunk until so many crashes have passed; the sum, what was wrong, and how many plans there were."""
    total, wrong, plans = Report(), [], 0
    for report, problems in _chunks(first, processes):
        total.add(report)
        wrong += problems
        plans += CHUNK
        if total.crashes >= crashes or len(wrong) >= 5:
            break
    return total, wrong, plans


def _chunks(first: int, processes: int) -> Iterator[tuple[Report, list[tuple[int, str]]]]:
    # Processes that are ended in the middle of a chunk may hold tqdm's lock, which forks share: each has its own.
    seeds = range(first, 1 << 40, CHUNK)
    if processes == 1:
        yield from map(chunk, seeds)
        return
    with multiprocessing.get_context("fork").Pool(processes, tqdm.set_lock, (threading.RLock(),)) as pool:
        running = [pool.apply_async(chunk, (seed,)) for seed in seeds[: 2 * processes]]
        for seed in seeds[2 * processes :]:
            yield running.pop(0).get()
            running.append(pool.apply_async(chunk, (seed,)))


def shrunk(plan: Plan, limit_s: float = SHRINK_S) -> tuple[Plan, str]:
    """A plan that fails still, from which no action can be left out (in the time there is); and how it fails."""
    _, problem = lived(plan)
    assert problem, "this plan does not fail"
    deadline = time.monotonic() + limit_s
    size = max(len(plan.actions) // 2, 1)
    while True:
        smaller = False
        start = 0
        while start < len(plan.actions) and time.monotonic() < deadline:
            tried = plan.without(range(start, start + size))
            if found := lived(tried)[1]:
                plan, problem, smaller = tried, found, True
            else:
                start += size
        if time.monotonic() >= deadline or (size == 1 and not smaller):
            return plan, problem
        size = max(size // 2, 1)


def caught(name: str, most: int = MOST_SEEDS) -> tuple[int, str] | None:
    """The first seed that finds a mutant, and what it says; None if none of so many does."""
    with MUTANTS[name].alive():
        for seed in (MUTANTS[name].seed, *range(most)):
            if problem := lived(drawn(seed))[1]:
                return seed, problem
    return None


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crashes", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--replay", type=int, metavar="SEED")
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    parser.add_argument("--mutants", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.mutants:
        return _all_mutants()
    if options.replay is not None:
        with ExitStack() as stack:
            if options.mutant:
                stack.enter_context(MUTANTS[options.mutant].alive())
            return _replayed(drawn(options.replay), options.shrink)
    began = time.monotonic()
    report, wrong, plans = lives(options.crashes, options.first, options.processes)
    seconds = time.monotonic() - began
    print(
        f"{report.crashes:,} crashes in {plans:,} plans ({report.lives:,} lives, {report.effects:,} effects, "
        f"{report.epochs:,} epochs), {report.fenced:,} ended by a successor, {report.refused:,} refusals to go on "
        f"without what retention took; {seconds:.0f} s, {report.crashes / seconds:.0f} crashes/s"
    )
    for what, counts in (("faults", report.strikes), ("crashes before", report.crash_points)):
        print(f"{what}: " + ", ".join(f"{name} {count:,}" for name, count in counts.most_common()))
    print("events: " + ", ".join(f"{name} {count:,}" for name, count in report.outcomes.most_common()))
    for seed, problem in wrong:
        print(f"seed {seed}: {problem}")
    return 1 if wrong else 0


def _all_mutants() -> int:
    missed = 0
    for name, mutant in MUTANTS.items():
        found = caught(name)
        missed += found is None
        said = "NOT CAUGHT" if found is None else f"seed {found[0]}: {found[1][:110]}"
        print(f"{name} ({mutant.why}): {said}", flush=True)
    return 1 if missed else 0


def _replayed(plan: Plan, shrink: bool) -> int:
    if shrink:
        plan, problem = shrunk(plan)
    else:
        problem = lived(plan)[1]
    print(problem or "nothing is wrong")
    if problem:
        print(f"{plan.max_events=} {plan.linger_ms=} {plan.snapshot_interval_s=} {plan.kept=} {plan.efforts=}")
        for action in plan.actions:
            print(f"  {action.at:5} {action.what:8} {action.how if action.how is not None else ''}")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
