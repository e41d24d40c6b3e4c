"""Tells a person how far a replay has come: a bar on a terminal, a line now and then otherwise."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

from pipeline.epochs.replay import Progress

log = logging.getLogger(__name__)

EVERY_S = 5.0


class ReplayReport:
    """A context manager around a replay, called before it and after each of its epochs."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()
        self._last = Progress(0, 0, 0, 0)
        self._bar = tqdm(desc="replaying", unit=" events", disable=not sys.stderr.isatty(), leave=False)

    def __call__(self, progress: Progress) -> None:
        """So far it is."""
        if progress.epochs == 0:
            # What came before was reading manifests and claiming the shard.
            self._began = self._told = time.monotonic()
        self._last = progress
        self._bar.total = progress.of_events
        self._bar.update(progress.events - self._bar.n)
        now = time.monotonic()
        if self._bar.disable and now - self._told >= EVERY_S:
            self._told = now
            log.info("%s", told(progress, now - self._began))

    def __enter__(self) -> ReplayReport:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Says how long it took, if it came to its end."""
        self._bar.close()
        if error is None and self._last.epochs:
            seconds = time.monotonic() - self._began
            last = self._last
            log.info(
                "replayed %d epochs, %d events in %.1f s (%.0f events/s)",
                last.epochs, last.events, seconds, last.events / seconds if seconds else 0,
            )  # fmt: skip


def told(progress: Progress, seconds: float) -> str:
    """A line on the way.

    >>> told(Progress(30, 90, 1200, 4000), 4.0)
    'replayed 30 of 90 epochs, 1200 of 4000 events; 300 events/s, about 9 s left'
    """
    done, all_of = (progress.epochs, progress.events), (progress.of_epochs, progress.of_events)
    line = f"replayed {done[0]} of {all_of[0]} epochs, {done[1]} of {all_of[1]} events"
    if progress.events == 0 or seconds <= 0:
        return line
    rate = progress.events / seconds
    return f"{line}; {rate:.0f} events/s, about {(progress.of_events - progress.events) / rate:.0f} s left"
