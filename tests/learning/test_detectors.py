"""The drift detectors come without what they do not need, and river stays as it is."""

from __future__ import annotations

import subprocess
import sys


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_a_learner_does_not_import_what_only_data_sets_need() -> None:
    said = run(
        "import sys, pipeline.runtime.composition\n"
        "print([name for name in ('sklearn', 'scipy.stats', 'pandas', 'river.drift') if name in sys.modules])"
    )
    assert said == "[]"


def test_river_is_whole_for_whoever_imports_it() -> None:
    said = run(
        "from pipeline.learning.detectors import ADWIN, PageHinkley\n"
        "import river.drift\n"
        "print(river.drift.ADWIN is ADWIN, river.drift.PageHinkley is PageHinkley, river.drift.KSWIN.__name__)"
    )
    assert said == "True True KSWIN"
    assert run("import river.drift, pipeline.learning.detectors as d; print(river.drift.ADWIN is d.ADWIN)") == "True"
