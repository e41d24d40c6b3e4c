"""The built wheel carries all that a user needs, and works away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"  # a copy: what an earlier build left in the checkout must not come along
    for part in ("pipeline", "consumers", "producers", "config"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source / part)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (out / "dist").glob("headrace-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_it_carries_every_module_of_the_checkout(unpacked: Path) -> None:
    for package in ("pipeline", "consumers", "producers", "config"):
        ours = {p.relative_to(ROOT) for p in (ROOT / package).rglob("*.py")}
        theirs = {p.relative_to(unpacked) for p in (unpacked / package).rglob("*.py")}
        assert ours == theirs


def test_it_carries_config_schemas_demo_data_and_licences(unpacked: Path) -> None:
    patterns = ("config/*.yaml", "config/schemas/*.json", "config/demo/*", "pipeline/runtime/broker/*")
    for pattern in (*patterns, "pipeline/runtime/page/*"):
        ours = {p.relative_to(ROOT) for p in ROOT.glob(pattern) if p.is_file() and p.suffix != ".pyc"}
        assert ours
        assert ours <= {p.relative_to(unpacked) for p in unpacked.rglob("*") if p.is_file()}
    assert list(unpacked.glob("headrace-*.dist-info/licenses/LICENSE"))
    assert (unpacked / "pipeline" / "py.typed").is_file()


def test_it_evaluates_the_demo_data_away_from_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    # -S and the unpacked wheel first: the editable install's hook must not lead back to the checkout.
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    program = (
        "import gzip, pathlib, sys, config, pipeline.runtime.cli as cli;"
        f"assert pathlib.Path(config.__file__).is_relative_to({str(unpacked)!r}), config.__file__;"
        "demo = pathlib.Path(config.__file__).parent / 'demo';"
        "lines = gzip.open(demo / 'events.jsonl.gz').read().splitlines()[:200];"
        "pathlib.Path('events.jsonl').write_bytes(b'\\n'.join(lines));"
        "sys.argv = ['headrace', 'evaluate', '--events', 'events.jsonl', '--items', str(demo / 'items.jsonl.gz')];"
        "cli.main()"
    )
    environment |= {"HEADRACE__ENCODING__MODEL": "hashing-64"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "headrace" in done.stdout
    assert "200 events" in done.stdout
