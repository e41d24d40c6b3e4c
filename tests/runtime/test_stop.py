"""A signal ends what waits for it, whichever thread the system gave it to."""

from __future__ import annotations

import subprocess
import sys

WAITS = """
import signal, threading
from pipeline.runtime.console import Stop

stop = Stop()
other = threading.Thread(target=threading.Event().wait, daemon=True)
other.start()
threading.Timer(0.3, signal.pthread_kill, (other.ident, signal.SIGTERM)).start()
print(stop.wait(), flush=True)
"""


def test_a_signal_given_to_another_thread_is_heard() -> None:
    ended = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr
