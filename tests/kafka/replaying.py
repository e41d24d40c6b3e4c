"""A clean processor that goes the way the manifests went: also through a digest reset, from where that start began."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from committed_log import Place
from expected_outcomes import OutcomeModel
from history_without import History
from lives import Start

from pipeline.epochs.processor import Processor
from pipeline.messages import Output, Poisoned, Record
from pipeline.settings import Settings


class Records(Protocol):
    """What an epoch read."""

    def between(self, place: Place, start: int, stop: int) -> Sequence[Record]:
        """The records with start <= offset < stop."""


@dataclass
class Branch:
    """State and model of outcomes as of a manifest."""

    processor: Processor
    model: OutcomeModel


class Replay:
    """Epoch after epoch from an empty state.

    Where digests were reset, the state is that of a start: its snapshot's, then
    the epochs since as its software computes them, without the records that the
    reset names as missed. `starts` says which snapshot, by the claim's epoch; it
    is not asked otherwise. After a rewind, all is done again without what it leaves out.
    """

    def __init__(
        self,
        manifests: Sequence[dict[str, Any]],
        log: Records,
        settings: Settings,
        starts: Mapping[int, Start],
    ) -> None:
        check_fingerprints(manifests)
        torch.set_deterministic_debug_mode("error")
        self._manifests = manifests
        self._log = log
        self._starts = starts
        self._settings = settings
        self.branch = _branch(self._history())
        resets = [manifest["epoch"] - 1 for manifest in manifests if manifest["kind"] == "digest-reset"]
        self._wanted = {starts[claim].snapshot for claim in resets if claim in starts}
        self._kept: dict[int, Branch] = {}
        self.left_out = 0
        self._keep(0)

    def follow(self, manifest: dict[str, Any]) -> list[Output]:
        """One manifest on; gives what its epoch published. Raises AssertionError where digests or outcomes differ."""
        made: list[Output] = []
        if manifest["kind"] == "digest-reset":
            self._restart(manifest)
        elif manifest["kind"] == "rewind":
            history = self._history()
            history.live_again(self._manifests[: manifest["epoch"]])
            self.branch = _branch(history)
        elif manifest["kind"] == "epoch":
            made = self._apply(self.branch, manifest)
        epoch, digest = manifest["epoch"], self.branch.processor.state_digest
        assert manifest["state_digest"] == digest, (
            f"epoch {epoch} of {len(self._manifests)}: replay gives state {digest[:16]}, "
            f"the manifest says {manifest['state_digest'][:16]}"
        )
        self._keep(epoch)
        return made

    def _restart(self, reset: dict[str, Any]) -> None:
        claim = reset["epoch"] - 1
        start = self._starts.get(claim)
        assert start, f"epoch {reset['epoch']} resets the digests, and nobody says from where the start of {claim} went"
        branch = self._copied(self._kept[start.snapshot])
        _use_threads_of(reset)
        missed = {(part["topic"], part["partition"], part["from"]): part["records"] for part in reset["missed"]}
        for manifest in self._manifests[start.snapshot : claim]:
            if manifest["kind"] == "epoch":
                self._apply(branch, manifest, missed)
            branch.processor.state_digest = manifest["state_digest"]
        self.left_out += len(start.left_out)
        self.branch = branch

    def _apply(
        self, branch: Branch, manifest: dict[str, Any], missed: Mapping[tuple[str, int, int], int] | None = None
    ) -> list[Output]:
        """With `missed`, by range, so many of its first records were gone by then, and digests are others."""
        records: list[Record] = []
        for part in manifest["ranges"]:
            read = self._log.between((part["topic"], part["partition"]), part["from"], part["to"])
            records += read[(missed or {}).get((part["topic"], part["partition"], part["from"]), 0) :]
        if missed is None:
            _use_threads_of(manifest)
        poisoned = [Poisoned(**poison) for poison in manifest["poisoned"]]
        applied = branch.processor.apply(
            manifest["epoch"], records, manifest["clock"], manifest["effort"], poisoned=poisoned
        )
        if missed is None:
            branch.model.check(manifest, records, [o for o in applied.outputs if not o.topic.endswith(".dlq")])
        else:
            branch.model.follow(manifest, records)
        return list(applied.outputs)

    def _copied(self, branch: Branch) -> Branch:
        processor = self._history().processor
        processor.load({name: tensor.clone() for name, tensor in branch.processor.state().items()})
        processor.state_digest = branch.processor.state_digest
        return Branch(processor, copy.deepcopy(branch.model))

    def _history(self) -> History:
        return History(self._settings, torch.device("cpu"), self._log)

    def _keep(self, epoch: int) -> None:
        if epoch in self._wanted:
            self._kept[epoch] = self._copied(self.branch)


def _branch(history: History) -> Branch:
    return Branch(history.processor, history.outcomes)


def check_fingerprints(manifests: Sequence[dict[str, Any]]) -> None:
    """Software, threads and settings change at a digest reset only."""
    ours = None
    for manifest in manifests:
        told = (manifest["fingerprint"], manifest["config_hash"])
        if manifest["kind"] == "digest-reset" or (manifest["kind"] == "epoch" and ours is None):
            ours = told
        elif manifest["kind"] == "epoch":
            assert told == ours, f"epoch {manifest['epoch']} changed its software or settings: {ours}, {told}"


def _use_threads_of(manifest: dict[str, Any]) -> None:
    """The bits depend on it."""
    threads = int(manifest["fingerprint"].rpartition("threads-")[2])
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
