"""Whether speed and memory stay as they are over a long stream: millions of synthetic events through `evaluate`.

    python tests/benchmarks/slope.py [--events 5000000] [--effort hurried]

The very run of `headrace evaluate --peers none`, with its processor seconds and its resident memory noted as it goes.
5,000 users at a time and 20,000 items are drawn by Zipf's law over sixty days. Each likes two kinds of items of a
hundred; after 75 events they leave, and somebody new comes in their place. So histories, items' partners, the users
that the ridge looks back on and all else that is bounded are as full after the first quarter as ever, and what grows
from there on is what is kept of those who left.
Four events in ten are views, four likes, two purchases. A slope is that of the straight line through the run's last
three quarters, in per cent of its mean per million events.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm

from pipeline.encoding.build import build_encoder
from pipeline.runtime.backtest import Backtest
from pipeline.settings import load_settings

HERE = Path(__file__).parent
USERS, ITEMS, KINDS = 5_000, 20_000, 100
STAYS = 75
START_MS, DAYS = 1_700_000_000_000, 60
AT_ONCE = 100_000
TYPES = ("view", "view", "like", "like", "purchase")


@dataclass(frozen=True)
class Sample:
    """After so many events: what a processor took for each since the sample before, and the resident memory."""

    events: int
    us_per_event: float
    resident_mb: float


def items() -> Iterator[bytes]:
    """An item a line; its kind is its number's remainder."""
    for number in range(ITEMS):
        kind = number % KINDS
        yield json.dumps(
            {"item_id": f"i{number}", "title": f"kind {kind} thing {number}", "categories": [f"k{kind}"]}
        ).encode()


def events(count: int) -> Iterator[bytes]:
    """An event a line, in order of time."""
    chance = np.random.default_rng(1)
    left = chance.integers(1, STAYS + 1, USERS).tolist()
    name, known = list(range(USERS)), USERS
    taste_U2 = chance.integers(0, KINDS, (USERS, 2))
    for start in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - start)
        user_B = (chance.zipf(1.1, size) - 1) * 7919 % USERS
        rank_B = (chance.zipf(1.05, size) - 1) % (ITEMS // KINDS)
        which_B, other_B = chance.integers(0, 2, size), chance.integers(0, KINDS, size)
        own_B, type_B = chance.random(size) < 0.8, chance.integers(0, len(TYPES), size)
        parts = (user_B, rank_B, which_B, other_B, own_B, type_B)
        for number, (user, rank, which, other, own, kind) in enumerate(zip(*(p.tolist() for p in parts), strict=True)):
            if left[user] == 0:
                left[user], name[user], known = STAYS, known, known + 1
                taste_U2[user] = chance.integers(0, KINDS, 2)
            left[user] -= 1
            item = rank * KINDS + int(taste_U2[user, which] if own else other)
            at = START_MS + (start + number) * DAYS * 86_400_000 // count
            event = {"event_type": TYPES[kind], "user_id": f"u{name[user]}", "item_id": f"i{item}", "timestamp": at}
            yield json.dumps(event | {"event_id": f"e{start + number}"}).encode()


def written(path: Path, lines: Iterator[bytes]) -> Path:
    """As JSON Lines."""
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.writelines(line + b"\n" for line in lines)
    return path


class Watch:
    """Hears of the run's progress; a sample every so many events."""

    def __init__(self, every: int) -> None:
        self.samples: list[Sample] = []
        self._every = every
        self._process = psutil.Process()
        self._done, self._spent = 0, time.process_time()

    def __call__(self, done: int, total: int) -> None:
        """So many of all events are learned."""
        if done - self._done < self._every and done < total:
            return
        now = time.process_time()
        each = (now - self._spent) * 1e6 / (done - self._done)
        self.samples.append(Sample(done, each, self._process.memory_info().rss / 1e6))
        self._done, self._spent = done, now
        tqdm.write(f"{done:,} events: {each:.0f} µs each, {self.samples[-1].resident_mb:,.0f} MB", file=sys.stderr)


def slope(samples: list[Sample], of: str) -> float:
    """Per cent of the mean per million events, over the last three quarters."""
    late = [sample for sample in samples if sample.events > samples[-1].events / 4]
    value = np.array([getattr(sample, of) for sample in late])
    at = np.array([sample.events / 1e6 for sample in late])
    return float(100 * np.polyfit(at, value, 1)[0] / value.mean())


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--every", type=int, default=250_000)
    parser.add_argument("--effort", default="hurried")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "slope.json")
    chosen = parser.parse_args()
    settings = load_settings(environment={}, flags={"learning.effort": chosen.effort, "encoding.model": "hashing-384"})
    watch = Watch(chosen.every)
    with tempfile.TemporaryDirectory() as folder:
        shop = written(Path(folder) / "items.jsonl.gz", items())
        stream = written(Path(folder) / "events.jsonl.gz", events(chosen.events))
        backtest = Backtest(settings, (), 10, watch)
        found = backtest.run(stream, shop, lambda: build_encoder(settings.encoding))
    learner = found["learners"]["headrace"]
    told = {
        "events": chosen.events,
        "effort": chosen.effort,
        "ndcg": learner["ndcg"],
        "last_half_ndcg": learner["last_half_ndcg"],
        "cpu_slope": slope(watch.samples, "us_per_event"),
        "memory_slope": slope(watch.samples, "resident_mb"),
        "samples": [asdict(sample) for sample in watch.samples],
    }
    print(
        f"{chosen.events:,} events: processor time {told['cpu_slope']:+.1f} %, memory {told['memory_slope']:+.1f} % "
        f"per million events; nDCG@10 {told['ndcg']:.4f}, of the last half {told['last_half_ndcg']:.4f}"
    )
    chosen.out.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
