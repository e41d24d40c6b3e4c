"""The protocol broken on purpose, one way at a time: a simulation that misses one of these proves nothing.

A mutant is the project's own code with a few words changed; where the words
are no longer there, it says so.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from consumers import aligned, kafka_client
from pipeline.epochs import base, digest, intake, poison, recovery, replay, rewinding, snapshot, tail
from pipeline.ports import CommitUnknown
from pipeline.runtime import runner
from producers import kafka as kafka_sink


@dataclass(frozen=True)
class Mutant:
    """`home`'s function `name`, in which each `old` becomes `new`; or what `wrapped` makes of it.

    `seed` is the first to try: it found the mutant when that was written.
    """

    why: str
    home: Any
    name: str
    changes: tuple[tuple[str, str], ...] = ()
    wrapped: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
    seed: int = 0

    @contextmanager
    def alive(self) -> Iterator[None]:
        """While this holds, the code is the mutant's."""
        before = inspect.getattr_static(self.home, self.name)
        after = self.wrapped(before) if self.wrapped else self._changed(before)
        with ExitStack() as stack:
            for owner in (self.home, *_importers(before, self.name)):
                stack.enter_context(mock.patch.object(owner, self.name, after))
            yield

    def _changed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        source = textwrap.dedent(inspect.getsource(function))
        for old, new in self.changes:
            assert source.count(old) == 1, f"{self.home.__name__}.{self.name} no longer reads {old!r} once"
            source = source.replace(old, new)
        made: dict[str, Any] = {}
        code = compile(f"from __future__ import annotations\n{source}", f"<mutant of {self.name}>", "exec")
        exec(code, function.__globals__, made)
        return made[self.name]  # type: ignore[no-any-return]


def _importers(function: Any, name: str) -> list[Any]:
    """Modules that have imported a function by name."""
    return [module for module in list(sys.modules.values()) if getattr(module, "__dict__", {}).get(name) is function]


def _reused(commit: Callable[..., int]) -> Callable[..., int]:
    def commits(self: Any, *arguments: Any) -> int:
        try:
            return commit(self, *arguments)
        except CommitUnknown:
            self._producer.abort_transaction()
            return commit(self, *arguments)

    return commits


def _kept(commit: Callable[..., int]) -> Callable[..., int]:
    def commits(self: Any, *arguments: Any) -> int:
        try:
            return commit(self, *arguments)
        except CommitUnknown:
            self._producer.init_transactions()
            self._producer._open = False
            return -1

    return commits


