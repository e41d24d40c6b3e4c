"""A real Prometheus on loopback, with the configuration that is shipped, at a pace that tests can wait for."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from monitoring import CONFIG, RULES, tool

from pipeline.runtime.scrape import free_port

READY_S = 20.0


def hurried(folder: Path, target: str, token: str, at_once: Sequence[str]) -> Path:
    """The shipped files with another target, a token, every interval a second; alerts `at_once` wait for no time."""
    bearing = re.sub(r"(?m)^    # (authorization:|  credentials_file:)", r"    \1", CONFIG.read_text("utf-8"))
    config = yaml.safe_load(bearing)
    (folder / "token").write_text(token, "utf-8")
    (scrape,) = config["scrape_configs"]
    scrape["authorization"]["credentials_file"] = str(folder / "token")
    scrape["static_configs"] = [{"targets": [target]}]
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    rules = yaml.safe_load(RULES.read_text("utf-8"))
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        if rule.get("alert") in at_once:
            rule["for"] = "1s"
    (folder / RULES.name).write_text(yaml.safe_dump(rules), "utf-8")
    written = folder / CONFIG.name
    written.write_text(yaml.safe_dump(config), "utf-8")
    return written


class Prometheus:
    """One life of it. A context manager that leaves no process behind."""

    def __init__(self, config: Path, folder: Path) -> None:
        self._log = folder / "prometheus.log"
        self._url = f"http://127.0.0.1:{(port := free_port())}"
        command = [
            tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
        ]  # fmt: skip
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def ask(self, path: str, **parameters: str) -> Any:
        """What the API answers; raises AssertionError, with its reason, where it refuses."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/{path}{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None

    def values(self, expression: str) -> list[float]:
        """The values that an expression has now, NaN included."""
        return [float(series["value"][1]) for series in self.ask("query", query=expression)["result"]]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"}

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it comes true in time; raises AssertionError where Prometheus ends."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text("utf-8")
            if condition():
                return True
            time.sleep(0.5)
        return False

    def __enter__(self) -> Prometheus:
        """Itself, once it answers."""
        assert self.wait_for(self._answers, READY_S), self._log.read_text("utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays behind."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self._url}/-/ready", timeout=2).status == 200
        except OSError:
            return False
