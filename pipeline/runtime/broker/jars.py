"""Apache Kafka's jars: fetched once with Maven into the user's cache folder, each verified at every start."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.runtime.broker.child import Child
from pipeline.runtime.broker.errors import BrokerError, BrokerUnavailable
from pipeline.runtime.broker.logs import last_lines

KAFKA_VERSION = "4.3.1"
POM = Path(__file__).with_name("pom.xml")
CHECKSUMS = Path(__file__).with_name("jars.sha256")
FETCH_TIMEOUT_S = 900.0

Announce = Callable[[str], None]


def checksums() -> dict[str, str]:
    """File name → SHA-256 in hex of every jar that the broker runs with."""
    lines = CHECKSUMS.read_text("ascii").split("\n")
    return {name: digest for digest, name in (line.split() for line in lines if line)}


def damaged(folder: Path, expected: Mapping[str, str]) -> list[str]:
    """The files that are missing from `folder`, or are not byte for byte what they should be."""
    return [name for name, digest in expected.items() if _sha256(folder / name) != digest]


def ensure_jars(environment: Mapping[str, str], announce: Announce) -> list[Path]:
    """The verified jars, fetched when they are not there; `announce` hears of what takes time.

    Safe against other processes that do the same, and against being cut short.
    Raises BrokerUnavailable without Maven or where the fetch fails.
    """
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"
    folder = cache / f"kafka-{KAFKA_VERSION}"
    expected = checksums()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"kafka-{KAFKA_VERSION}.lock"):
            if folder.exists() and (wrong := damaged(folder, expected)):
                announce(f"{folder} is damaged ({_few(wrong)}): fetching it again")
                shutil.rmtree(folder)
            if not folder.exists():
                _fetch(folder, expected, environment, announce)
    except OSError as error:
        raise BrokerUnavailable(f"cannot keep Kafka's jars in {cache}: {error.strerror or error}") from error
    return [folder / name for name in expected]


def _fetch(
    folder: Path, expected: Mapping[str, str], environment: Mapping[str, str], announce: Announce
) -> None:
    """Into a folder beside `folder`, verified there, then renamed: nothing half done is ever seen."""
    maven = shutil.which("mvn", path=environment.get("PATH"))
    if maven is None:
        raise BrokerUnavailable("Maven (mvn) was not found, and KAFKA_HOME is not set")
    for abandoned in folder.parent.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    announce(f"fetching Apache Kafka {KAFKA_VERSION} with Maven (44 MB, once) into {folder}")
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        _copy_dependencies(maven, partial, [])
        if wrong := damaged(partial / "libs", expected):
            # Maven trusts what lies in the user's local repository, which may be what is damaged.
            announce(f"Maven's local repository gave wrong files ({_few(wrong)}): trying with a fresh one")
            shutil.rmtree(partial / "libs", ignore_errors=True)
            _copy_dependencies(maven, partial, [f"-Dmaven.repo.local={partial / 'repository'}"])
            wrong = damaged(partial / "libs", expected)
        if wrong:
            raise BrokerUnavailable(f"Maven fetched files that do not match {CHECKSUMS.name}: {_few(wrong)}")
        os.rename(partial / "libs", folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_dependencies(maven: str, partial: Path, options: list[str]) -> None:
    pom, log = partial / "pom.xml", partial / "maven.log"
    shutil.copyfile(POM, pom)
    command = [maven, "-q", "-B", "-f", str(pom), *options, "dependency:copy-dependencies",
               "-DincludeScope=runtime", f"-DoutputDirectory={partial / 'libs'}"]  # fmt: skip
    try:
        fetch = Child(command, folder=partial, log=log, remove=partial)
    except BrokerError as error:
        raise BrokerUnavailable(str(error)) from error
    try:
        status = fetch.wait(FETCH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise BrokerUnavailable(f"Maven was not done after {FETCH_TIMEOUT_S:.0f} s") from None
    finally:
        fetch.kill()
    if status != 0:
        raise BrokerUnavailable(f"Maven could not fetch Apache Kafka {KAFKA_VERSION}: {last_lines(log, 3)}")


def _sha256(file: Path) -> str | None:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return None


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
