"""What every SnapshotStore must do; and what the one on disk must never do: load what it did not write."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline.epochs.disk import FolderInUse
from pipeline.epochs.snapshot import FileSnapshotStore, MemorySnapshotStore
from pipeline.epochs.tensors import packed, unpacked
from pipeline.ports import SnapshotDamaged, SnapshotStore
from pipeline.runtime.snapshots import Early

HEADER = {"epoch": 7, "positions": [["shop.events.v1", 0, 2**40]], "digest": "ab" * 32, "name": "Zürich 蓝色"}
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip


def tensors() -> dict[str, torch.Tensor]:
    """Every dtype, no rows, no axes, a view that is not contiguous, names for the same memory, odd bits."""
    many = {f"dtype.{dtype}": torch.arange(-3, 4).to(dtype).view(7, 1) for dtype in DTYPES}
    whole = torch.arange(12, dtype=torch.float32).view(3, 4)
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    shapes = {"empty": torch.zeros(0, 5), "nothing": torch.zeros(0, dtype=torch.uint8), "scalar": torch.tensor(2**62)}
    return many | shapes | {"view": whole.T, "whole": whole, "row": whole[1], "odd": odd}


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """All there is to a tensor."""
    return tensor.dtype, tensor.shape, tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture(params=["file", "memory", "early"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SnapshotStore]:
    """An empty store that keeps at least two."""
    if request.param == "memory":
        yield MemorySnapshotStore()
    else:
        on_disk = FileSnapshotStore(tmp_path / "snapshots")
        yield on_disk if request.param == "file" else Early(on_disk)
        on_disk.close()


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[Callable[..., FileSnapshotStore]]:
    """Makes stores over one folder, closed in the end."""
    opened: list[FileSnapshotStore] = []

    def make(kept: int = 2) -> FileSnapshotStore:
        opened.append(FileSnapshotStore(tmp_path, kept))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


class TestEveryStore:
    def test_gives_back_header_and_tensors_bit_for_bit(self, store: SnapshotStore) -> None:
        store.save(7, HEADER, tensors())
        snapshot = store.load(7)
        assert dict(snapshot.header) == HEADER
        assert {name: bits(tensor) for name, tensor in snapshot.tensors.items()} == {
            name: bits(tensor) for name, tensor in tensors().items()
        }

    def test_is_not_changed_by_what_happens_to_the_tensors_later(self, store: SnapshotStore) -> None:
        mine, header = torch.ones(3), {"epoch": 1}
        store.save(1, header, {"mine": mine})
        mine.zero_()
        header["epoch"] = 2
        loaded = store.load(1)
        loaded.tensors["mine"].fill_(5)
        assert store.load(1).tensors["mine"].tolist() == [1, 1, 1]
        assert store.load(1).header["epoch"] == 1

    def test_names_the_newest_epochs_in_order(self, store: SnapshotStore) -> None:
        assert store.epochs() == []
        for epoch in (9, 100, 1000):
            store.save(epoch, {}, {"n": torch.tensor(epoch)})
        assert store.epochs()[-2:] == [100, 1000]
        assert [int(store.load(epoch).tensors["n"]) for epoch in store.epochs()[-2:]] == [100, 1000]

    def test_replaces_an_epoch_saved_twice(self, store: SnapshotStore) -> None:
        store.save(3, {"take": 1}, {"n": torch.tensor(1)})
        store.save(3, {"take": 2}, {"n": torch.tensor(2)})
        assert store.epochs() == [3]
        assert store.load(3).header == {"take": 2}

    def test_an_epoch_that_is_not_there_is_damaged(self, store: SnapshotStore) -> None:
        with pytest.raises(SnapshotDamaged, match="4"):
            store.load(4)


class TestOnDisk:
    @pytest.mark.parametrize("kept", [1, 2, 5])
    def test_keeps_the_newest_few(self, on_disk: Callable[..., FileSnapshotStore], tmp_path: Path, kept: int) -> None:
        store = on_disk(kept)
        for epoch in range(1, 9):
            store.save(epoch, {"epoch": epoch}, {})
        assert store.epochs() == list(range(9 - kept, 9))
        assert len(list(tmp_path.iterdir())) == kept

    def test_is_there_for_the_next_process_and_for_no_one_else(
        self, on_disk: Callable[..., FileSnapshotStore], tmp_path: Path
    ) -> None:
        on_disk().save(3, HEADER, tensors())
        script = (
            "import sys; from pathlib import Path; from pipeline.epochs.snapshot import FileSnapshotStore as S;"
            "print(S(Path(sys.argv[1])).load(3).header['name'])"
        )
        ran = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, check=False)
        assert b"FolderInUse" in ran.stderr
        with pytest.raises(FolderInUse, match=tmp_path.name):
            FileSnapshotStore(tmp_path)

    def test_a_closed_store_lets_the_next_one_in(self, on_disk: Callable[..., FileSnapshotStore]) -> None:
        first = on_disk()
        first.save(3, HEADER, tensors())
        first.close()
        first.close()
        assert on_disk().load(3).header == HEADER

    def test_the_folder_is_its_owners_alone(self, tmp_path: Path) -> None:
        FileSnapshotStore(tmp_path / "deep" / "down").close()
        assert (tmp_path / "deep" / "down").stat().st_mode & 0o777 == 0o700

    def test_half_written_leftovers_go_and_other_files_stay(
        self, on_disk: Callable[..., FileSnapshotStore], tmp_path: Path
    ) -> None:
        (tmp_path / "epoch-000000000004.partial").write_bytes(b"half")
        (tmp_path / "notes.txt").write_bytes(b"mine")
        (tmp_path / "epoch-x.snapshot").write_bytes(b"no number")
        assert on_disk().epochs() == []
        assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-x.snapshot", "notes.txt"]

    def test_any_cut_is_damage(self, on_disk: Callable[..., FileSnapshotStore], tmp_path: Path) -> None:
        store, raw, path = _written(on_disk, tmp_path)
        for end in range(len(raw)):
            path.write_bytes(raw[:end])
            with pytest.raises(SnapshotDamaged):
                store.load(7)
        path.write_bytes(raw)
        assert store.load(7).header == HEADER

    def test_any_flipped_byte_is_damage(self, on_disk: Callable[..., FileSnapshotStore], tmp_path: Path) -> None:
        store, raw, path = _written(on_disk, tmp_path)
        for at in range(len(raw)):
            path.write_bytes(raw[:at] + bytes([raw[at] ^ (1 << at % 8)]) + raw[at + 1 :])
            with pytest.raises(SnapshotDamaged):
                store.load(7)

    def test_ten_thousand_flipped_bits_are_damage(
        self, on_disk: Callable[..., FileSnapshotStore], tmp_path: Path
    ) -> None:
        store, raw, path = _written(on_disk, tmp_path)
        chance = random.Random(1)
        for _ in range(10_000):
            changed = bytearray(raw)
            for _ in range(chance.choice((1, 1, 1, 2, 8))):
                changed[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            if changed == raw:
                continue
            path.write_bytes(changed)
            with pytest.raises(SnapshotDamaged):
                store.load(7)

    @pytest.mark.parametrize("more", [b"\0", b"x" * 32, b"twice"])
    def test_more_bytes_than_written_are_damage(
        self, on_disk: Callable[..., FileSnapshotStore], tmp_path: Path, more: bytes
    ) -> None:
        store, raw, path = _written(on_disk, tmp_path)
        path.write_bytes(raw * 2 if more == b"twice" else raw + more)
        with pytest.raises(SnapshotDamaged):
            store.load(7)

    def test_a_snapshot_under_another_epochs_name_is_damage(
        self, on_disk: Callable[..., FileSnapshotStore], tmp_path: Path
    ) -> None:
        store, raw, _ = _written(on_disk, tmp_path)
        (tmp_path / "epoch-000000000008.snapshot").write_bytes(raw)
        with pytest.raises(SnapshotDamaged):
            store.load(8)

    def test_a_full_disk_changes_nothing(self, tmp_path: Path) -> None:
        ran = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=False)
        assert ran.stdout.split() == ["refused", "refused", "saved"], ran.stderr
        assert not list(tmp_path.glob("*.partial"))
        store = FileSnapshotStore(tmp_path)
        assert store.epochs() == [2, 5]
        assert store.load(2).tensors["n"].tolist() == [2, 2]
        store.close()

    def test_a_folder_that_vanished_is_an_error_of_the_system(
        self, on_disk: Callable[..., FileSnapshotStore], tmp_path: Path
    ) -> None:
        store = on_disk()
        os.rmdir(tmp_path)
        with pytest.raises(OSError, match="No such file"):
            store.save(1, {}, {})


# A limit on the size of files stands for a full disk: the write fails in its midst.
FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from pipeline.epochs.snapshot import FileSnapshotStore
store = FileSnapshotStore(Path(sys.argv[1]))
store.save(1, {}, {"n": torch.tensor([1, 1])})
store.save(2, {}, {"n": torch.tensor([2, 2])})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for epoch, size in ((3, 100_000), (4, 520), (5, 2)):
    try:
        store.save(epoch, {"epoch": epoch}, {"n": torch.arange(size)})
        print("saved")
    except OSError:
        assert store.epochs() == [1, 2]
        assert [int(store.load(e).tensors["n"][0]) for e in (1, 2)] == [1, 2]
        print("refused")
"""


