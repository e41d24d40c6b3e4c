"""Headrace as users run it: a process of its own that is started, watched, killed and asked to stop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from nursery import Child, Nursery
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
READY_S = 120.0
HEADRACE = ("-m", "pipeline.runtime.cli")


def small_settings(bootstrap: str, namespace: str, snapshots: Path, **changed: dict[str, Any]) -> dict[str, Any]:
    """A learner so small that starting Python is most of the work; `changed` holds further keys by section."""
    sections: dict[str, dict[str, Any]] = {
        "kafka": {"bootstrap": bootstrap, "partitions": 3, "transaction_timeout_s": 10},
        "encoding": {"model": "hashing-64"},
        "learning": {"width": 16, "sequence": 16, "neighbours": 32, "interest_steps": 1, "threads": 1},
        "publishing": {"max_age_s": 86400, "similar_interval_s": 5, "trending_interval_s": 5, "min_interval_s": 0},
        "epochs": {"max_events": 64, "snapshot_interval_s": 2, "snapshots": str(snapshots)},
        "metrics": {"port": 0},
    }
    for section, keys in changed.items():
        sections[section] = sections[section] | keys
    return {"namespace": namespace, **sections}


def write_settings(path: Path, settings: dict[str, Any]) -> Path:
    """The settings as the YAML file that --config takes."""
    path.write_text(yaml.safe_dump(settings), "utf-8")
    return path


def headrace(*arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line to its end."""
    command = [sys.executable, *HEADRACE, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT, env=environment()
    )


def environment() -> dict[str, str]:
    """This process's, without settings that happen to be in it, and with this checkout's packages first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE__")}
    return kept | {"PYTHONPATH": str(ROOT)}


class Service:
    """One life of `headrace run`. A context manager that leaves no process behind."""

    def __init__(
        self,
        config: Path,
        log: Path,
        *arguments: str,
        program: Sequence[str] = HEADRACE,
        variables: Mapping[str, str] | None = None,
        nursery: Nursery | None = None,
    ) -> None:
        """Starts at once; what it says is appended to `log`. `variables` are put into its environment.

        A `nursery` starts it in less than a second, with an environment of its own.
        """
        self.log = log
        self._before = log.stat().st_size if log.exists() else 0
        self._port = 0
        words = ["run", "--config", str(config), *arguments]
        self.process: subprocess.Popen[bytes] | Child
        if nursery is not None:
            log.touch()
            self.process = nursery.bear(words, log)
            return
        command = [sys.executable, "-X", "faulthandler", *program, *words]
        kept = environment() | dict(variables or {})
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ROOT, env=kept
            )

    @property
    def said(self) -> str:
        """What this life has written so far."""
        return self.log.read_bytes()[self._before :].decode("utf-8", "replace")

    @property
    def port(self) -> int:
        """Where its pages are; 0 until it has said so."""
        if not self._port and (found := re.search(r"metrics on http://[^:]+:(\d+)/metrics", self.said)):
            self._port = int(found[1])
        return self._port

    def get(self, path: str, token: str = "") -> tuple[int, str]:
        """Status and body of a page; status 0 while nobody listens. `token` is borne, if there is one."""
        if not self.port:
            return 0, ""
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> bool:
        """Whether /readyz says so."""
        return self.get("/readyz")[0] == 200

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Raises AssertionError where it ends, or is not ready in time."""
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            assert self.process.poll() is None, f"headrace run ended with {self.process.returncode}:\n{self.said}"
            assert time.monotonic() < deadline, f"not ready after {timeout_s} s:\n{self.stacks()}"
            time.sleep(0.05)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by name and labels as they are written."""
        samples: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return samples

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(timeout=30)

    def stop_within(self, seconds: float) -> int:
        """SIGTERM; gives the exit code, raises AssertionError where it takes longer."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            took = time.monotonic() - began
            raise AssertionError(f"still there {took:.1f} s after SIGTERM:\n{self.stacks()}") from None

    def stacks(self) -> str:
        """Ends it, and gives what it said, at last where each thread stood."""
        self.process.send_signal(signal.SIGABRT)
        self.process.wait(timeout=30)
        return self.said

    def wait(self, timeout_s: float) -> int:
        """The exit code, once it ends by itself."""
        try:
            return self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.stacks()}") from None

    def __enter__(self) -> Service:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays behind."""
        if self.process.poll() is None:
            self.kill()
