"""The governor: which effort the next epoch goes by. Manifests record it.

It heeds what waits and how long that takes, and how long a restart would take.
"""

from __future__ import annotations

from pipeline.learning.effort import level_of
from pipeline.messages import FULL_EFFORT, LEAST_EFFORT
from pipeline.step import even_parts

AUTO = "auto"
LEAN = level_of("lean")
HURRIED = level_of("hurried")
"""As little as this for the sake of time: hurried lists are some 3 % worse than lean ones, scant ones up to 21 %."""
BEHIND_S = 0.3
CAUGHT_UP_S = 0.15
PATIENCE_S = 2.0
LONG_S, LONGEST_S = 16.0, 256.0
EASED = 0.8
"""So much of the load at which a level was given up is less load: of more it is tried again only after long."""
RATE_S = 2.0
"""Seconds over which the load is averaged."""
TRIAL_S = 10.0
MEMORY = 8.0
CROWDED, ROOMY = 2.0, 1.0
"""Micro-batches that wait on average: of more than these the level is too much, of fewer one more is tried."""
LOOKED = 5.0
"""Turns over which what waits is averaged."""
FEW = 4.0
"""Events of an epoch, on average, that hardly wait for one another, however long they take."""
EASE = 0.7
"""So much of the time that an epoch may take leaves room to try a level more."""
SETTLE_S = 1.0
"""So long after a change of level what waits tells nothing of it yet."""
GUESSED_S = {-2: 0.008, -1: 0.015, 0: 0.03, 1: 0.05, 2: 0.12, 3: 0.17, 4: 0.22}
"""Seconds per micro-batch and level until they are measured: only their proportions matter for long."""