def _written(on_disk: Callable[..., FileSnapshotStore], folder: Path) -> tuple[FileSnapshotStore, bytes, Path]:
    """A store with a small snapshot of epoch 7, its bytes and where they lie."""
    store, path = on_disk(), folder / "epoch-000000000007.snapshot"
    store.save(7, HEADER, {"a": torch.arange(5), "b": torch.zeros(0, 2)})
    return store, path.read_bytes(), path


def test_a_snapshot_is_written_and_read_without_copies_of_the_state() -> None:
    state = torch.arange(40_000_000, dtype=torch.int64)
    before = tracemalloc_peak(lambda: [len(part) for part in packed({"state": state})])
    assert before < 1_000_000
    body = b"".join(packed({"state": state, "flag": torch.tensor([True]), "none": torch.zeros(0, 3)}))
    found: dict[str, torch.Tensor] = {}
    assert tracemalloc_peak(lambda: found.update(unpacked(memoryview(body)))) < 1_000_000
    assert torch.equal(found["state"], state)
    assert safetensors.torch.load(body)["flag"].tolist() == [True]


def test_the_format_is_that_of_the_library() -> None:
    chance = torch.Generator().manual_seed(1)
    state = {
        str(dtype): (torch.rand(3, 2, generator=chance) * 99).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)
    }
    state |= {"int16": torch.tensor([1], dtype=torch.int16), "int8": torch.tensor([[2]], dtype=torch.int8)}
    state |= {"bytes": torch.tensor([3, 4], dtype=torch.uint8), "number": torch.tensor(5), "bool": torch.tensor(True)}
    state |= {"strided": torch.arange(6).reshape(2, 3).T, "none": torch.zeros(0, 4)}
    theirs = safetensors.torch.load(b"".join(packed(state)))
    ours = unpacked(memoryview(safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})))
    for name, tensor in state.items():
        for other in (theirs[name], ours[name]):
            assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(other, tensor)


def tracemalloc_peak(work: Callable[[], object]) -> int:
    """The most bytes that Python and NumPy held beyond what they had, while this was done."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
