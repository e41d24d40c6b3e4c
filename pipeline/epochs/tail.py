"""The manifests after a base: held while they are few, read again each time where memory should not hold them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import islice

from pipeline.epochs.history import Standing
from pipeline.messages import Manifest
from pipeline.ports import LogGap, Sink

MOST_HELD = 20_000
"""Some 2 KB each."""


class Tail:
    """Manifests in order, as many as there were at first: later ones are not seen.

    >>> tail = Tail(lambda: iter("abc"))
    >>> list(tail), len(tail), tail.last, list(tail.and_then("d"))
    (['a', 'b', 'c'], 3, 'c', ['a', 'b', 'c', 'd'])
    """

    def __init__(self, read: Callable[[], Iterator[Manifest]]) -> None:
        """Goes through them once."""
        self._read = read
        self._more: tuple[Manifest, ...] = ()
        self._count = 0
        self.last: Manifest | None = None
        held: list[Manifest] = []
        for manifest in read():
            self._count += 1
            self.last = manifest
            if self._count <= MOST_HELD:
                held.append(manifest)
        self._held = held if self._count <= MOST_HELD else None

    def __len__(self) -> int:
        """How many there are."""
        return self._count + len(self._more)

    def __iter__(self) -> Iterator[Manifest]:
        """Once more from the first; raises LogGap where some are gone since."""
        if self._held is not None:
            yield from self._held
        else:
            left = self._count
            for manifest in islice(self._read(), self._count):
                left -= 1
                yield manifest
            if left:
                raise LogGap(f"of {self._count} manifests that were read at first {left} are gone since")
        yield from self._more

    def rest(self) -> Tail:
        """All but the first.

        >>> list(Tail(lambda: iter("abc")).rest()), Tail(lambda: iter("a")).rest().last
        (['b', 'c'], None)
        """
        shorter, read = copy(self), self._read
        shorter._read = lambda: islice(read(), 1, None)
        shorter._count = max(self._count - 1, 0)
        shorter._held = None if self._held is None else self._held[1:]
        shorter.last = self.last if shorter._count else None
        return shorter

    def and_then(self, manifest: Manifest) -> Tail:
        """With one more that is not in the log yet; what others have written since is not seen."""
        longer = copy(self)
        longer._more, longer.last = (*self._more, manifest), manifest
        return longer


Manifests = Tail | Sequence[Manifest]


def manifests_from(sink: Sink, base: Standing) -> Tail:
    """The one that a base stands at, if it stands at any, and those after it."""
    return Tail(lambda: sink.manifests(max(base.offset, 0)))
