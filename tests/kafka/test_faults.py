"""A few of each fault that `make chaos` brings about, on real Kafka, judged by the same oracle."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import CASES
from faults import Trial

from pipeline.runtime.broker import Broker

FEW = {"connections": 2, "full-disk": 2, "clocks": 3, "retention": 2, "partitions": 4}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FEW)
def test_faults_lose_nothing_and_double_nothing(name: str, broker: Broker, tmp_path: Path) -> None:
    with Trial(name, tmp_path, FEW[name], lambda: broker, seed=1) as trial:
        report = CASES[name](trial)
        print(trial.line(report))
    assert sum(trial.struck.values()) >= FEW[name]
    assert report.events > 20
    assert report.epochs > 5
    assert report.lists > 20
