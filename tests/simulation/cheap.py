"""The learner of the simulation: the numeric step is replaced by exact integer sums, and nothing else is.

What an epoch takes in is sorted out by the real `take_in` and remembered by
the real `Ledger`; in place of gradients every event is folded into a number for
its user and one for all, which depend on every event, its order and the epoch's
effort. So a lost, doubled or misplaced event shows in every list after it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from consumers.decoding import JsonDecoder
from pipeline.epochs.digest import START, StateDigest
from pipeline.epochs.intake import Ledger, take_in
from pipeline.epochs.processor import Applied
from pipeline.epochs.rewinding import Named
from pipeline.messages import FULL_EFFORT, Counts, Output, Poisoned, Record, Tombstone
from pipeline.settings import Settings
from producers.dead_letters import dead_letter_output

PRIME = (1 << 61) - 1
FACTOR = 1_000_003
LATER_MS = 4_000


def folded(so_far: int, *values: int) -> int:
    """A number that depends on all values and their order."""
    for value in values:
        so_far = (so_far * FACTOR + value + 1) % PRIME
    return so_far


def number(name: str) -> int:
    """The number in a name: 7 of "u7"."""
    return int(name[1:])


class CheapProcessor:
    """Stands where a `Processor` stands. `users` holds [events, number] of each, `due` when a list is."""

    def __init__(self, settings: Settings, peril: Callable[[Record, str], None]) -> None:
        """`peril` is told of each event, by its type, in the middle of the step: it may raise."""
        self.settings = settings
        self._peril = peril
        self.ledger = Ledger(settings)
        self.state_digest = START
        self.total = 0
        self.users: dict[int, tuple[int, int]] = {}
        self.due: dict[int, int] = {}
        self.orphans: list[int] = []
        self.decode = JsonDecoder({settings.topic(kind): kind for kind in ("events", "items", "users")})

    def apply(
        self,
        epoch: int,
        records: Sequence[Record],
        clock: int,
        effort: int = FULL_EFFORT,
        *,
        poisoned: Sequence[Poisoned] = (),
    ) -> Applied:
        """As `Processor.apply`."""
        intake = take_in(records, self.decode, self.ledger, self.settings.topic("events"), poisoned)
        outputs: list[Output] = []
        for item in intake.items:
            self.total = folded(self.total, number(item.key if isinstance(item, Tombstone) else item.item_id))
        for _, user in intake.users:
            if isinstance(user, Tombstone):
                self.users.pop(number(user.key), None)
                self.due.pop(number(user.key), None)
                outputs.append(self._list(user.key, None))
        outputs += [self._list(f"u{row}", None) for row in self.orphans]
        self.orphans = []
        for late in intake.late:
            self._count(number(late.event.actor), 0)
        touched: set[int] = set()
        for happened in intake.events:
            event = happened.event
            row = number(event.actor)
            self._peril(happened.record, event.event_type)
            self._count(row, folded(effort, number(event.item_id or "i0"), happened.time))
            touched.add(row)
            if event.event_type == "later":
                self.due[row] = clock + LATER_MS
        self.ledger.advance(intake.events)
        touched |= {row for row, when in self.due.items() if when <= clock}
        self.due = {row: when for row, when in self.due.items() if when > clock}
        for row in sorted(touched & self.users.keys()):
            count, own = self.users[row]
            said = {"epoch": epoch, "count": count, "own": own, "total": self.total}
            outputs.append(self._list(f"u{row}", json.dumps(said).encode()))
        digest = StateDigest(self.state_digest)
        digest.loss(float(self.total & 0xFFFFFFFFFFFF))
        for output in outputs:
            digest.published(output.key or b"", output.value)
        self.state_digest = digest.hex()
        lists = sum(output.value is not None for output in outputs)
        counts = Counts(**intake.counts, trained=len(intake.events), lists=lists)
        assert counts.conserved
        dead = [dead_letter_output(letter) for letter in intake.dead]
        return Applied([*outputs, *dead], counts, self.ledger.watermark, self.state_digest, [], intake.dead)

    def pending(self) -> int | None:
        """As `Processor.pending`."""
        if self.orphans:
            return 0
        return min(self.due.values(), default=None)

    def paged_out(self) -> dict[str, object]:
        """As `Processor.paged_out`: nothing is paged out."""
        return {}

    def owe(self, concerned: Named, clock: int) -> None:
        """As `Processor.owe`."""
        for row in sorted(map(number, concerned.users)):
            if row in self.users:
                self.due[row] = min(clock, self.due.get(row, clock))
            else:
                self.orphans.append(row)

    def state(self) -> dict[str, Tensor]:
        """As `Processor.state`."""
        users = [[row, *held] for row, held in sorted(self.users.items())]
        return self.ledger.state() | {
            "total": torch.tensor(self.total),
            "users": torch.tensor(users, dtype=torch.int64).reshape(-1, 3),
            "orphans": torch.tensor(self.orphans, dtype=torch.int64),
            "due": torch.tensor(sorted(self.due.items()), dtype=torch.int64).reshape(-1, 2),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """As `Processor.load`."""
        self.ledger.load(tensors)
        self.total = int(tensors["total"])
        self.users = {row: (count, own) for row, count, own in tensors["users"].tolist()}
        self.due = dict(tensors["due"].tolist())
        self.orphans = tensors["orphans"].tolist()

    def _count(self, row: int, value: int) -> None:
        count, own = self.users.get(row, (0, 0))
        self.users[row] = (count + 1, folded(own, value))
        self.total = folded(self.total, row, value)

    def _list(self, user: str, value: bytes | None) -> Output:
        topic = self.settings.topic("recommendations")
        return Output(topic, f"home:{user}".encode(), value, partition_key=user.encode())
