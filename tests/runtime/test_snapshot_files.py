"""`headrace snapshot`: what an operator is told of snapshots, and how they go back to one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from shard import of_a_later_version
from typer.testing import CliRunner

from pipeline.epochs.disk import FolderInUse
from pipeline.epochs.ladder import DAY_MS, HOUR_MS, Ladder
from pipeline.epochs.snapshot import FORMAT, FileSnapshotStore, name_of
from pipeline.ports import SnapshotDamaged, SnapshotTooNew
from pipeline.runtime.cli import app
from pipeline.runtime.snapshot_files import found_in, restore

NOON = 1_700_000_000_000 // DAY_MS * DAY_MS + DAY_MS // 2


def saved(folder: Path, *epochs: int, ladder: Ladder | int = 9, every: int = HOUR_MS) -> FileSnapshotStore:
    """A store with snapshots of these epochs, saved so far apart."""
    store = FileSnapshotStore(folder, ladder)
    for n, epoch in enumerate(epochs):
        store.save(epoch, {"saved_at": NOON + n * every}, {"n": torch.tensor([epoch])})
    return store


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of the command."""
    given = ["snapshot", *arguments, "--snapshots", str(folder), "--namespace", "shop"]
    done = CliRunner().invoke(app, given)
    return done.exit_code, done.output + (done.stderr if done.stderr_bytes else "")


class TestLadder:
    def test_the_newest_and_the_last_of_each_hour_and_day(self, tmp_path: Path) -> None:
        ladder = Ladder(newest=2, hourly=3, daily=2)
        store = saved(tmp_path, *range(200), ladder=ladder, every=HOUR_MS // 3)
        times = {epoch: (NOON + epoch * HOUR_MS // 3) for epoch in range(200)}
        hours = {times[epoch] // HOUR_MS: epoch for epoch in range(200)}
        days = {times[epoch] // DAY_MS: epoch for epoch in range(200)}
        expected = {198, 199, *sorted(hours.values())[-3:], *sorted(days.values())[-2:]}
        assert set(store.epochs()) == expected
        store.close()

    def test_a_restart_knows_the_times_again(self, tmp_path: Path) -> None:
        saved(tmp_path, 1, 2, 3, 4, ladder=Ladder(1, 9)).close()
        store = FileSnapshotStore(tmp_path, Ladder(1, 2))
        store.save(9, {"saved_at": NOON + 9 * HOUR_MS}, {})
        assert store.epochs() == [4, 9]
        store.close()

    def test_what_does_not_tell_its_time_is_kept_only_among_the_newest(self, tmp_path: Path) -> None:
        store = FileSnapshotStore(tmp_path, Ladder(1, 5, 5))
        for epoch in (1, 2, 3):
            store.save(epoch, {}, {})
        assert store.epochs() == [3]
        (tmp_path / name_of(2)).write_bytes(b"?")
        store.save(4, {}, {})
        assert store.epochs() == [4]
        store.close()

    def test_a_clock_set_back_loses_no_newest(self) -> None:
        assert {8, 9} <= Ladder(2, 1, 1).kept({epoch: NOON - epoch * DAY_MS for epoch in range(10)})


class TestCommand:
    def test_lists_and_verifies(self, tmp_path: Path) -> None:
        saved(tmp_path / "shop.0", 3, 7)
        code, out = run(tmp_path, "list")
        assert code == 0
        assert [line.split()[0] for line in out.splitlines()] == ["epoch", "3", "7"]
        assert "2023-11-14 12:00:00" in out
        assert run(tmp_path, "verify")[0] == 0
        found = json.loads(run(tmp_path, "verify", "--json")[1])
        assert [(one["epoch"], one["problem"]) for one in found] == [(3, None), (7, None)]

    def test_names_the_damaged_one_and_exits_1(self, tmp_path: Path) -> None:
        folder = tmp_path / "shop.0"
        saved(folder, 3, 7).close()
        path = folder / name_of(7)
        path.write_bytes(path.read_bytes()[:-1])
        code, out = run(tmp_path, "verify")
        assert code == 1
        assert "its checksum does not match" in out
        assert run(tmp_path, "verify", "3")[0] == 0
        code, out = run(tmp_path, "verify", "5")
        assert (code, "no snapshot of epoch 5" in out) == (1, True)

    def test_says_where_it_looked(self, tmp_path: Path) -> None:
        code, out = run(tmp_path / "nowhere", "list")
        assert code == 1
        assert "there is no such folder" in out

    def test_restore_sets_newer_ones_aside(self, tmp_path: Path) -> None:
        folder = tmp_path / "shop.0"
        saved(folder, 3, 7, 9).close()
        code, out = run(tmp_path, "restore", "3")
        assert code == 0, out
        store = FileSnapshotStore(folder)
        assert store.epochs() == [3]
        assert sorted(path.suffix for path in folder.iterdir()) == [".aside", ".aside", ".snapshot"]
        store.close()

    def test_restore_refuses_what_could_not_be_loaded(self, tmp_path: Path) -> None:
        saved(tmp_path, 3, 7).close()
        (tmp_path / name_of(3)).write_bytes(b"rubbish" * 100)
        with pytest.raises(SnapshotDamaged):
            restore(tmp_path, 3)
        assert [one.epoch for one in found_in(tmp_path)] == [3, 7]

    def test_restore_refuses_while_a_learner_runs(self, tmp_path: Path) -> None:
        store = saved(tmp_path, 3, 7)
        with pytest.raises(FolderInUse):
            restore(tmp_path, 3)
        store.close()


def test_a_later_format_is_refused_by_name(tmp_path: Path) -> None:
    store = saved(tmp_path, 3)
    of_a_later_version(tmp_path / name_of(3))
    with pytest.raises(SnapshotTooNew, match=f"later version of Headrace .format {FORMAT + 1}, here {FORMAT}"):
        store.load(3)
    assert "later version" in (found_in(tmp_path)[0].verified().problem or "")
    store.close()
