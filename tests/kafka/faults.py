"""What every case of `make chaos` has: a world, a broker, chance, how often to strike, and a count of what struck."""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from crashing import World
from oracle import Report
from service import HEADRACE, Service
from traffic import Traffic

from pipeline.runtime.broker import Broker

PER_SECOND = 30
TIMEOUT_S = 3
"""Of transactions; the broker looks for those past it every second, Kafka's default is every 10 s."""


LEAN: dict[str, Any] = {"effort": "lean"}
"""For faults that have nothing to do with what is learned: the processors are the broker's."""
STOP_S = 60.0
"""Beside the broker, the traffic and other cases an interpreter can take its time to end."""


class Trial:
    """One case while it runs. A context manager that leaves no life of its world behind."""

    def __init__(
        self, name: str, folder: Path, times: int, broker: Callable[[], Broker], seed: int, epochs: int = 50_000
    ) -> None:
        """`times` is how often each fault strikes; `epochs` how many tiny ones are asked for."""
        self.name = name
        self.times = times
        self.epochs = epochs
        self.chance = random.Random(f"{seed} {name}")
        self.struck: Counter[str] = Counter()
        self.notes: list[str] = []
        self._folder = folder
        self._broker = broker
        self._began = time.monotonic()
        self._world: World | None = None
        self._lives = ExitStack()

    @property
    def broker(self) -> Broker:
        """The one that cases share."""
        return self._broker()

    @property
    def world(self) -> World:
        """The one that was founded."""
        assert self._world is not None
        return self._world

    def found(self, bootstrap: str = "", through: str = "", **changed: dict[str, Any]) -> World:
        """A namespace of its own, on the shared broker unless another is named; `changed` settings by section."""
        namespace = f"chaos-{self.name}-{uuid.uuid4().hex[:8]}"
        kafka = {"transaction_timeout_s": TIMEOUT_S} | changed.pop("kafka", {})
        address, folder = bootstrap or self.broker.bootstrap, self._folder / self.name
        self._world = World.make(address, namespace, folder, through=through, kafka=kafka, **changed)
        self._world.stop_s = STOP_S
        return self._world

    def live(
        self, *arguments: str, program: Sequence[str] = HEADRACE, variables: Mapping[str, str] | None = None
    ) -> Service:
        """A new life, which ends with the trial if nothing ends it before."""
        return self._lives.enter_context(self.world.run(*arguments, program=program, variables=variables))

    def __enter__(self) -> Trial:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays behind."""
        self._lives.close()

    def busy(self) -> Traffic:
        """Events for longer than any case takes."""
        return self.world.traffic(1_000_000, PER_SECOND, self.chance.randrange(2**31))

    def strike(self, fault: str) -> None:
        """Count one."""
        self.struck[fault] += 1

    def pause(self, shortest_s: float, longest_s: float) -> None:
        """Some time, by chance."""
        time.sleep(self.chance.uniform(shortest_s, longest_s))

    def line(self, report: Report) -> str:
        """What a person is told of a case that went well."""
        struck = ", ".join(f"{count} {fault}" for fault, count in sorted(self.struck.items()))
        told = {
            "events": report.events, "epochs": report.epochs, "starts": report.claims,
            "epochs replayed": self.world.replayed(), "lists": report.lists, "dead letters": report.dead_letters,
            "digest resets": report.resets, "events lost": report.lost, "epochs left out": report.left_out,
        }  # fmt: skip
        counts = ", ".join(f"{count} {what}" for what, count in told.items() if count)
        notes = "".join(f"; {note}" for note in self.notes)
        return f"{self.name}: equal; {struck}; {counts}{notes}; {time.monotonic() - self._began:.0f} s"


def learns_on(service: Service, timeout_s: float = 120) -> None:
    """Wait until it has committed another epoch; raises AssertionError where it does not, or has ended."""
    _rises(service, "headrace_epoch", 1, timeout_s)


def reads_on(service: Service, events: int = 20) -> None:
    """Wait until it has learned from so many more events, in epochs that are committed."""
    _rises(service, "headrace_events_consumed_total", events, 120)


def _rises(service: Service, name: str, by: float, timeout_s: float) -> None:
    before, deadline = service.metrics().get(name, 0.0), time.monotonic() + timeout_s
    while service.metrics().get(name, 0.0) < before + by:
        assert service.process.poll() is None, f"it ended with {service.process.returncode}:\n{service.said}"
        said = f"{name} was {before:.0f} and is not {by:.0f} more after {timeout_s} s"
        assert time.monotonic() < deadline, f"{said}:\n{service.stacks()}"
        time.sleep(0.1)
