"""What lists are worth at each level of effort under a steady load: nDCG@10 on the same questions as lean is asked.

    python tests/benchmarks/steady.py --data DIR … [--first 20000] [--epoch 24] [--levels scant,hurried]

Epochs are as small as they are where little waits. A level that asks of one like in so many is compared with
lean on those; the difference is given with its standard error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from profiling import begun

from pipeline.evaluation.rival import Cpu, Tournament
from pipeline.learning.effort import BY_LEVEL, level_of
from pipeline.learning.learner import Batch
from pipeline.learning.ranks import Ranks, ndcg_of


class Noted(Tournament):
    """NDCG of each question that is asked, by its user's and its target's row."""

    def __init__(self) -> None:
        super().__init__(())
        self.found: dict[tuple[int, int], float] = {}

    def play(self, batch: Batch, ranks: Ranks, learner: Cpu) -> None:
        """Note a micro-batch."""
        of = zip(batch.questions.user_Q.tolist(), batch.target_Q.tolist(), strict=True)
        self.found |= zip(of, ndcg_of(ranks.rank_Q["headrace"]).tolist(), strict=True)


def asked(data: Path, level: int, first: int, size: int) -> dict[tuple[int, int], float]:
    """NDCG of each question of a stream learned at a level."""
    processor, events = begun(data, first)
    processor.tournament = noted = Noted()
    for start in range(0, first, size):
        part = events[start : start + size]
        processor.apply(1 + start, part, part[-1].timestamp, level, publish=False)
    return noted.found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--first", type=int, default=20_000)
    parser.add_argument("--epoch", type=int, default=24)
    parser.add_argument("--levels", default="scant,hurried")
    chosen = parser.parse_args()
    for data in chosen.data:
        lean = asked(data, level_of("lean"), chosen.first, chosen.epoch)
        for level in map(level_of, chosen.levels.split(",")):
            found = asked(data, level, chosen.first, chosen.epoch)
            both = sorted(found.keys() & lean.keys())
            ours, theirs = (torch.tensor([one[key] for key in both], dtype=torch.float64) for one in (found, lean))
            error = float((ours - theirs).std()) / len(both) ** 0.5
            print(
                f"{data.name}, {BY_LEVEL[level].name}: {ours.mean():.4f}, lean {theirs.mean():.4f}, "
                f"{100 * (ours.mean() / theirs.mean() - 1):+.1f} % ± {100 * error / theirs.mean():.1f}, "
                f"{len(both)} questions",
                flush=True,
            )


if __name__ == "__main__":
    main()
