"""What a learner says of its input in its log: that it learns, now and then, and what is wrong with what it reads."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from datetime import UTC, datetime

from pipeline.epochs.processor import Applied

log = logging.getLogger(__name__)

FIRST_S = 5.0
EVERY_S = 60.0
YEAR_1973_MS = 100_000_000_000
"""What the seconds of our time are as milliseconds lies before it: nobody's events do."""
OUTCOMES = ("trained", "late", "duplicate", "erased", "skipped", "dead_lettered")


class Notices:
    """Told of every committed epoch; says in a line, soon after the first and then once a minute, what became of all.

    Nothing while nothing comes. Thread-safe.
    """

    def __init__(self, first_s: float = FIRST_S, every_s: float = EVERY_S) -> None:
        """Seconds until the first line, and between lines."""
        self._lock = threading.Lock()
        self._delay_s, self._every_s = first_s, every_s
        self._timer: threading.Timer | None = None
        self._outcomes: Counter[str] = Counter()
        self._letters: Counter[str] = Counter()
        self._newest = ""
        self._doubted_times = False

    def committed(self, applied: Applied) -> None:
        """An epoch came to this."""
        with self._lock:
            self._outcomes.update({name: getattr(applied.counts, name) for name in (*OUTCOMES, "consumed", "lists")})
            for letter in applied.dead_letters:
                record = letter.record
                self._letters[record.topic] += 1
                self._newest = f"{record.topic}-{record.partition}@{record.offset}: {letter.reason}"
            self._doubt_times(applied)
            if self._timer is None and (self._outcomes["consumed"] or self._letters):
                self._timer = threading.Timer(self._delay_s, self._tell)
                self._timer.daemon = True
                self._timer.start()

    def _tell(self) -> None:
        with self._lock:
            outcomes, letters, newest = self._outcomes, self._letters, self._newest
            self._outcomes, self._letters, self._timer = Counter(), Counter(), None
            self._delay_s = self._every_s
        for topic, count in sorted(letters.items()):
            log.warning("%d records of %s could not be used and are on %s.dlq", count, topic, topic)
        if letters:
            log.warning("the newest of them: %s", newest)
        if outcomes["consumed"]:
            told = ", ".join(f"{outcomes[name]} {name.replace('_', '-')}" for name in OUTCOMES if outcomes[name])
            log.info("%d events: %s; %d lists published", outcomes["consumed"], told, outcomes["lists"])

    def _doubt_times(self, applied: Applied) -> None:
        if self._doubted_times or not applied.counts.trained or not 0 < applied.watermark < YEAR_1973_MS:
            return
        self._doubted_times = True
        year = datetime.fromtimestamp(applied.watermark / 1000, UTC).year
        log.warning("events are of the year %d: is `timestamp` in seconds? It is wanted in milliseconds", year)
