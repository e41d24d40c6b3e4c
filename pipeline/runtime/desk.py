"""What the learner's process answers beside its loop: lists, reasons, who is active. It reads between epochs.

The loop holds the desk while state and log are apart, from before a step until
its commit is known to be good, and that of each step that was taken meanwhile;
after any doubt there is no state to ask until the start is over. Whoever asks
waits for the end of the epoch, and an epoch for the end of the answer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, Full, Queue

import msgspec
import torch

from pipeline.epochs.processor import Applied, Processor
from pipeline.epochs.publication import EVERYONE, TRENDING, Publication
from pipeline.learning.explaining import Why, why
from pipeline.learning.lists import pulled
from pipeline.messages import DeadLetter, Recommendations

WAIT_S = 5.0
LONG = "the learner is in the middle of a long epoch; ask again"
LETTERS = 20
EXCERPT_BYTES = 200
WAITING = 64
"""Messages that wait for a reader who does not read: older ones are dropped."""


class NotReady(RuntimeError):
    """There is no state to ask: the learner is starting, or was in doubt."""


class Unknown(LookupError):
    """No such user, item or list."""


@dataclass(frozen=True)
class Letter:
    """A dead letter as it is shown: `time` in Unix seconds, `excerpt` the first bytes as text."""

    time: float
    topic: str
    partition: int
    offset: int
    error: str
    reason: str
    excerpt: str

    @classmethod
    def of(cls, letter: DeadLetter) -> Letter:
        """Of a dead letter of this moment."""
        record = letter.record
        excerpt = (record.value or b"")[:EXCERPT_BYTES].decode("utf-8", "replace")
        return cls(
            time.time(), record.topic, record.partition, record.offset, letter.error, letter.reason, excerpt
        )


class Watcher:
    """Hears what is published for one user (None: of nobody), and every dead letter."""

    def __init__(self, user: str | None) -> None:
        self.user = user
        self._queue: Queue[Recommendations | Letter] = Queue(WAITING)

    def tell(self, message: Recommendations | Letter) -> None:
        """Never waits: the oldest goes where there is no room."""
        while True:
            try:
                return self._queue.put_nowait(message)
            except Full:
                self.take()

    def take(self) -> Recommendations | Letter | None:
        """The oldest that waits; None where none does."""
        try:
            return self._queue.get_nowait()
        except Empty:
            return None


class Desk:
    """Asked by any thread; told by the loop's."""

    def __init__(self, told: Callable[[Applied], None] = lambda applied: None) -> None:
        """`told` hears of every epoch that was committed."""
        self._told = told
        self._lock = threading.Lock()
        self._next = threading.Lock()
        self._held = 0
        self._processor: Processor | None = None
        self._epoch = 0
        self._watchers: set[Watcher] = set()
        self._letters: deque[Letter] = deque(maxlen=LETTERS)

    def open(self, processor: Processor, epoch: int) -> None:
        """The loop: this is the state after that epoch, ask away."""
        with self._lock:
            self._processor, self._epoch = processor, epoch

    @property
    def asked(self) -> bool:
        """The loop: whether somebody waits for the end of the epoch."""
        return self._next.locked()

    def hold(self) -> None:
        """The loop: an epoch begins; answers wait until it is committed, and so is any that begins before that."""
        if not self._held:
            with self._next:  # whoever waits goes first
                self._lock.acquire()
        self._held += 1

    def committed(self, epoch: int, applied: Applied) -> None:
        """The loop: of the epochs that were begun the first is committed."""
        processor, self._epoch = self._processor, epoch
        self._held -= 1
        if not self._held:
            self._lock.release()
        self._told(applied)
        for letter in map(Letter.of, applied.dead_letters):
            self._letters.append(letter)
            for watcher in tuple(self._watchers):
                watcher.tell(letter)
        if processor is not None:
            self._tell_lists(applied, processor)

    def close(self) -> None:
        """The loop: the state is in doubt, or over."""
        if not self._held:
            self._lock.acquire()
        self._processor = None
        self._held = 0
        self._lock.release()

    def recommendations(
        self, user: str, name: str | None = None, size: int | None = None, exclude: Sequence[str] = ()
    ) -> Recommendations:
        """A user's list (None: the first that is configured) as of now; one unknown gets what is trending.

        Raises NotReady, Unknown.
        """
        with self._reading() as processor:
            name = first_list(processor) if name is None else name
            learner, settings = processor.learner, processor.settings.publishing
            if name not in settings.lists:
                raise Unknown(f"there is no list {name!r}; there are {', '.join(settings.lists)}")
            publication = Publication(processor, self._epoch, int(time.time() * 1000))
            row = learner.users.ids.find(user)
            if row < 0:
                items = publication.trending(size or settings.trending_size, exclude)
                return publication.listed(TRENDING, EVERYONE, items, None)
            most = min(size or settings.lists[name].size, processor.settings.learning.candidates)
            made = pulled(learner, row, name, processor.ledger.watermark, most, exclude)
            return publication.listed(name, user, made.items, processor.triggers.get(row))

    def why(self, user: str, item_id: str) -> tuple[Why, int]:
        """Why an item stands where it does in a user's first list now, and the epoch. Raises NotReady, Unknown."""
        with self._reading() as processor:
            name = first_list(processor)
            row = processor.learner.users.ids.find(user)
            if row < 0:
                raise Unknown("nothing is known of this user")
            try:
                return why(processor.learner, row, name, processor.ledger.watermark, [item_id])[0], self._epoch
            except KeyError:
                raise Unknown("nothing is known of this item") from None

    def popular(self, n: int) -> list[str]:
        """Items liked most lately. Raises NotReady."""
        with self._reading() as processor:
            publication = Publication(processor, self._epoch, 0)
            return [item.item_id for item in publication.trending(n)]

    def active(self, n: int) -> list[str]:
        """Who acted last, the latest first. Raises NotReady."""
        with self._reading() as processor:
            users = processor.learner.users
            held = len(users.ids)
            latest = torch.topk(users.last_time_U[:held], min(n, held)).indices.tolist()
            names = [users.ids.name(row) for row in latest if users.last_time_U[row] > 0]
            return [name for name in names if name]

    @contextmanager
    def watching(self, user: str | None) -> Iterator[Watcher]:
        """Somebody who hears of a user's lists and of dead letters, first those of late."""
        watcher = Watcher(user)
        for letter in tuple(self._letters):
            watcher.tell(letter)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    @contextmanager
    def _reading(self) -> Iterator[Processor]:
        until = time.monotonic() + WAIT_S
        if not self._next.acquire(timeout=WAIT_S):
            raise NotReady(LONG)
        try:
            if not self._lock.acquire(timeout=max(until - time.monotonic(), 0.0)):
                raise NotReady(LONG)
        finally:
            self._next.release()
        try:
            if self._processor is None:
                raise NotReady("the learner is recovering; ask again")
            yield self._processor
        finally:
            self._lock.release()

    def _tell_lists(self, applied: Applied, processor: Processor) -> None:
        watchers = [watcher for watcher in tuple(self._watchers) if watcher.user is not None]
        if not watchers:
            return
        name, topic = first_list(processor), processor.settings.topic("recommendations")
        published = {output.key: output.value for output in applied.outputs if output.topic == topic}
        for watcher in watchers:
            if (value := published.get(f"{name}:{watcher.user}".encode())) is not None:
                watcher.tell(msgspec.json.decode(value, type=Recommendations))


def first_list(processor: Processor) -> str:
    """The name of the list that the page shows."""
    return next(iter(processor.settings.publishing.lists))