MUTANTS = {
    "snapshot-before-commit": Mutant(
        "the state is saved before it is known to be committed", runner.Runner, "_epoch",
        (
            (
                "    self._commits.begin(",
                "    self._writer.write(self.processor, before.after(manifest, before.offset + 2))\n"
                "    self._commits.begin(",
            ),
        ),
    ),
    "next-before-known": Mutant(
        "an epoch is committed though nobody knows what became of the one before it", runner.Runner, "_epoch",
        (("    self._settle(stepped_upon=True)\n    self._commits.begin(", "    self._commits.begin("),),
    ),
    "stands-before-known": Mutant(
        "an epoch stands as soon as its commit is begun", runner.Runner, "_epoch",
        (
            (
                "    self._commits.begin(sink, learned, manifest, after)\n",
                "    self._commits.begin(sink, learned, manifest, after)\n    self.standing = learned.standing\n",
            ),
        ),
    ),
    "snapshot-of-the-next": Mutant(
        "a snapshot is copied though the next step was taken meanwhile", runner.Runner, "_settle",
        (("    if stepped_upon:\n", "    if False:\n"),),
    ),
    "offsets-outside": Mutant(
        "consumed positions are committed after the transaction, not in it", kafka_sink.KafkaSink, "commit",
        (
            ("        self._within_limit(lambda: self._send_positions(producer, positions))\n", ""),
            (
                "        self._within_limit(producer.commit_transaction)\n",
                "        self._within_limit(producer.commit_transaction)\n"
                "        producer.commit_outside(positions, self._group)\n",
            ),
        ),
        seed=423,
    ),
    "futures-unchecked": Mutant(
        "nobody asks whether each record was written", kafka_sink.KafkaSink, "commit",
        (("future.get(timeout=0).offset", "future.offset"),),
    ),
    "manifests-before-fencing": Mutant(
        "the log is read before the predecessor is fenced", recovery, "recover",
        (
            (
                "    sink.start()\n    base = base_of(sink, snapshots, fresh, rewind)\n",
                "    base = base_of(sink, snapshots, fresh, rewind)\n    sink.start()\n",
            ),
        ),
    ),
    "no-claim": Mutant(
        "a start leaves no claim", recovery, "recover",
        (
            ("    standing = _mark(CLAIM, sink, standing,", "    _ = (standing,"),
            ("clock, begins=begins)", "clock, begins)"),
        ),
    ),
    "folder-not-synced": Mutant(
        "a snapshot's name is not flushed", snapshot.FileSnapshotStore, "save", (("disk.sync_names()", "pass"),)
    ),
    "file-not-synced": Mutant(
        "a snapshot's bytes are not flushed before it gets its name", snapshot.FileSnapshotStore, "save",
        (("disk.sync(partial)", "pass"),),
    ),
    "pruned-too-early": Mutant(
        "old snapshots go before the new one is there", snapshot.FileSnapshotStore, "save",
        (("    try:\n", "    for old in self.epochs():\n        disk.remove(name_of(old))\n    try:\n"),),
    ),
    "checksum-ignored": Mutant(
        "a snapshot is believed without its checksum", snapshot, "verified",
        ((" or hashlib.sha256(memoryview(raw)[:-_SUM]).digest() != raw[-_SUM:]", ""),),
        seed=65,
    ),
    "digest-not-chained": Mutant(
        "an input digest says nothing of what came before", digest, "chained_input",
        (("bytes.fromhex(previous) + encode(ranges)", "encode(ranges)"),),
    ),
    "dedupe-before-ordering": Mutant(
        "which of two equal ids counts depends on where they lie, not on their times", intake, "take_in",
        (
            ("    timed.sort(key=lambda t: (t.time, t.record.partition, t.record.offset))\n", ""),
            (
                "    return intake\n",
                "    intake.events.sort(key=lambda t: (t.time, t.record.partition, t.record.offset))\n"
                "    return intake\n",
            ),
        ),
    ),
    "arrival-order": Mutant(
        "records are taken as they arrived, which no manifest records", intake, "take_in",
        (("sorted(records, key=lambda r: (r.topic, r.partition, r.offset))", "records"),),
        seed=48,
    ),
    "dedupe-forgotten": Mutant(
        "ids seen are not in the snapshot", intake.Ledger, "load",
        (
            (
                'self._seen.load({name: tensors[f"ledger.seen.{name}"] for name in Seen.STATE})',
                "self._seen = Seen(self._window)",
            ),
        ),
    ),
    "erasures-forgotten": Mutant(
        "erasures are not in the snapshot", intake.Ledger, "load",
        (('self._erased = KeyMap(*tensors["ledger.erased"].numpy().copy())', "self._erased = KeyMap()"),),
    ),
    "erased-for-ever": Mutant(
        "an erasure has no cutoff: whoever comes again is ignored", intake.Ledger, "is_erased",
        (
            (
                "appended <= self._erased.get(self.hash(user_id), NO_WATERMARK)",
                "self._erased.get(self.hash(user_id), -1) >= 0",
            ),
        ),
    ),
    "producer-reused": Mutant(
        "after a doubtful commit the same producer aborts and tries again", kafka_sink.KafkaSink, "commit",
        wrapped=_reused,
    ),
    "state-kept": Mutant(
        "after a doubtful commit the state is kept as if it had been a good one", kafka_sink.KafkaSink, "commit",
        wrapped=_kept,
    ),
    "reset-to-latest": Mutant(
        "where the log was cut, reading goes on at its end", kafka_client, "new_consumer",
        (('"auto_offset_reset": "none"', '"auto_offset_reset": "latest"'),),
        seed=72,
    ),
    "read-uncommitted": Mutant(
        "aborted records are read", kafka_client, "new_consumer",
        (('"isolation_level": "read_committed"', '"isolation_level": "read_uncommitted"'),),
    ),
    "replayed-by-another-clock": Mutant(
        "a replay goes by its own clock", replay, "_again",
        (("records, manifest.clock, manifest.effort,", "records, manifest.clock + 1500, manifest.effort,"),),
    ),
    "replayed-at-another-effort": Mutant(
        "a replay goes at full effort", replay, "_again",
        (("manifest.clock, manifest.effort, poisoned", "manifest.clock, poisoned"),),
    ),
    "positions-ahead": Mutant(
        "positions pass records that are held back", aligned.AlignedSource, "positions",
        (("{tp: held[tp][0].offset if tp in held else at for tp, at in ahead.items()}", "ahead"),),
    ),
    "never-overtaken": Mutant(
        "who is fenced never asks who did it", recovery, "overtaken",
        (("    for manifest in", "    return None\n    for manifest in"),),
    ),
    "always-overtaken": Mutant(
        "who is fenced ends for good, though it was the broker's time-out", recovery, "overtaken",
        (("    for manifest in", '    return "somebody"\n    for manifest in'),),
    ),
    "gap-not-refused": Mutant(
        "unread records that are gone are passed over", recovery, "_refuse_gaps",
        (("    if lost:\n", "    if False:\n"),),
    ),
    "reset-ignored": Mutant(
        "a replay from before a gap is held to be the same as the state after it", recovery, "_exact",
        (("m.kind == DIGEST_RESET or ", ""),),
        seed=8851,
    ),
    "poison-unnamed": Mutant(
        "the manifest does not say which records were set apart", runner.Runner, "_manifest",
        (("poisoned=poisoned,", ""),),
        seed=30,
    ),
    "step-on-ruins": Mutant(
        "a step that failed is tried again on what it left of the state", runner.Runner, "_step",
        (("self._trials.failed(error)",
          "self._trials.failed(error)\n        return self._step(epoch, records, now, effort, poisoned)"),),
        seed=30,
    ),
    "deaths-uncounted": Mutant(
        "an attempt that took the process along is not counted", poison.Trials, "__init__",
        (("if self._trial.underway:", "if False:"),),
        seed=30,
    ),
    "deaths-miscounted": Mutant(
        "a process that ends in a commit counts as ended by the step", poison.Trials, "survived",
        (("self._trial.underway = False", "pass"),),
        seed=185,
    ),
    "failures-carried": Mutant(
        "attempts at one record count against the next", poison.Trials, "_conclude",
        (("if one.spot == trial.record", "if True"),),
        seed=38,
    ),
    "partitions-unnoticed": Mutant(
        "a new partition is not looked for", runner.Runner, "_go_on",
        (("if set(source.partitions()) != self._begun.keys():", "if False:"),),
        seed=138,
    ),
    "taken-back-state-used": Mutant(
        "a snapshot from within what a rewind took back is begun with", base, "base_of",
        (("        if by := Undone(tail).by(epoch):\n", "        if by := None:\n"),),
        seed=168,
    ),
    "owed-forgotten": Mutant(
        "a replay does not know to whom a rewind owes lists", replay, "replay",
        (
            ("        if manifest.rewind is not None:\n", "        if new and done == len(manifests):\n"),
        ),
    ),
    "earlier-rewinds-forgotten": Mutant(
        "what an earlier rewind left out comes back with the next", rewinding, "_filters",
        (("(*filters, *rewind.without)", "rewind.without"),),
        seed=38,
    ),
    "rewind-reads-again": Mutant(
        "a rewind goes by what another learner has committed since it began", tail.Tail, "and_then",
        (("longer = copy(self)", "longer = Tail(self._read)"),),
        seed=1_002_900,
    ),
    "replayed-with-what-is-left-out": Mutant(
        "a replay learns what a rewind left out", rewinding, "left_out", (("    return any(", "    return not any("),)
    ),
}  # fmt: skip
