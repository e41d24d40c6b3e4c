"""Runs one command as a script of its own and ends it when the process that asked for it is gone.

    python supervisor.py PARENT_PID GRACE_SECONDS LOG REMOVE COMMAND...

The command's pid is the first line on stdout. Standard input is the lifeline:
`t` ends the command with SIGTERM (SIGKILL after the grace), `k` with SIGKILL;
its end, or a parent that has changed, means that the parent died, and then the
folder REMOVE (if not empty) goes too. Exits as the command did, 128 + n for
signal n. Imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

POLL_S = 0.1
PR_SET_PDEATHSIG = 1
CANNOT_RUN = 127


def main(arguments: Sequence[str]) -> int:
    """Run the command until it ends or has to."""
    parent, grace_s, log, remove = int(arguments[0]), float(arguments[1]), arguments[2], arguments[3]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = _spawn(arguments[4:], log)
    except OSError as error:
        print(f"{arguments[4]}: {error.strerror}", flush=True)
        return CANNOT_RUN
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    # The parent may be gone already, and nobody reads.
    with contextlib.suppress(BrokenPipeError):
        print(child.pid, flush=True)
    order = _wait(child, parent)
    if order == "k":
        child.kill()
    elif order != "ended":
        child.terminate()
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if order == "orphaned" and remove:
        shutil.rmtree(remove, ignore_errors=True)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _spawn(command: Sequence[str], log: str) -> subprocess.Popen[bytes]:
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with(os.getpid()) if sys.platform == "linux" else None,
        )


def _die_with(supervisor: int) -> Callable[[], None]:
    """What the child does between fork and exec so that it does not outlive even a SIGKILLed supervisor.

    The signal is tied to the forking thread; this process has only one.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            os._exit(CANNOT_RUN)

    return prepare


def _wait(child: subprocess.Popen[bytes], parent: int) -> str:
    """Until something has to be done: `t`, `k`, `orphaned`, or `ended` of itself.

    A process forked off by the parent may hold the lifeline open after the
    parent's death; hence also the look at who the parent is.
    """
    while child.poll() is None:
        readable, _, _ = select.select([0], [], [], POLL_S)
        if readable:
            return os.read(0, 1).decode("ascii", "replace") or "orphaned"
        if os.getppid() != parent:
            return "orphaned"
    return "ended"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