class Governor:
    """Keeps what waits below 0.3 seconds of work, by the greatest effort that does.

    Down at once, as far as it takes; up one level when for a while less than
    0.15 seconds of work have waited. What fits into one micro-batch does not
    wait, however long that takes. A level that keeps up by taking several
    micro-batches at a time has no room to spare, and all its lists are late:
    one level less where more than two wait on average, or (but never scant for
    that) more than one and 0.15 seconds of work, and none more where more than
    one does. While the load
    is about that at which a level was given up it is tried again after a long
    while, after twice as long if it could not be held for ten seconds. So under
    a steady load it stays at the greatest level that keeps up at ease, and in a
    quiet hour at full effort.
    Work is counted in micro-batches: one of a single event takes nearly as long as a full one.
    What comes while an epoch is learned waits for its end, so that a list is
    late by twice that: one level less, too, where epochs of more than a few
    events take more than `timely_s` on average, but never scant for that.
    While more than `most_replay_s` of learning is in no snapshot yet it is lean,
    whatever waits: what is learned at leisure now is done again in a hurry after a crash.
    """

    def __init__(self, wanted: str, micro_batch: int, most_replay_s: float = 0.0, timely_s: float = 0.0) -> None:
        """`wanted` as the setting `learning.effort`: auto, or a level that it then keeps to.

        0 `most_replay_s` or `timely_s`: any.
        """
        self._fixed = wanted != AUTO
        self._most_replay_s = most_replay_s or float("inf")
        self._timely_s = timely_s or float("inf")
        self._micro_batch = micro_batch
        self._seconds: dict[int, float] = {}
        self._calm_since: float | None = None
        self._long_s = LONG_S
        self._crowd = self._rate = self._given_up_at_rate = 0.0
        self._events = self._epoch_s = 0.0
        self._left = 0
        self._looked_at = self._moved_at = float("-inf")
        self._moved_up = False
        self.level = level_of(wanted) if self._fixed else FULL_EFFORT

    def choose(self, waiting: int, now: float, unsaved_s: float = 0.0) -> int:
        """The level to go by while `waiting` events are still to be learned; `now` in seconds of a steady clock.

        `unsaved_s` are the seconds of learning that a restart would have to do again.
        """
        if self._fixed:
            return self.level
        work = self._batches(waiting)
        self._count(waiting, now)
        self._crowd += (waiting / self._micro_batch - self._crowd) / LOOKED
        calm = work <= 1 or work * self.seconds(self.level) <= CAUGHT_UP_S
        late_with_more = self.level >= HURRIED and self._takes_over(EASE * self._timely_s)
        if self._calm_since is None or not calm or self._crowd > ROOMY or late_with_more:
            self._calm_since = now
        if work > 1 and work * self.seconds(self.level) > BEHIND_S:
            fitting = [level for level in range(LEAST_EFFORT, self.level) if work * self.seconds(level) <= BEHIND_S]
            self._down(max(fitting, default=LEAST_EFFORT), now)
        elif self._crowded() and self.level > LEAST_EFFORT and now - self._moved_at > SETTLE_S:
            self._down(self.level - 1, now)
        elif self.level < FULL_EFFORT and now - self._calm_since >= self._patience_s():
            self.level += 1
            # What it took when it was left may have been a hiccup: from here up all is measured anew.
            self._seconds = {level: taken for level, taken in self._seconds.items() if level < self.level}
            self._moved_up, self._moved_at, self._calm_since = True, now, now
        return min(LEAN, self.level) if self.saves(unsaved_s) else self.level

    def saves(self, unsaved_s: float) -> bool:
        """Whether so much would have to be done again by a restart that as little as can be is to be added to it."""
        return not self._fixed and unsaved_s > self._most_replay_s

    def learned(self, level: int, events: int, seconds: float) -> None:
        """An epoch of so many events took this long at that level, from poll to commit.

        Of time that it shares with the one before it is given what that one had not.
        """
        batches = self._batches(events)
        self._left = max(self._left - events, 0)
        if batches:
            self._events += (events - self._events) / LOOKED
            self._epoch_s += (seconds - self._epoch_s) / LOOKED
            kept = MEMORY / (MEMORY + batches) if level in self._seconds else 0.0
            self._seconds[level] = kept * self.seconds(level) + (1 - kept) * seconds / batches

    def seconds(self, level: int) -> float:
        """Seconds that a micro-batch takes at a level: measured, else in proportion to the nearest one that is."""
        if level in self._seconds or not self._seconds:
            return self._seconds.get(level, GUESSED_S[level])
        nearest = min(self._seconds, key=lambda measured: abs(measured - level))
        return self._seconds[nearest] * GUESSED_S[level] / GUESSED_S[nearest]

    def _crowded(self) -> bool:
        """Whether the level has no room to spare: too much waits on average, or (never scant for that) for too long."""
        for_long = self._crowd > ROOMY and self._crowd * self.seconds(self.level) > CAUGHT_UP_S
        too_long = for_long or self._takes_over(self._timely_s)
        return self._crowd > CROWDED or (too_long and self.level > HURRIED)

    def _takes_over(self, seconds: float) -> bool:
        """Whether epochs of more than a few events take longer than that on average."""
        return self._events > FEW and self._epoch_s > seconds

    def _count(self, waiting: int, now: float) -> None:
        """Average the events that come per second."""
        if now > self._looked_at:
            passed_s = now - self._looked_at
            came = max(waiting - self._left, 0) / passed_s
            self._rate += (came - self._rate) * min(passed_s / RATE_S, 1.0)
        self._left, self._looked_at = waiting, now

    def _patience_s(self) -> float:
        """For how long there must be room before a level more is tried."""
        return self._long_s if self._rate > EASED * self._given_up_at_rate > 0 else PATIENCE_S

    def _down(self, level: int, now: float) -> None:
        if level == self.level:
            return
        failed = self._moved_up and now - self._moved_at < TRIAL_S
        self._long_s = min(2 * self._long_s, LONGEST_S) if failed else LONG_S
        self._given_up_at_rate = self._rate
        self._moved_up, self._moved_at, self.level = False, now, level

    def _batches(self, events: int) -> int:
        return even_parts(events, self._micro_batch)
