"""Watches the prequential error for drift: when the stream changes, predictions suddenly fail more often."""

from __future__ import annotations

# river declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call"
from collections.abc import Iterable

from river.drift import ADWIN


class DriftWatch:
    """ADWIN (Bifet & Gavaldà 2007) over each prediction's 1 - nDCG.

    >>> watch = DriftWatch()
    >>> watch.add([0.1] * 1000), watch.add([0.9] * 1000) > 0
    (0, True)
    """

    def __init__(self, delta: float = 0.002) -> None:
        self._adwin = ADWIN(delta=delta)

    def add(self, errors: Iterable[float]) -> int:
        """Take errors in order; returns at how many of them a change was detected."""
        detected = 0
        for error in errors:
            self._adwin.update(error)
            detected += bool(self._adwin.drift_detected)
        return detected

    @property
    def window(self) -> float:
        """Predictions since the last change, as far as ADWIN remembers."""
        return float(self._adwin.width)
