"""Runs Headrace until the learner comes to a named place of the epoch protocol for the n-th time: SIGKILL there.

kill_points.py "PLACE" N run …; places are in POINTS. The program is the real one; its learner's producer and its
snapshot folder are wrapped from outside.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

DISK = ("write", "sync", "rename", "sync_names", "remove")
ONCE = "after init_transactions"
"""In a life that nothing else befalls; the other places are passed again and again."""
POINTS = [
    ONCE,
    "before begin_transaction",
    "after begin_transaction",
    "after send list",
    "after send manifest",
    "after flush",
    "after send_offsets_to_transaction",
    "before the commit's answer is heard",
    "after commit_transaction",
    "before a snapshot's write",
    "after a snapshot's write",
    "after a snapshot's sync",
    "after a snapshot's rename",
    "after a snapshot's sync_names",
    "before a snapshot's remove",
    "after a snapshot's remove",
]
"""What lies between two of them is the same place: after `flush` is before `send_offsets_to_transaction`."""


class Strike:
    """SIGKILL at the n-th passing of one place."""

    def __init__(self, place: str, passing: int) -> None:
        self._place = place
        self._left = passing

    def at(self, place: str) -> None:
        """Called wherever a place is passed."""
        if place == self._place:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, between two places."""

        def passing(*arguments: Any, **options: Any) -> Any:
            self.at(f"before {what}")
            answer = call(*arguments, **options)
            self.at(f"after {what}")
            return answer

        return passing


def watch_sink(strike: Strike) -> None:
    """Places in the transactions of the sink that writes manifests: the learner's."""
    from producers.kafka import KafkaSink

    start = KafkaSink.start

    def started(sink: KafkaSink) -> None:
        start(sink)
        if sink._epochs is not None:
            strike.at(ONCE)
            watch_producer(strike, sink._producer, sink._epochs.topic)

    KafkaSink.start = started  # type: ignore[method-assign]


def watch_producer(strike: Strike, producer: Any, epochs: str) -> None:
    """Places between the calls of one transaction."""
    for name in ("begin_transaction", "flush", "send_offsets_to_transaction", "commit_transaction"):
        setattr(producer, name, strike.around(name, getattr(producer, name)))
    send = producer.send
    manifest, others = strike.around("send manifest", send), strike.around("send list", send)
    producer.send = lambda topic, *rest, **more: (manifest if topic == epochs else others)(topic, *rest, **more)
    watch_answers(strike, producer._transaction_manager)


def watch_answers(strike: Strike, manager: Any) -> None:
    """The coordinator has decided on the commit and said so; this process has not heard it."""
    from kafka.producer.transaction_manager import EndTxnHandler

    handle = EndTxnHandler.handle_response

    def heard(handler: Any, response: Any) -> Any:
        if handler.transaction_manager is manager:
            strike.at("before the commit's answer is heard")
        return handle(handler, response)

    EndTxnHandler.handle_response = heard


def watch_disk(strike: Strike) -> None:
    """Places in the writing of a snapshot."""
    from pipeline.epochs.disk import Folder

    for name in DISK:
        setattr(Folder, name, strike.around(f"a snapshot's {name}", getattr(Folder, name)))


def main() -> None:
    """The rest of the command line is Headrace's."""
    place, passing = sys.argv[1], int(sys.argv[2])
    if place not in POINTS:
        sys.exit(f"no such place: {place}; there are {', '.join(POINTS)}")
    strike = Strike(place, passing)
    watch_sink(strike)
    watch_disk(strike)
    sys.argv = ["headrace", *sys.argv[3:]]
    from pipeline.runtime.cli import main as headrace

    headrace()


if __name__ == "__main__":
    main()
