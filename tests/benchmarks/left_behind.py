"""What a backlog learned in a hurry leaves behind: nDCG@10 while it is learned, and of what comes after it.

    python tests/benchmarks/left_behind.py --data DIR … [--backlog 30000] [--after 10000]

Each level of effort at and below lean learns the backlog, in epochs as large as
the service's; what follows is then asked of and learned lean, alike for all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from profiling import begun

from pipeline.evaluation.metrics import Tally
from pipeline.learning.effort import BY_LEVEL, LADDER, level_of

LEAN = level_of("lean")


def left_behind(data: Path, level: int, backlog: int, after: int) -> tuple[float, float]:
    """NDCG of the predictions made during a backlog, and of those after it."""
    processor, events = begun(data, backlog + after)
    found = []
    parts = (
        (level, 0, backlog, processor.settings.epochs.max_events * BY_LEVEL[level].batch),
        (LEAN, backlog, backlog + after, 64),
    )
    for effort, begin, end, size in parts:
        tally = processor.prequential.tallies["headrace"] = Tally(10)
        for start in range(begin, end, size):
            part = events[start : min(start + size, end)]
            processor.apply(1 + start, part, part[-1].timestamp, effort, publish=False)
        found.append(float(tally.report(len(processor.learner.catalogue))["ndcg"] or 0))
    return found[0], found[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--backlog", type=int, default=30_000)
    parser.add_argument("--after", type=int, default=10_000)
    chosen = parser.parse_args()
    for data in chosen.data:
        for effort in LADDER:
            if effort.level <= LEAN:
                during, after = left_behind(data, effort.level, chosen.backlog, chosen.after)
                print(f"{data.name}, {effort.name}: {during:.4f} during the backlog, {after:.4f} after it", flush=True)


if __name__ == "__main__":
    main()
