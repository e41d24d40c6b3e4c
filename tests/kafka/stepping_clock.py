"""A wall clock that a test can set forwards and backwards under one running process, by LD_PRELOAD."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("stepping_clock.c")


class SteppingClock:
    """Compiled at once with the C compiler of the machine; raises AssertionError where there is none."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        assert compiler, "a C compiler is needed: cc, gcc or clang"
        library, self._file = folder / "stepping_clock.so", folder / "offset"
        command = [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
        self._file.write_bytes(bytes(8))
        self.variables = {"LD_PRELOAD": str(library), "STEPPING_CLOCK": str(self._file)}

    def set(self, seconds: float) -> None:
        """How far it is ahead of the machine's clock from now on."""
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 8) as page:
            page[:8] = struct.pack("=q", round(seconds * 1_000_000_000))
