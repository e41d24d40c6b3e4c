"""Which snapshots to keep: the newest few, and fewer the older they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True)
class Ladder:
    """How many: the `newest`, of each of so many hours the last one, of each of so many days the last one."""

    newest: int = 2
    hourly: int = 0
    daily: int = 0

    def kept(self, saved_at: Mapping[int, int | None]) -> set[int]:
        """Epochs to keep, of those saved at these times (ms; None: unknown, kept only among the newest).

        >>> hours = {epoch: epoch * HOUR_MS // 2 for epoch in range(10)}
        >>> sorted(Ladder(newest=1, hourly=3).kept(hours))
        [5, 7, 9]
        """
        newest_first = sorted(saved_at, reverse=True)
        kept = set(newest_first[: self.newest])
        for size, count in ((HOUR_MS, self.hourly), (DAY_MS, self.daily)):
            last: dict[int, int] = {}
            for epoch in newest_first:
                at = saved_at[epoch]
                if at is not None:
                    last.setdefault(at // size, epoch)
            kept.update(list(last.values())[:count])
        return kept
