"""Drift: watches the learner's own prequential error, and says for how long to learn faster once it has risen.

What is watched is not 1 - nDCG itself, which is 1 nine times in ten and rises
with the catalogue, but how deep the target stood, ln(rank) / ln(items ranked):
0 at the top, 1 at the end, whatever the size of the catalogue. From it goes
what has lately been usual for histories of that length, so that a wave of new
users is no drift, and a user counts once in a micro-batch, so that one who is
hard to please is none either. What is usual follows slowly; after an
improvement the difference climbs back to 0, and so a rise is heeded only where
the last errors are worse than usual, too.
"""

from __future__ import annotations

# river declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call"
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from pipeline.learning.detectors import ADWIN, PageHinkley
from pipeline.learning.ranks import Ranks

Mode = Literal["react", "watch", "off"]

KEPT = 4096
"""Errors that the detectors know of, at most; at that many the older half is dropped."""
LENGTHS = 10
LAST = 64
"""Errors whose mean must lie above the usual."""
USUAL_OVER = 2_000
SETTLED = 20


@dataclass(frozen=True)
class Reaction:
    """How to learn from one micro-batch.

    `rate` multiplies the learning rates, `recent` is the share of each replay
    memory that is drawn from, its latest, and `discount` multiplies what was
    counted of pairs, once.
    """

    rate: float = 1.0
    recent: float = 1.0
    discount: float = 1.0


CALM = Reaction()


@runtime_checkable
class Reactive(Protocol):
    """What can learn faster for a while. Told before every micro-batch is learned."""

    def react(self, reaction: Reaction) -> None:
        """Take the rates of this micro-batch; nothing of it is kept as state, but what a discount changed."""
        ...


@dataclass(frozen=True)
class Policy:
    """What a drift leads to: the reaction, and the events that it lasts; a further drift starts it anew.

    Of what was tried only the discount of pairs paid (docs/LEARNING.md).
    """

    rate: float = 1.0
    recent: float = 1.0
    discount: float = 0.05
    events: int = 4_000


class DriftWatch:
    """ADWIN (Bifet & Gavaldà 2007) and Page-Hinkley (Page 1954) over one series of errors: either may tell a rise.

    A detector has no state of its own that could be kept: it is what the errors
    of `KEPT` make of a new one, so that a watch that was loaded goes on exactly
    as the one that was saved.

    >>> watch = DriftWatch()
    >>> watch.add([0.1] * 500), watch.add([0.9] * 100) > 0
    (0, True)
    """

    def __init__(self, delta: float = 0.02, slack: float = 0.04, threshold: float = 4.0) -> None:
        """`delta` is ADWIN's confidence; errors are above 0 by more than `slack`, or no rise is told."""
        self._delta = delta
        self._slack = slack
        self._threshold = threshold
        self._error_N = torch.zeros(KEPT)
        self._held = 0
        self._renew()

    def add(self, errors: Iterable[float]) -> int:
        """Take errors in order; returns at how many of them a rise was told."""
        told = 0
        for error in torch.tensor(list(errors)).tolist():
            if self._held == KEPT:
                self._error_N[: KEPT // 2] = self._error_N[KEPT // 2 :].clone()
                self._held = KEPT // 2
                self._renew()
            self._error_N[self._held] = error
            self._held += 1
            told += self._feed(self._held)
        return told

    def state(self) -> dict[str, Tensor]:
        """The errors since the detectors began."""
        return {"error_N": self._error_N, "held": torch.tensor([self._held])}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._error_N = tensors["error_N"].clone()
        self._held = int(tensors["held"])
        self._renew()

    def _renew(self) -> None:
        self._adwin = ADWIN(delta=self._delta, clock=1)
        self._page_hinkley = PageHinkley(
            min_instances=30, delta=self._slack, threshold=self._threshold, alpha=0.9999, mode="up"
        )
        self._rose_at = -LAST
        for held in range(1, self._held + 1):
            self._feed(held)

    def _feed(self, held: int) -> bool:
        """Show the detectors the newest of the first `held` errors; returns whether it is told.

        A rise waits for up to LAST errors until they are worse than usual.
        """
        error = float(self._error_N[held - 1])
        before = self._adwin.estimation
        self._adwin.update(error)
        self._page_hinkley.update(error)
        if self._page_hinkley.drift_detected or (self._adwin.drift_detected and self._adwin.estimation > before):
            self._rose_at = held
        if held - self._rose_at >= LAST or held < LAST // 2:
            return False
        told = float(self._error_N[max(held - LAST, 0) : held].mean()) > self._slack
        if told:
            self._rose_at = -LAST
        return told


class Drift:
    """Turns a micro-batch's ranks into the reaction with which it is learned."""

    def __init__(self, mode: Mode, policy: Policy | None = None) -> None:
        self._mode = mode
        self._policy = policy or Policy()
        self._watch = DriftWatch()
        # Predictions and lately usual depth by length of history.
        self._usual_L2 = torch.zeros(LENGTHS, 2, dtype=torch.float64)
        self._progress = torch.zeros(2, dtype=torch.int64)

    @property
    def detected(self) -> int:
        """Drifts seen so far."""
        return int(self._progress[0])

    @property
    def reacting(self) -> bool:
        """Whether the reaction to one lasts."""
        return int(self._progress[1]) > 0

    def take(self, ranks: Ranks, user_Q: Tensor, events: int) -> Reaction:
        """How to learn a micro-batch of `events` events, whose predictions stood at these ranks."""
        if self._mode == "off":
            return CALM
        told = self._watch.add(self._errors(ranks, user_Q)) > 0
        self._progress[0] += told
        if self._mode == "watch":
            return CALM
        self._progress[1] = self._policy.events if told else max(int(self._progress[1]) - events, 0)
        if not self.reacting:
            return CALM
        return Reaction(self._policy.rate, self._policy.recent, self._policy.discount if told else 1.0)

    def state(self) -> dict[str, Tensor]:
        """The errors watched, what is usual, drifts seen and events left to react."""
        watched = {f"drift.watch.{name}": tensor for name, tensor in self._watch.state().items()}
        return watched | {"drift.usual_L2": self._usual_L2, "drift.progress": self._progress}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._usual_L2 = tensors["drift.usual_L2"].clone()
        self._progress = tensors["drift.progress"].clone()
        under = "drift.watch."
        self._watch.load({n.removeprefix(under): t for n, t in tensors.items() if n.startswith(under)})

    def _errors(self, ranks: Ranks, user_Q: Tensor) -> list[float]:
        """Each user's mean error in this micro-batch, above the usual, users in order of appearance."""
        rank_Q, unseen_Q = ranks.rank_Q["headrace"], ranks.unseen_Q
        ranked = torch.nonzero((rank_Q > 0) & (unseen_Q > 1)).flatten()
        depth_Q = (torch.log(rank_Q[ranked].double()) / torch.log(unseen_Q[ranked].double())).tolist()
        length_Q = torch.log2(1 + ranks.user_count_Q[ranked].double()).long().clamp(max=LENGTHS - 1).tolist()
        of_user: dict[int, list[float]] = {}
        usual_L2 = self._usual_L2.tolist()
        for user, depth, length in zip(user_Q[ranked].tolist(), depth_Q, length_Q, strict=True):
            seen, usual = usual_L2[length]
            if seen >= SETTLED:
                of_user.setdefault(user, []).append(depth - usual)
            usual_L2[length] = [seen + 1, usual + (depth - usual) / min(seen + 1, USUAL_OVER)]
        self._usual_L2 = torch.tensor(usual_L2, dtype=torch.float64)
        return [sum(found) / len(found) for found in of_user.values()]
