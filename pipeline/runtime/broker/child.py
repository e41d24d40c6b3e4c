"""A process that cannot outlive this one: started through the supervisor, ended through its lifeline."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.runtime.broker.errors import BrokerError

SUPERVISOR = Path(__file__).with_name("supervisor.py")
GRACE_S = 5.0


class Child:
    """A running command, which ends when this process does, however this one ends."""

    def __init__(
        self, command: Sequence[str], *, folder: Path, log: Path, remove: Path | None = None
    ) -> None:
        """Run `command` in `folder`, its output appended to `log`.

        `remove` is a folder that is deleted where this process dies first (not
        after `stop` or `kill`). Raises BrokerError where the command cannot be run.
        """
        # A session of its own: Ctrl-C in the terminal is for us alone to turn into a clean stop.
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISOR), str(os.getpid()), str(GRACE_S), str(log),
             str(remove or ""), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            start_new_session=True,
        )  # fmt: skip
        assert self._supervisor.stdout is not None
        with self._supervisor.stdout as answers:
            answer = answers.readline().decode(errors="replace").strip()
        if not answer.isdigit():
            self._close()
            self._supervisor.wait()
            raise BrokerError(f"cannot run {answer or command[0]}")
        self.pid = int(answer)

    @property
    def running(self) -> bool:
        """Whether the command has not ended yet."""
        return self._supervisor.poll() is None

    def wait(self, timeout_s: float | None = None) -> int:
        """The command's exit status (128 + n for signal n). Raises subprocess.TimeoutExpired."""
        status = self._supervisor.wait(timeout_s)
        self._close()
        return status

    def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL after 5 s. Idempotent."""
        self._order(b"t")

    def kill(self) -> None:
        """End it at once: SIGKILL. Idempotent."""
        self._order(b"k")

    def _order(self, order: bytes) -> None:
        lifeline = self._supervisor.stdin
        if lifeline is not None and not lifeline.closed:
            with contextlib.suppress(BrokenPipeError):
                lifeline.write(order)
                lifeline.flush()
        self.wait()

    def _close(self) -> None:
        if self._supervisor.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._supervisor.stdin.close()
