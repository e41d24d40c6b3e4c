"""What is kept of each user: recent history, consumed items, attributes' segment, the list last shown."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning import kernels
from pipeline.learning.arena import Ids, grown
from pipeline.learning.banned import Rows
from pipeline.learning.batch import NO_ITEM, History, Interactions
from pipeline.learning.paging import MemoryColdStore, Paging, Slotted, extra_of, parts_of
from pipeline.learning.paging_kernels import CONSUMED, ENTRIES, HEAD, unpack
from pipeline.learning.rings import Ring, Rings
from pipeline.ports import ColdStore

EPOCH_2000_S = 946_684_800
NEVER = torch.iinfo(torch.int64).max


def to_seconds(time_ms: Tensor) -> Tensor:
    """int32 seconds since 2000-01-01, clamped to what that holds: half the memory of milliseconds."""
    seconds = torch.div(time_ms, 1000, rounding_mode="floor") - EPOCH_2000_S
    return seconds.clamp(-(2**31) + 1, 2**31 - 1).to(torch.int32)


class Users:
    """The user arena: one row per user, on the CPU, 10 bytes per history entry and 8 per consumed item.

    Histories lie in rings, in a slot S for each user in memory; `paging` has those of the others.
    """

    def __init__(self, history: int, shown: int, segments: int, cold: ColdStore | None = None, most: int = 0) -> None:
        """At the end of an epoch `most` users (0: all) keep their history in memory, the others theirs in `cold`."""
        self.ids = Ids()
        self.paging = Paging(self, cold or MemoryColdStore(), most)
        self.histories = Rings(history, words=2, halves=1)
        self.slotted: list[Slotted] = []
        self._slots = 0
        self._free_slots: list[int] = []
        self.slot_U = torch.full((64,), -1, dtype=torch.int32)
        self.place_U = torch.full((64,), -1, dtype=torch.int64)
        self.count_U = torch.zeros(64, dtype=torch.int32)
        self.head_U = torch.full((64,), -1, dtype=torch.int32)
        self.last_time_U = torch.zeros(64, dtype=torch.int64)
        self.segment_UG = torch.full((64, segments), -1, dtype=torch.int32)
        self.shown_UN = torch.full((64, shown), NO_ITEM, dtype=torch.int32)
        self.due_U = torch.full((64,), NEVER, dtype=torch.int64)
        self.published_U = torch.full((64,), -(2**62), dtype=torch.int64)
        self.node_item = torch.zeros(256, dtype=torch.int32)
        self.node_next = torch.zeros(256, dtype=torch.int32)
        self.nodes = torch.tensor([0, -1], dtype=torch.int64)

    _ROWS: ClassVar[dict[str, int]] = {
        "slot_U": -1, "place_U": -1, "count_U": 0, "head_U": -1, "last_time_U": 0,
        "segment_UG": -1, "shown_UN": NO_ITEM, "due_U": NEVER, "published_U": -(2**62),
    }  # fmt: skip
    _TENSORS = (*_ROWS, "node_item", "node_next", "nodes")

    @property
    def in_memory(self) -> int:
        """Users whose history is."""
        return self._slots - len(self._free_slots)

    def row(self, user_id: str) -> int:
        """The user's row, made if there is none."""
        known = self.ids.used
        row = self.ids.row(user_id)
        if row >= self.count_U.shape[0]:
            for name, fill in self._ROWS.items():
                setattr(self, name, grown(getattr(self, name), row + 1, fill))
        if self.ids.used > known:
            self._take_slot(row)
        return row

    def forget(self, user_id: str) -> int:
        """Erase all that is kept of a user; returns the row that is now free, -1 if none was held."""
        row = self.ids.find(user_id)
        if row < 0:
            return -1
        if self.place_U[row] >= 0:
            self.paging.drop(row)
        else:
            self.leave_memory(np.array([row]))
        for name, fill in self._ROWS.items():
            getattr(self, name)[row] = fill
        self.ids.release(user_id)
        return row

    def advance(self, events: Interactions, question_B: Tensor, items: int) -> tuple[History, Tensor, Rows]:
        """Append the events in order, noting what stood before each.

        `question_B` numbers the events that are questions, -1 elsewhere.
        Returns the histories before each event [B, L], whether its item had
        been consumed by its user before [B], and each question's consumed
        items below row `items`.
        """
        size = len(events)
        self.paging.bring_back(events.user_B)
        self._reserve(size)
        self.histories.reserve(self.slot_U.numpy()[events.user_B.numpy()])
        before = _empty_history(size, self.histories.length)
        seen_B = torch.zeros(size, dtype=torch.bool)
        head_Q = np.empty(int(question_B.max().item()) + 1 if size else 0, np.int32)
        kernels.advance(
            *self._rings(),
            *self._chains(),
            events.user_B.numpy(), events.item_B.numpy(), events.code_B.numpy(),
            to_seconds(events.time_B).numpy(), events.consumes_B.numpy(), question_B.numpy(),
            before.item_QL.numpy(), before.code_QL.numpy(), before.time_QL.numpy(), before.count_Q.numpy(),
            seen_B.numpy(), head_Q,
        )  # fmt: skip
        np.maximum.at(self.last_time_U.numpy(), events.user_B.numpy(), events.time_B.numpy())
        return before, seen_B, self._consumed(head_Q, items)

    def consume_late(self, user_B: Tensor, item_B: Tensor) -> None:
        """Note consumption by events too late to be learned from."""
        self.paging.bring_back(user_B)
        self._reserve(len(user_B))
        head, item, following, nodes = self._chains()
        for user, row in zip(user_B.tolist(), item_B.tolist(), strict=True):
            if row >= 0 and not kernels.has_consumed(head, item, following, user, row):
                kernels.consume(head, item, following, nodes, user, row)

    def append_text(self, user: int, text: int, code: int, time_ms: int) -> None:
        """Append the `text`-th text vector to a user's history."""
        self.paging.bring_back(torch.tensor([user]))
        self.histories.reserve(self.slot_U.numpy()[[user]])
        kernels.push(
            *self._rings(),
            user, -2 - text, code, int(to_seconds(torch.tensor(time_ms))),
        )  # fmt: skip

    def windows(self, user_Q: Tensor, items: int) -> tuple[History, Rows]:
        """Histories [Q, L] of users and their consumed items below row `items`, as they are now."""
        return self.histories_of(user_Q), self._consumed(self.head_U.numpy()[user_Q.numpy()], items)

    def histories_of(self, user_Q: Tensor) -> History:
        """Histories [Q, L] of users, as they are now."""
        self.paging.bring_back(user_Q)
        found = _empty_history(len(user_Q), self.histories.length)
        kernels.windows(
            *self._rings(),
            user_Q.numpy(), found.item_QL.numpy(), found.code_QL.numpy(), found.time_QL.numpy(),
        )  # fmt: skip
        found.count_Q.copy_(self.count_U[user_Q])
        return found

    def glimpse(self, user: int, items: int) -> tuple[History, Rows]:
        """As `windows` of one user, but whoever is paged out stays there: nothing changes. Raises ColdDamaged."""
        if self.place_U[user] < 0:
            return self.windows(torch.tensor([user]), items)
        words = self.paging.look(user)
        found = _empty_history(1, self.histories.length)
        entries, consumed = int(words[ENTRIES]), int(words[CONSUMED])
        parts = np.split(words[HEAD : HEAD + 3 * entries], 3)
        for out, fill, part in zip((found.item_QL, found.code_QL, found.time_QL), (NO_ITEM, 0, 0), parts, strict=True):
            out.fill_(fill)
            out[0, :entries] = torch.from_numpy(part.copy())
        found.count_Q[0] = self.count_U[user]
        eaten = words[HEAD + 3 * entries : HEAD + 3 * entries + consumed].astype(np.int32)
        eaten = eaten[eaten < items]
        return found, Rows(np.zeros(1, np.int64), np.array([len(eaten)]), eaten)

    def merge(self, source_id: str, target_id: str) -> tuple[int, int]:
        """Fold one user's history and consumed items into another's, by time; returns (freed row or -1, target row)."""
        source = self.ids.find(source_id)
        target = self.row(target_id)
        if source < 0 or source == target:
            return -1, target
        both = self.histories_of(torch.tensor([source, target]))
        oldest_first = [part.flip(1).flatten() for part in (both.item_QL, both.code_QL, both.time_QL)]
        held = oldest_first[0] != NO_ITEM
        order = torch.argsort(oldest_first[2][held], stable=True)
        entries = [part[held][order].tolist() for part in oldest_first]
        total = int(self.count_U[source] + self.count_U[target])
        self.histories.reserve_far(self.slot_U.numpy()[[target]], np.array([total]))
        arrays = self._rings()
        self.count_U[target] = max(total - len(entries[0]), 0)
        for item, code, second in zip(*entries, strict=True):
            kernels.push(*arrays, target, item, code, second)
        self._reserve(self._chain_length(source))
        head, item_node, following, nodes = self._chains()
        node = int(head[source])
        while node >= 0:
            item = int(item_node[node])
            if not kernels.has_consumed(head, item_node, following, target, item):
                kernels.consume(head, item_node, following, nodes, target, item)
            node = int(following[node])
        self.last_time_U[target] = torch.maximum(self.last_time_U[target], self.last_time_U[source])
        return self.forget(source_id), target

    def take_back(self, row: int, words: NDArray[np.int32]) -> None:
        """Put a user's record (`paging_kernels`) into memory again."""
        self._take_slot(row)
        self._reserve(int(words[CONSUMED]))
        self.histories.reserve_far(self.slot_U.numpy()[[row]], words[ENTRIES : ENTRIES + 1].astype(np.int64))
        unpack(words, row, *self._rings(), *self._chains())
        for kept, part in zip(self.slotted, parts_of(extra_of(words)), strict=True):
            kept.put(int(self.slot_U[row]), part)

    def extra(self, row: int) -> NDArray[np.int32]:
        """What others keep by the user's slot, as words for their record: of each how many, then they."""
        parts = [kept.of(row, int(self.slot_U[row])) for kept in self.slotted]
        counted = [np.concatenate([np.array([len(part)], np.int32), part]) for part in parts]
        return np.concatenate([np.zeros(0, np.int32), *counted])

    def leave_memory(self, rows: NDArray[np.int64]) -> None:
        """Let go of these users' slots and chains."""
        head, _, following, nodes = self._chains()
        for row in rows.tolist():
            kernels.release_chain(head, following, nodes, row)
        slots = self.slot_U[rows]
        for rings in (self.histories, *(kept.rings for kept in self.slotted)):
            rings.give_back(slots.numpy())
        self._free_slots += slots.tolist()
        self.slot_U[rows] = -1

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        tensors = {f"users.{name}": getattr(self, name) for name in self._TENSORS}
        tensors["users.free_slots"] = torch.tensor([self._slots, *self._free_slots], dtype=torch.int64)
        return tensors | self.histories.state("users.histories") | self.ids.state("users.ids") | self.paging.state()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name in self._TENSORS:
            setattr(self, name, tensors[f"users.{name}"].clone())
        self._slots, *self._free_slots = tensors["users.free_slots"].tolist()
        self.histories.load("users.histories", tensors)
        self.ids.load("users.ids", tensors)
        self.paging.load(tensors)

    def _take_slot(self, row: int) -> None:
        if self._free_slots:
            slot = self._free_slots.pop()
        else:
            slot, self._slots = self._slots, self._slots + 1
            for rings in (self.histories, *(kept.rings for kept in self.slotted)):
                rings.grow(self._slots)
        self.slot_U[row] = slot

    def _rings(self) -> tuple[Ring, NDArray[np.int32], NDArray[np.int32]]:
        return self.histories.ring(), self.slot_U.numpy(), self.count_U.numpy()

    def _chains(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.head_U.numpy(), self.node_item.numpy(), self.node_next.numpy(), self.nodes.numpy()

    def _consumed(self, head_Q: NDArray[np.int32], items: int) -> Rows:
        """The rows below `items` in chains that begin at these nodes."""
        node_item, node_next = self.node_item.numpy(), self.node_next.numpy()
        start_Q, stop_Q = np.empty(len(head_Q), np.int64), np.empty(len(head_Q), np.int64)
        row_T = np.empty(kernels.measure_chains(node_item, node_next, head_Q, items, start_Q, stop_Q), np.int32)
        kernels.read_chains(node_item, node_next, head_Q, items, start_Q, row_T)
        return Rows(start_Q, stop_Q, row_T)

    def _chain_length(self, user: int) -> int:
        node, length = int(self.head_U[user]), 0
        while node >= 0:
            node, length = int(self.node_next[node]), length + 1
        return length

    def _reserve(self, more: int) -> None:
        extent = int(self.nodes[0]) + more
        self.node_item = grown(self.node_item, extent)
        self.node_next = grown(self.node_next, extent)


def _empty_history(rows: int, length: int) -> History:
    return History(
        torch.empty(rows, length, dtype=torch.int32),
        torch.empty(rows, length, dtype=torch.int16),
        torch.empty(rows, length, dtype=torch.int32),
        torch.zeros(rows, dtype=torch.int32),
    )
