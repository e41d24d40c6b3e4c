"""The files of deploy/ fit Headrace and each other: settings, commands, ports, labels, rights, paths."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import PurePosixPath
from threading import Thread
from typing import Any

import pytest
import yaml
from deployed import (
    DEPLOY,
    KUBERNETES,
    ROOT,
    compose,
    dockerfile,
    headrace_services,
    image_environment,
    mounts_of,
    of_kind,
    pods,
    project_version,
    run,
    unit_values,
)
from typer.testing import CliRunner

from pipeline.runtime.broker.kraft import BROKER, PROPERTIES
from pipeline.runtime.cli import app
from pipeline.runtime.console import Overtaken, telling
from pipeline.settings import ENV_PREFIX, load_settings

PORT = 9464


# What they say of Headrace.


def command_lines() -> dict[str, list[str]]:
    lines = {f"compose {name}": service["command"] for name, service in headrace_services().items()}
    lines |= {f"kubernetes {name}": pod["spec"]["containers"][0]["args"] for name, pod in pods().items()}
    (start,) = unit_values("ExecStart")
    lines["systemd"] = shlex.split(start)[1:]
    lines["image"] = json.loads(dict(dockerfile())["CMD"])
    return lines


@pytest.mark.parametrize("where", command_lines())
def test_headrace_has_the_command_and_its_options(where: str) -> None:
    arguments = command_lines()[where]
    if "--stage" in arguments:
        assert arguments[arguments.index("--stage") + 1] in ("learner", "embedder")
    done = CliRunner().invoke(app, [*arguments, "--help"])
    assert done.exit_code == 0, done.output


def test_the_unit_leaves_ended_what_to_start_again_would_not_mend() -> None:
    wrong = CliRunner().invoke(app, ["run", "--stage", "x"]).exit_code
    with pytest.raises(SystemExit) as overtaken, telling(debug=False):
        raise Overtaken("by another")
    (never,) = unit_values("RestartPreventExitStatus")
    assert never.split() == [str(wrong), str(overtaken.value.code)]


def environments() -> dict[str, dict[str, str]]:
    found = {f"compose {name}": service["environment"] for name, service in headrace_services().items()}
    found["image"] = image_environment()
    found["systemd"] = dict(line.split("=", 1) for line in unit_values("Environment"))
    for name, pod in pods().items():
        variables = pod["spec"]["containers"][0].get("env", [])
        found[f"kubernetes {name}"] = {each["name"]: each.get("value", "") for each in variables}
    return found


@pytest.mark.parametrize("where", environments())
def test_every_variable_is_a_setting(where: str) -> None:
    given = environments()[where]
    settings = load_settings(environment=given)
    if where.startswith("compose"):
        assert settings.metrics.host == "0.0.0.0"
        assert any(name.startswith(ENV_PREFIX) for name in given)


def test_kubernetes_settings_are_known_and_their_files_are_mounted() -> None:
    settings = load_settings(KUBERNETES / "headrace.yaml", environment={})
    assert settings.metrics.host == "0.0.0.0"
    assert settings.learning.threads > 0
    assert settings.metrics.token_file is not None
    assert all(mounts_of(pod)[str(settings.metrics.token_file.parent)] == "secret" for pod in pods().values())
    (learner,) = of_kind("StatefulSet")
    claims = {claim["metadata"]["name"] for claim in learner["spec"]["volumeClaimTemplates"]}
    kept = [path for path, name in mounts_of(learner["spec"]["template"]).items() if name in claims]
    assert any(settings.epochs.snapshots.is_relative_to(path) for path in kept)


def test_the_metrics_token_is_one_key_of_one_secret() -> None:
    settings = load_settings(KUBERNETES / "headrace.yaml", environment={})
    (secret,), (monitor,) = of_kind("Secret"), of_kind("ServiceMonitor")
    token = {"name": secret["metadata"]["name"], "key": next(iter(secret["stringData"]))}
    assert settings.metrics.token_file is not None
    assert settings.metrics.token_file.name == token["key"]
    assert monitor["spec"]["endpoints"][0]["authorization"] == {"type": "Bearer", "credentials": token}
    for pod in pods().values():
        named = [volume["secret"]["secretName"] for volume in pod["spec"]["volumes"] if "secret" in volume]
        assert named == [token["name"]]


def test_the_secrets_example_holds_no_secret() -> None:
    for secret in of_kind("Secret"):
        assert "data" not in secret
        assert not any(secret["stringData"].values())


def test_ports_agree() -> None:
    assert load_settings(environment={}).metrics.port == PORT
    assert load_settings(KUBERNETES / "headrace.yaml", environment={}).metrics.port == PORT
    instructions = dict(dockerfile())
    assert instructions["EXPOSE"] == str(PORT)
    assert f":{PORT}/livez" in instructions["HEALTHCHECK"]
    for service in headrace_services().values():
        assert [port.rsplit(":", 1)[1] for port in service["ports"]] == [str(PORT)]
    for pod in pods().values():
        (container,) = pod["spec"]["containers"]
        assert container["ports"] == [{"name": "metrics", "containerPort": PORT}]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] == "metrics"
    for each in of_kind("Service"):
        assert each["spec"]["ports"] == [{"name": "metrics", "port": PORT, "targetPort": "metrics"}]
    (policy,), (monitor,) = of_kind("NetworkPolicy"), of_kind("ServiceMonitor")
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == ["metrics"]
    assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == ["metrics"]
    targets = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.compose.yml").read_text("utf-8"))
    (scraped,) = targets["scrape_configs"][0]["static_configs"]
    assert scraped["targets"] == [f"{name}:{PORT}" for name in headrace_services()]


def test_labels_and_selectors_meet() -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods().items()}
    selected = [
        (m["spec"]["selector"].get("matchLabels", m["spec"]["selector"]), m["metadata"]["name"])
        for m in of_kind("StatefulSet", "Deployment", "PodDisruptionBudget", "Service")
    ]
    for selector, name in selected:
        assert [pod for pod, has in labels.items() if selector.items() <= has.items()] == [name]
    (policy,), (monitor,) = of_kind("NetworkPolicy"), of_kind("ServiceMonitor")
    assert all(policy["spec"]["podSelector"]["matchLabels"].items() <= has.items() for has in labels.values())
    for service in of_kind("Service"):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()


def test_probes_leave_a_recovery_its_time() -> None:
    for pod in pods().values():
        (container,) = pod["spec"]["containers"]
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
        # Not until it is ready: a replay of a long log, killed and begun anew, would never end.
        assert container["startupProbe"]["httpGet"]["path"] == "/livez"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert pod["spec"]["terminationGracePeriodSeconds"] >= load_settings(environment={}).kafka.transaction_timeout_s


def test_no_more_embedders_than_partitions() -> None:
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    assert scaler["spec"]["maxReplicas"] <= load_settings(KUBERNETES / "headrace.yaml", environment={}).kafka.partitions
    assert scaler["spec"]["scaleTargetRef"]["name"] in pods()
    (embedder,) = of_kind("Deployment")
    assert "replicas" not in embedder["spec"]


# What they allow.


@pytest.mark.parametrize("name", pods())
def test_pods_have_no_rights_that_they_do_not_need(name: str) -> None:
    pod = pods()[name]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    user = dict(dockerfile())["USER"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == user
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", compose()["services"])
def test_containers_have_no_rights_that_they_do_not_need(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] is (name != "kafka")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "healthcheck" in service or service["image"].startswith("headrace:")


def test_whatever_is_written_to_can_be_written() -> None:
    image = image_environment()
    written = [image["HOME"], image["NUMBA_CACHE_DIR"], dict(dockerfile())["WORKDIR"]]
    places = {name: [*mounts_of(pod)] for name, pod in pods().items()}
    for name, service in headrace_services().items():
        places[name] = [*service["tmpfs"], *(volume.split(":")[1] for volume in service["volumes"])]
    for name, mounted in places.items():
        for path in map(PurePosixPath, written):
            assert any(path.is_relative_to(place) for place in mounted), f"{name}: {path}"


# What they name is there.


def images() -> list[str]:
    base = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text("utf-8"))
    found = [f"{each['name']}:{each['newTag']}" for each in base["images"]]
    found += [service["image"] for service in compose()["services"].values()]
    return found + [rest.split()[0] for name, rest in dockerfile() if name == "FROM"]


def test_images_are_pinned_and_ours_is_this_version() -> None:
    for image in images():
        name, _, tag = image.partition(":")
        assert re.search(r"\d+\.\d+", tag), image
        assert name != "headrace" or tag == project_version()
    ours = {each["image"] for pod in pods().values() for each in pod["spec"]["containers"]}
    assert ours == {"headrace"}


def bind_mounts() -> Iterator[str]:
    for service in compose()["services"].values():
        yield from (volume.split(":")[0].removeprefix("./") for volume in service["volumes"] if volume[0] == ".")


def test_mounted_files_are_there() -> None:
    assert [path for path in bind_mounts() if not (DEPLOY / path).exists()] == []


def test_grafana_is_told_where_the_dashboard_is_mounted() -> None:
    volumes = dict(volume.split(":")[:2] for volume in compose()["services"]["grafana"]["volumes"])
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasource.compose.yaml").read_text("utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    provisioning = DEPLOY / "grafana" / "provisioning"
    providers = [
        yaml.safe_load(path.read_text("utf-8"))["providers"] for path in provisioning.glob("dashboards/*.yaml")
    ]
    folders = {provider["options"]["path"] for each in providers for provider in each}
    assert folders == {str(PurePosixPath(volumes["./grafana/dashboard.json"]).parent)}


def test_named_volumes_are_declared() -> None:
    named = {
        volume.split(":")[0]
        for service in compose()["services"].values()
        for volume in service["volumes"]
        if not volume.startswith(".")
    }
    assert named == set(compose()["volumes"])


def test_the_build_gets_what_it_copies_and_what_the_wheel_is_made_of() -> None:
    rules = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    let_through = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = [rest.split()[:-1] for name, rest in dockerfile() if name == "COPY" and not rest.startswith("--from")]
    sources = {source for each in copied for source in each}
    assert sources == let_through
    assert all((ROOT / source).exists() for source in sources)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    assert {package.split(".")[0] for package in packages} <= sources


def test_the_broker_of_compose_has_what_one_node_needs_for_transactions() -> None:
    given = compose()["services"]["kafka"]["environment"]
    needed = {
        key: value
        for key, value in (PROPERTIES | {"broker.session.timeout.ms": BROKER["broker.session.timeout.ms"]}).items()
        if re.search(r"replication\.factor|min\.isr|auto\.create|session\.timeout\.ms$|node\.id", key)
        and not key.startswith("group.")
    }
    assert len(needed) >= 7
    assert {key: given[f"KAFKA_{key.replace('.', '_').upper()}"] for key in needed} == needed
    bootstrap = load_settings(environment=headrace_services()["learner"]["environment"]).kafka.bootstrap
    assert f"INSIDE://{bootstrap}" in given["KAFKA_ADVERTISED_LISTENERS"]


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_says_what_livez_says(status: int, code: int) -> None:
    class Livez(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Livez)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        check = dict(dockerfile())["HEALTHCHECK"].partition("CMD ")[2]
        program = json.loads(check)[-1].replace(str(PORT), str(server.server_port))
        assert run(sys.executable, "-c", program).returncode == code
    finally:
        server.shutdown()
        server.server_close()
