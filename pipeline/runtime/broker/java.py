"""Finds a Java that can run Kafka."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pipeline.runtime.broker.errors import BrokerUnavailable

JAVA_NEEDED = 17


def find_java(environment: Mapping[str, str]) -> tuple[str, int]:
    """Path and major version of a Java of at least 17: `JAVA_HOME` first, then `PATH`.

    Raises BrokerUnavailable, naming the older ones that were found.
    """
    found = []
    home = environment.get("JAVA_HOME")
    for candidate in [str(Path(home) / "bin" / "java") if home else None, "java"]:
        program = shutil.which(candidate, path=environment.get("PATH")) if candidate else None
        version = _version(program) if program else None
        if program and version and version >= JAVA_NEEDED:
            return program, version
        if version:
            found.append(f"{program} is Java {version}")
    older = f" ({', '.join(found)})" if found else ""
    raise BrokerUnavailable(f"Java {JAVA_NEEDED} or newer was not found{older}")


def _version(program: str) -> int | None:
    try:
        answer = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    return int(match[1]) if match else None
