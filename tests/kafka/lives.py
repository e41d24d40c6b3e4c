"""What the lives of a learner said of their starts: from which snapshot, and which epochs they went on without."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

_SNAPSHOT = r"the snapshot of epoch (\d+)[^,]*(?:, [^)]*\))?"
_BEGAN = re.compile(rf"starting from (?:{_SNAPSHOT}|an empty state), then (\d+) epochs to replay")
_LEFT_OUT = re.compile(r"accepted gap in epoch (\d+):")


@dataclass
class Start:
    """One recovery: its claim's epoch, the snapshot's (0: an empty state), epochs not replayed since their events
    are gone.
    """

    claim: int
    snapshot: int
    left_out: set[int] = field(default_factory=set)


def starts_told(logs: Iterable[Path]) -> dict[int, Start]:
    """Every start that is told of in these logs, by its claim's epoch."""
    starts: dict[int, Start] = {}
    for log in logs:
        start: Start | None = None
        for line in log.read_text("utf-8", "replace").splitlines():
            if began := _BEGAN.search(line):
                snapshot = int(began[1] or 0)
                start = Start(snapshot + int(began[2]) + 1, snapshot)
                starts[start.claim] = start
            elif (left_out := _LEFT_OUT.search(line)) and start is not None:
                start.left_out.add(int(left_out[1]))
    return starts
