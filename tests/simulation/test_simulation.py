"""A hundred thousand simulated crashes; and the protocol broken in every way, each of which must be found."""

from __future__ import annotations

import os
import random
import sys
from collections import Counter

import pytest
from mutants import MUTANTS
from plan import drawn
from simulate import caught, lived, lives, shrunk
from torn_disk import TornDisk

CRASHES = int(os.environ.get("HEADRACE_TEST_CRASHES", "100000"))
POINTS = {
    "connect", "init", "metadata", "fetch", "produce", "offsets", "commit", "committed",
    "write", "sync", "rename", "sync-names", "remove", "read", "note", "step", "apply",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _on_one_thread(one_thread: None) -> None:
    """See `one_thread`."""


@pytest.mark.timeout(1200)
def test_no_crash_loses_or_doubles_an_event() -> None:
    report, wrong, plans = lives(CRASHES, 0, 2)
    assert not wrong, f"replay with: python tests/simulation/simulate.py --replay {wrong[0][0]} --shrink\n{wrong}"
    assert report.crashes >= CRASHES
    assert report.lives > report.crashes
    assert report.crash_points.keys() == POINTS
    assert min(report.outcomes.values()) > plans / 10, report.outcomes
    assert min(report.strikes.values()) > plans / 100, report.strikes
    assert report.fenced > 0
    assert report.refused > 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_every_mutant_is_found(name: str) -> None:
    assert caught(name) is not None, f"{name}: {MUTANTS[name].why}, and nothing is found"


def test_a_seed_is_one_story() -> None:
    def story(seed: int) -> tuple[int, int, Counter[str]]:
        report, problem = lived(drawn(seed))
        assert not problem
        return report.effects, report.epochs, report.crash_points

    assert [story(seed) for seed in range(20)] == [story(seed) for seed in range(20)]
    assert drawn(7) == drawn(7) != drawn(8)


def test_a_failure_shrinks_to_what_it_takes() -> None:
    seed, _ = caught("futures-unchecked") or (0, "")
    with MUTANTS["futures-unchecked"].alive():
        plan, problem = shrunk(drawn(seed))
        assert problem
        assert len(plan.actions) <= 6, plan.actions
        assert {"lose", "bump"} & {action.what for action in plan.actions}
        assert not lived(plan.without(range(len(plan.actions))))[1]


def test_a_mutant_that_no_longer_fits_the_code_says_so() -> None:
    first = MUTANTS["no-claim"]
    changed = type(first)(first.why, first.home, first.name, (("no such words", ""),))
    with pytest.raises(AssertionError, match="no longer reads"), changed.alive():
        pass


def test_a_mutant_leaves_nothing_behind() -> None:
    before = sys.modules["pipeline.epochs.digest"].chained_input
    with MUTANTS["digest-not-chained"].alive():
        assert sys.modules["pipeline.runtime.runner"].chained_input is not before
    assert sys.modules["pipeline.runtime.runner"].chained_input is before


class TestDisk:
    """The disk of the simulation is as bad as it should be, and no worse."""

    @staticmethod
    def after(steps: list[tuple[str, ...]], salt: int) -> dict[str, bytes]:
        disk = TornDisk(lambda kind: None, "disk")
        for step, *names in steps:
            if step == "write":
                disk.write(names[0], [names[1].encode()])
            else:
                getattr(disk, step)(*names)
        disk.crash(random.Random(salt))
        return {name: disk.read(name) for name in disk.names()}

    def test_what_was_synced_is_there(self) -> None:
        steps = [("write", "a", "bytes"), ("sync", "a"), ("rename", "a", "b"), ("sync_names",)]
        assert all(self.after(steps, salt) == {"b": b"bytes"} for salt in range(50))

    def test_of_the_rest_any_part(self) -> None:
        unsynced = {str(self.after([("write", "a", "bytes"), ("sync_names",)], salt)) for salt in range(200)}
        assert {"{'a': b''}", "{'a': b'bytes'}", "{'a': b'by\\x00\\x00\\x00'}", "{'a': b'byt'}"} <= unsynced
        unnamed = {tuple(self.after([("write", "a", "x"), ("sync", "a")], salt)) for salt in range(50)}
        assert unnamed == {(), ("a",)}

    def test_a_full_disk_leaves_half_a_file(self) -> None:
        disk = TornDisk(lambda kind: "full" if kind == "write" else None, "disk")
        with pytest.raises(OSError, match="No space"):
            disk.write("a", [b"12", b"34"])
        assert disk.read("a") == b"12"
