"""What the composed parts do when the log fails them."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from pipeline.ports import CommitUnknown, Fenced
from pipeline.runtime import composition
from pipeline.settings import Settings


class Watching:
    """Metrics that nobody reads."""

    def watch(self, embedder: object) -> None:
        """Look at nothing."""


@pytest.mark.parametrize("trouble", [Fenced, CommitUnknown, ConnectionError])
def test_an_embedder_whose_transaction_was_given_up_begins_again(
    trouble: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, lives = threading.Event(), []

    def embed(*_: object) -> None:
        lives.append(None)
        if len(lives) < 3:
            raise trouble("for a while")
        stop.set()

    for name, stand_in in (("_embed", embed), ("check_model", lambda _: None), ("Embedder", lambda *_, **__: None)):
        monkeypatch.setattr(composition, name, stand_in)
    monkeypatch.setattr(composition, "RETRY_S", 0)
    turns: list[float] = []
    composition.run_embedder(Settings(), Watching(), stop, turns.append)  # type: ignore[arg-type]
    assert len(lives) == 3
    assert turns == [0, 0, 0], "alive while it begins again, Kafka being away or not"


@pytest.mark.parametrize("lived_s", [0, 0.02])
def test_a_start_that_is_refused_at_once_ends_with_its_code(lived_s: float) -> None:
    program = (
        "import time; from pipeline.runtime.composition import prepare_kernels\n"
        f"prepare_kernels(); time.sleep({lived_s}); raise SystemExit(1)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (1, "")
