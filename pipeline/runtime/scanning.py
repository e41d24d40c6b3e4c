"""Everything that topics hold now, from their first record on."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.messages import Record
from pipeline.ports import Source

MOST_RECORDS = 5_000
WAIT_S = 1.0


def scanned(source: Source, patience: int = 3, only: str | None = None) -> Iterator[list[Record]]:
    """The records of a source's topics, batch by batch, from the first that is held to the end as it is now.

    With `only` the others of its topics are passed over. Ends early after so many polls without any: behind the
    last records may lie markers alone.
    """
    starts = source.starts()
    source.seek(starts)
    ends = source.high_watermarks()
    if only is not None:
        source.seek({tp: start if tp.topic == only else ends[tp] for tp, start in starts.items()})
    quiet = 0
    while quiet < patience and any(at < ends[tp] for tp, at in source.positions().items()):
        records = source.poll(MOST_RECORDS, WAIT_S)
        quiet = 0 if records else quiet + 1
        yield records
