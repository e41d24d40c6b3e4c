"""What the files of deploy/ say, for the tests that look at it."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
UNIT = DEPLOY / "systemd" / "headrace.service"
NO_MANIFESTS = {"kustomization.yaml", "headrace.yaml"}

Object = dict[str, Any]


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)


def manifests() -> list[Object]:
    files = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name not in NO_MANIFESTS)
    return [manifest for path in files for manifest in yaml.safe_load_all(path.read_text("utf-8"))]


def of_kind(*kinds: str) -> list[Object]:
    found = [manifest for manifest in manifests() if manifest["kind"] in kinds]
    assert {manifest["kind"] for manifest in found} == {*kinds}
    return found


def pods() -> dict[str, Object]:
    return {m["metadata"]["name"]: m["spec"]["template"] for m in of_kind("StatefulSet", "Deployment")}


def mounts_of(pod: Object) -> dict[str, str]:
    """Path → volume."""
    return {mount["mountPath"]: mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}


def compose() -> Object:
    read: Object = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return read


def headrace_services() -> dict[str, Object]:
    services = compose()["services"]
    return {name: service for name, service in services.items() if service["image"].startswith("headrace:")}


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions, as (name, rest)."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", "").splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def image_environment() -> dict[str, str]:
    last = next(rest for name, rest in reversed(dockerfile()) if name == "ENV")
    return dict(word.split("=", 1) for word in shlex.split(last))


def unit_values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE)


def project_version() -> str:
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    return version
