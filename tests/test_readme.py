"""What the README shows is what is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_the_program_in_the_readme_is_the_one_that_is_tested() -> None:
    program = (ROOT / "tests" / "kafka" / "plain_client.py").read_text("utf-8")
    assert program.strip() in README
    assert len(program.splitlines()) <= 40


def test_every_file_that_the_readme_points_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert not missing


def test_every_make_target_that_the_readme_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"`?make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_test_file_that_the_readme_names_is_there() -> None:
    for path in re.findall(r"tests/[a-z_/]+\.py", README):
        assert (ROOT / path).is_file(), path
