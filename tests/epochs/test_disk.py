"""The snapshots' folder: its owner's alone, whatever the umask; one that is open to others is warned of."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.epochs.disk import Folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(wanted: int) -> Iterator[None]:
    before = os.umask(wanted)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("given", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_it_is_its_owners_alone_whatever_the_umask(tmp_path: Path, given: int, caplog: Any) -> None:
    path = tmp_path / "snapshots"
    with umask(given), caplog.at_level(logging.WARNING), closing(Folder(path)) as folder:
        folder.write("a", [b"x"])
    assert (mode(path), mode(path / "a")) == (0o700, 0o600)
    assert caplog.text == ""


def test_a_file_that_others_could_read_is_closed_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "snapshots"
    with closing(Folder(path)) as folder:
        (path / "a").write_bytes(b"old")
        (path / "a").chmod(0o644)
        folder.write("a", [b"x"])
    assert mode(path / "a") == 0o600


@pytest.mark.parametrize(("given", "warned"), [(0o755, True), (0o750, True), (0o701, True), (0o700, False)])
def test_a_folder_that_is_open_to_others_is_warned_of_and_left(
    tmp_path: Path, given: int, warned: bool, caplog: Any
) -> None:
    path = tmp_path / "snapshots"
    path.mkdir()
    path.chmod(given)
    with caplog.at_level(logging.WARNING):
        Folder(path).close()
    assert (f"(mode {given:04o}); chmod 700 ends that" in caplog.text) == warned
    assert mode(path) == given
