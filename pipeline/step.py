"""The spine: what one micro-batch does. Read this first.

predict    each event's user is asked what they would like next: by weights and
           statistics from before the micro-batch, by their own history up to
           the event, and nothing of the event itself
score      where the liked item stood in that list: the honest online metric
learn      scorers observe; the interest model and the dynamic weights each
           take a gradient step, plus replay
recommend  the touched users get fresh lists (`pipeline.learning.lists`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.evaluation.rival import Cpu
from pipeline.learning.learner import Batch, Learner
from pipeline.learning.ranks import Ranks
from pipeline.learning.scorer import Observation
from pipeline.messages import Event


@dataclass(frozen=True)
class Step:
    """What a micro-batch came to: its events as rows, prequential ranks, both losses, CPU seconds by its clock."""

    batch: Batch
    ranks: Ranks
    interest_loss: float
    weights_loss: float
    cpu: Cpu

    @property
    def seen(self) -> Observation:
        """The events with what stood before each."""
        return self.batch.seen


def untimed() -> float:
    """Asking for CPU time costs half a millisecond on some machines: a clock for where nobody wants to know."""
    return 0.0


def step(
    learner: Learner, events: Sequence[Event], times: Sequence[int], watermark: int, peers: Sequence[str] = (),
    clock: Callable[[], float] = untimed,
) -> Step:  # fmt: skip
    """Predict, score, learn from at most one micro-batch of events in order of their clamped `times` (ms)."""
    began = clock()
    batch = learner.admit(events, times, watermark)
    predictions = learner.predict(batch.questions)
    predicted = clock()
    ranks = learner.score(batch, predictions, peers)
    scored = clock()
    interest_loss, weights_loss = learner.learn(batch, predictions, ranks)
    cpu = Cpu(asking=predicted - began, learning=clock() - scored)
    return Step(batch, ranks, interest_loss, weights_loss, cpu)


def micro_batches(count: int, size: int) -> Iterator[slice]:
    """Cut `count` events into micro-batches of at most `size`.

    >>> [(s.start, s.stop) for s in micro_batches(5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def even_parts(count: int, size: int) -> int:
    """Into how many micro-batches of about `size` to cut so many events: a small rest costs nearly as much as a whole.

    >>> [even_parts(count, 64) for count in (0, 1, 64, 95, 96, 160)]
    [0, 1, 1, 1, 2, 3]
    """
    return max(min(count, 1), (2 * count + size) // (2 * size))


def even(count: int, size: int) -> Iterator[slice]:
    """Cut `count` events into micro-batches of about `size`, at most half as many more, all of one length or one more.

    >>> [(s.start, s.stop) for s in even(5, 2)]
    [(0, 1), (1, 3), (3, 5)]
    """
    parts = even_parts(count, size)
    return (slice(part * count // parts, (part + 1) * count // parts) for part in range(parts))
