"""The dependency audit of `make lint`: consistent, pinned, without known vulnerabilities; says what it could not check.

    python tests/audit.py [--required]

The last part needs a service on the Internet, PyPI or OSV. It is asked first
about a release that is known to be vulnerable: a mirror that knows nothing of
vulnerabilities finds none in anything. Where no service answers, this says
NOT CHECKED and exits 0, or 1 with --required.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
KNOWN_VULNERABLE = {"jinja2": "2.10"}
SERVICES = (("pypi",), ("osv",))
ONE_S, ALL_S = 60, 900

Found = dict[str, list[str]]


def main(arguments: Sequence[str]) -> int:
    """Tell what was found; 1 if something is wrong."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    pins = pinned((ROOT / "constraints.txt").read_text("utf-8"))
    problems = [*inconsistent(), *unpinned(project["project"], pins)]
    if not problems:
        print(f"audit: {len(pins)} pins, and what is needed is installed as they say")
    accepted: dict[str, str] = project.get("tool", {}).get("audit", {}).get("accepted", {})
    checked = vulnerabilities(pins, SERVICES)
    if checked is None:
        print("audit: known vulnerabilities: NOT CHECKED, no service that knows of any can be reached from here")
        problems += ["known vulnerabilities were not checked, and --required says that they must be"] * (
            "--required" in arguments
        )
    else:
        service, found, skipped = checked
        problems += judged(found, accepted)
        print(f"audit: known vulnerabilities, as {service} knows them: {len(found)} of {len(pins)} pins have some")
        if skipped:
            print(f"audit: NOT CHECKED, unknown to {service}: {', '.join(skipped)}")
    for problem in problems:
        print(f"audit: {problem}", file=sys.stderr)
    return bool(problems)


def pinned(constraints: str) -> dict[str, str]:
    """Name → version."""
    return {
        canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines(constraints))
    }


def lines(text: str) -> list[str]:
    """Those that are not empty."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def inconsistent() -> Iterator[str]:
    """What `pip check` says of what is installed."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        yield from (f"pip check: {line}" for line in lines(done.stdout + done.stderr))


def unpinned(project: Mapping[str, Any], pins: Mapping[str, str]) -> Iterator[str]:
    """What is needed, directly or by others, and is not installed, or not as constraints.txt pins it."""
    extras: dict[str, list[str]] = project["optional-dependencies"]
    waiting = [Requirement(text) for texts in (project["dependencies"], *extras.values()) for text in texts]
    seen: set[tuple[str, str]] = set()
    told: set[str] = set()
    while waiting:
        needed = waiting.pop()
        name = canonicalize_name(needed.name)
        for extra in ("", *needed.extras):
            if (name, extra) in seen or name == "pip":
                continue
            seen.add((name, extra))
            try:
                installed = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                yield f"{name} is needed and not installed"
                break
            if pins.get(name) != installed.version and name not in told:
                told.add(name)
                yield f"{name}: {installed.version} is installed, constraints.txt pins {pins.get(name, 'nothing')}"
            further = map(Requirement, installed.requires or [])
            waiting += [each for each in further if each.marker is None or each.marker.evaluate({"extra": extra})]


def vulnerabilities(pins: Mapping[str, str], services: Sequence[Sequence[str]]) -> tuple[str, Found, list[str]] | None:
    """Which service answers, what it knows by pin, and the pins that it does not know; None if none answers."""
    for service in services:
        canary = asked(KNOWN_VULNERABLE, service, ONE_S)
        if canary is not None and canary[0]:
            answer = asked(pins, service, ALL_S)
            if answer is not None:
                return service[0], *answer
    return None


def asked(pins: Mapping[str, str], service: Sequence[str], limit_s: float) -> tuple[Found, list[str]] | None:
    """What pip-audit finds, and what it skips; None where it is not there, or cannot reach the service."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "pins.txt"
        wanted.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(wanted), "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off", "--vulnerability-service", *service]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
            rows = json.loads(done.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            return None
    found = {
        f"{row['name']}=={row['version']}": [name for each in row["vulns"] for name in (each["id"], *each["aliases"])]
        for row in rows
        if row.get("vulns")
    }
    return found, [row["name"] for row in rows if "skip_reason" in row]


def judged(found: Found, accepted: Mapping[str, str]) -> Iterator[str]:
    """Those that pyproject.toml's `tool.audit.accepted` gives no reason for, and reasons for what is not there."""
    for pin, names in found.items():
        if not any(name in accepted for name in names):
            yield f"{pin}: {', '.join(names)}; upgrade it, or say in tool.audit.accepted of pyproject.toml why not"
    known = {name for names in found.values() for name in names}
    yield from (f"tool.audit.accepted: {name} is no longer found: remove it" for name in accepted if name not in known)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
