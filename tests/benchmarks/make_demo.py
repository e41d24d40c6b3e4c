"""Makes the demo's data, config/demo, from MovieTweetings: a dense part of its last ten weeks.

    python tests/benchmarks/make_demo.py [--data DIR] [--out DIR]

Of the last 40,000 ratings of the 100K snapshot, the largest part in which every
user has at least 10 ratings and every film at least 5. Chosen for density
alone; note that the choice knows the whole window: a user or film that stays
rare in it is left out from the start.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from convert import Converted, DataMissing, load_movietweetings, with_their_items, write

from pipeline.messages import Event

WINDOW = 40_000
USER_RATINGS = 10
FILM_RATINGS = 5
FOLDER = Path(__file__).resolve().parents[2] / "config" / "demo"


def dense_part(events: Sequence[Event], user_least: int, item_least: int) -> list[Event]:
    """The largest part where users have at least `user_least` events, items `item_least`; in the same order.

    Dropping either can leave the other short, so it goes on until nothing more
    falls away (the (p, q)-core of the graph of users and items).
    """
    kept = list(events)
    while True:
        users = Counter(event.user_id for event in kept)
        items = Counter(event.item_id for event in kept)
        dense = [e for e in kept if users[e.user_id] >= user_least and items[e.item_id] >= item_least]
        if len(dense) == len(kept):
            return kept
        kept = dense


def demo(converted: Converted) -> Converted:
    """The demo's events, and the items that occur in them."""
    events = dense_part(converted[0][-WINDOW:], USER_RATINGS, FILM_RATINGS)
    return with_their_items(events, converted[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 done, 1 with one line of why not."""
    parser = argparse.ArgumentParser(description="Make config/demo from MovieTweetings.")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the source lies (default: see README.md)")
    parser.add_argument("--out", type=Path, metavar="DIR", default=FOLDER, help="where to write")
    options = parser.parse_args(arguments)
    try:
        events, items = demo(load_movietweetings(options.data))
    except DataMissing as missing:
        print(f"make_demo: {missing}", file=sys.stderr)
        return 1
    write(options.out, events, items)
    users = {event.user_id for event in events}
    positive = sum(event.value is not None and event.value >= 4 for event in events)
    print(f"{len(events):,} events, {positive:,} positive, {len(users):,} users, {len(items):,} items")
    return 0


if __name__ == "__main__":
    sys.exit(main())
