"""The files of deploy/ are what their own tools take.

Schemas and linters come with packages of the `dev` extra. systemd-analyze and
kubectl come with a machine: where one is missing its tests are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from deployed import DEPLOY, KUBERNETES, NO_MANIFESTS, UNIT, manifests, of_kind, project_version, run

# The oldest that takes all that stands in the files, and the newest whose schemas are at hand.
KUBERNETES_VERSIONS = ["1.30", kubernetes_validate.latest_version()]
# Of 10; systemd 252 says 1.1. Newer ones look at more.
EXPOSURE = 2.0


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    return run(Path(sys.executable).with_name("hadolint"), "--failure-threshold", "style", path)


def composed(path: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = hadolint(DEPLOY / "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("python:3.11-slim-bookworm", "python:latest")
    (tmp_path / "Dockerfile").write_text(text, "utf-8")
    assert "DL3007" in hadolint(tmp_path / "Dockerfile").stdout


def test_compose_yaml_is_what_the_compose_specification_takes() -> None:
    done = composed(DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_specification_would_refuse_a_key_that_it_does_not_know(tmp_path: Path) -> None:
    wrong = (DEPLOY / "compose.yaml").read_text("utf-8").replace("cap_drop:", "drop_caps:")
    (tmp_path / "compose.yaml").write_text(wrong, "utf-8")
    assert "drop_caps" in composed(tmp_path / "compose.yaml").stdout


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_kubernetes_takes_every_manifest_and_knows_every_field(version: str) -> None:
    for manifest in manifests():
        if manifest["apiVersion"] != "monitoring.coreos.com/v1":
            kubernetes_validate.validate(manifest, version, strict=True)


def test_kubernetes_would_refuse_a_field_that_it_does_not_know() -> None:
    (learner,) = of_kind("StatefulSet")
    learner["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readonlyRootFilesystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(learner, KUBERNETES_VERSIONS[-1], strict=True)


def test_kustomize_builds_what_stands_in_the_folder() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed here")
    done = run("kubectl", "kustomize", KUBERNETES)
    assert done.returncode == 0, done.stderr
    built = [each for each in yaml.safe_load_all(done.stdout) if each["apiVersion"] != "monitoring.coreos.com/v1"]
    for manifest in built:
        kubernetes_validate.validate(manifest, KUBERNETES_VERSIONS[-1], strict=True)
    kinds = sorted(manifest["kind"] for manifest in built)
    assert "ConfigMap" in kinds
    assert "Secret" not in kinds
    assert f"image: headrace:{project_version()}" in done.stdout


def test_every_manifest_but_the_secrets_example_is_part_of_the_base() -> None:
    base = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text("utf-8"))
    listed = {*base["resources"], "secret.example.yaml"} | NO_MANIFESTS
    assert {path.name for path in KUBERNETES.iterdir()} == listed


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def verified(unit: Path) -> list[str]:
    """What systemd finds, but that the program is not installed where this is tested."""
    done = run("systemd-analyze", "verify", "--man=no", unit)
    said = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    return [line for line in said if "is not executable" not in line]


@needs_systemd
def test_systemd_takes_the_unit() -> None:
    assert verified(UNIT) == []


@needs_systemd
def test_systemd_would_tell_of_a_key_that_it_does_not_know(tmp_path: Path) -> None:
    wrong = tmp_path / UNIT.name
    wrong.write_text(UNIT.read_text("utf-8").replace("ProtectClock=", "ProtectClocks="), "utf-8")
    assert any("ProtectClocks" in line for line in verified(wrong))


@needs_systemd
def test_the_unit_is_exposed_as_little_as_it_says() -> None:
    threshold = f"--threshold={EXPOSURE * 10:.0f}"
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", threshold, UNIT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
