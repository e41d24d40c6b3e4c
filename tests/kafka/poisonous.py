"""Runs Headrace with a step that some events spoil: it does all its work, then raises or takes the process along.

poisonous.py run …; an event says how in its context, under MANNER. The program is the real one, its step is wrapped
from outside.
"""

from __future__ import annotations

import os
import signal
from typing import Any

MANNER = "manner"
RAISE, KILL, ONCE = "raise", "kill", "raise once"
MANNERS = (RAISE, KILL, ONCE)
"""Every time; every time; only when it is seen for the first time in a life."""


class Spoilt(RuntimeError):
    """As such events ask for."""


def spoil_steps() -> None:
    """From now on the learning of such an event fails, after the state has changed."""
    from pipeline.epochs.processor import Processor

    learn, forgiven = Processor._learn, set[str]()

    def learned(processor: Processor, intake: Any, *rest: Any) -> Any:
        done = learn(processor, intake, *rest)
        for event in [timed.event for timed in (*intake.events, *intake.late)]:
            manner = event.context.get(MANNER)
            if manner == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            if manner == RAISE or (manner == ONCE and event.event_id not in forgiven):
                forgiven.add(event.event_id)
                raise Spoilt(f"by event {event.event_id}")
        return done

    Processor._learn = learned  # type: ignore[method-assign]


def main() -> None:
    """The command line is Headrace's."""
    spoil_steps()
    from pipeline.runtime.cli import main as headrace

    headrace()


if __name__ == "__main__":
    main()
