"""The dependency audit finds what it looks for, and never takes a service that does not answer for a clean bill."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from audit import KNOWN_VULNERABLE, ROOT, judged, lines, pinned, unpinned, vulnerabilities

KNOWN = {("jinja2", "2.10"): "GHSA-462w-v97r-4m45", ("msgspec", "0.1"): "GHSA-0000-0000-0000"}


@contextmanager
def osv(known: dict[tuple[str, str], str]) -> Iterator[list[str]]:
    """A service that answers as OSV does, and the arguments that name it."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            found = known.get((asked["package"]["name"], asked["version"]))
            affected = [{"package": {"name": asked["package"]["name"], "ecosystem": "PyPI"}, "ranges": []}]
            fault = {"id": found, "summary": "s", "published": "2019-04-10T14:30:24Z", "affected": affected}
            body = json.dumps({"vulns": [fault]} if found else {}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield ["osv", "--osv-url", f"http://127.0.0.1:{server.server_port}/v1/query"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_known_vulnerability_is_found_and_named() -> None:
    with osv(KNOWN) as service:
        checked = vulnerabilities({"msgspec": "0.1", "tzdata": "2026.6"}, [service])
    assert checked == ("osv", {"msgspec==0.1": ["GHSA-0000-0000-0000"]}, [])
    assert list(judged(checked[1], {})) == [
        "msgspec==0.1: GHSA-0000-0000-0000; upgrade it, or say in tool.audit.accepted of pyproject.toml why not"
    ]
    assert list(judged(checked[1], {"GHSA-0000-0000-0000": "not reached from here"})) == []
    assert list(judged({}, {"GHSA-0": "x"})) == ["tool.audit.accepted: GHSA-0 is no longer found: remove it"]


def test_a_service_that_knows_nothing_or_does_not_answer_is_no_clean_bill() -> None:
    with osv({}) as ignorant, osv(KNOWN) as knowing:
        assert vulnerabilities({"tzdata": "2026.6"}, [ignorant]) is None
        assert vulnerabilities({"tzdata": "2026.6"}, [["osv", "--osv-url", "http://127.0.0.1:1/v1/query"]]) is None
        assert vulnerabilities({"tzdata": "2026.6"}, [ignorant, knowing]) == ("osv", {}, [])
    assert set(KNOWN_VULNERABLE.items()) <= KNOWN.keys()


def test_every_pin_is_exact_and_every_need_is_pinned() -> None:
    text = (ROOT / "constraints.txt").read_text("utf-8")
    assert all(line.count("==") == 1 for line in lines(text))
    pins = pinned(text)
    assert len(pins) == len(lines(text))
    project = {"dependencies": ["msgspec"], "optional-dependencies": {"dev": ["pytest>=8"]}}
    assert list(unpinned(project, pins)) == []
    version = metadata.version("msgspec")
    assert list(unpinned(project, pins | {"msgspec": "0.1"})) == [
        f"msgspec: {version} is installed, constraints.txt pins 0.1"
    ]
    without = {name: pin for name, pin in pins.items() if name != "pluggy"}
    assert [problem.partition(":")[0] for problem in unpinned(project, without)] == ["pluggy"]
    needed = {"dependencies": ["headrace-nowhere"], "optional-dependencies": {}}
    assert list(unpinned(needed, pins)) == ["headrace-nowhere is needed and not installed"]


@pytest.mark.parametrize("path", ["Makefile"])
def test_lint_audits(path: str) -> None:
    lint = (Path(ROOT) / path).read_text("utf-8").split("\nlint:", 1)[1].split("\n\n", 1)[0]
    assert "tests/audit.py" in lint
