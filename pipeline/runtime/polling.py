"""What an epoch takes from a source, and what it leaves there."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pipeline.messages import Record
from pipeline.ports import Positions, Source


def gathered(source: Source, most: int, patience_s: float, linger_s: float) -> list[Record]:
    """At most so many records: those that come until `linger_s` after the first, which is waited for `patience_s`."""
    records = source.poll(most, patience_s)
    until = time.monotonic() + linger_s
    while records and len(records) < most and (left_s := until - time.monotonic()) > 0:
        records += source.poll(most - len(records), left_s)
    return records


def waiting(source: Source, topic: str, records: Sequence[Record], positions: Positions) -> tuple[int, int]:
    """Of a topic those among the records just read, and those of the log still to be read."""
    ends = source.high_watermarks()
    behind = (ends.get(tp, at) - at for tp, at in positions.items() if tp.topic == topic)
    return sum(record.topic == topic for record in records), sum(max(lag, 0) for lag in behind)
