"""Lives that start within a second: a process that has imported everything forks, each child a `headrace` of its own.

Importing takes a second or more of every life, and a kill while Python imports finds nothing.
What a child does from then on is what the console script does: the same `main`,
with a process, connections, signals and an exit status of its own.

nursery.py   reads {"arguments": [...], "log": "..."} a line, writes {"born": pid} and {"ended": pid, "status": n}
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[2]


class Child:
    """A forked process, as `subprocess.Popen` shows one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.ended = threading.Event()

    def poll(self) -> int | None:
        """The exit status, None while it lives."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; raises subprocess.TimeoutExpired."""
        if not self.ended.wait(timeout):
            raise subprocess.TimeoutExpired("headrace", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """A signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks. A context manager that leaves none of its children behind."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Starts at once; the first birth waits for its imports."""
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
        )  # fmt: skip
        self._children: dict[int, Child] = {}
        self._born: list[Child] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="nursery", daemon=True)
        self._reader.start()

    def bear(self, arguments: Sequence[str], log: Path) -> Child:
        """A child that runs `headrace ARGUMENTS`; what it says is appended to `log`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"arguments": [*arguments], "log": str(log)}) + "\n")
        self._process.stdin.flush()
        with self._changed:
            assert self._changed.wait_for(lambda: self._born, 180), "no child is born"
            return self._born.pop()

    def close(self) -> None:
        """End it and all children."""
        for child in self._children.values():
            child.kill()
        self._process.kill()
        self._process.wait(timeout=30)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            with self._changed:
                if "born" in said:
                    child = self._children[said["born"]] = Child(said["born"])
                    self._born.append(child)
                else:
                    child = self._children.pop(said["ended"])
                    child.returncode = said["status"]
                    child.ended.set()
                self._changed.notify_all()


def _forked(arguments: list[str], log: str) -> None:
    """In the child: become `headrace`."""
    from pipeline.runtime import cli

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for handle, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(handle, target)
    sys.argv = ["headrace", *arguments]
    status = 0
    try:
        cli.main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    """Import, then fork whenever asked."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pipeline.runtime import cli, service  # noqa: F401

    def say(**what: int) -> None:
        os.write(1, (json.dumps(what) + "\n").encode())

    def reap(number: int, frame: FrameType | None) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                say(ended=pid, status=os.waitstatus_to_exitcode(status))

    signal.signal(signal.SIGCHLD, reap)
    assert threading.active_count() == 1, "a process with threads must not fork"
    for line in sys.stdin:
        asked = json.loads(line)
        # A child may end before its birth is told: the signal waits until it is.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            _forked(asked["arguments"], asked["log"])
        say(born=pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


if __name__ == "__main__":
    main()
