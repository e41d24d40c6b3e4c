"""The command line: exit codes, errors told in one line, help, and the report of a backtest."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer
from typer.testing import CliRunner

from pipeline.ports import Fenced
from pipeline.runtime import service
from pipeline.runtime.broker import Broker
from pipeline.runtime.cli import app

COMMANDS = ["run", "broker", "publish", "evaluate", "dump", "demo", "rewind", "erase", "why", "doctor"]
METRICS = {
    "n", "hr", "ndcg", "recall", "precision", "f1", "mrr", "auc", "coverage", "gini", "last_half_ndcg", "new_item_n",
    "new_item_ndcg", "new_user_n", "new_user_ndcg", "events_per_second", "seconds", "peak_rss_mb",
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No headrace.yaml of the working folder, no settings of the environment."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("HEADRACE__"):
            monkeypatch.delenv(name)


def told(arguments: Sequence[str], code: int) -> str:
    """What a command that fails says: one line."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("headrace: ")
    return lines[0]


@contextmanager
def started(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.runtime.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def lines(path: Path, *messages: Any) -> Path:
    path.write_text("".join(f"{m if isinstance(m, str) else json.dumps(m)}\n" for m in messages), "utf-8")
    return path


def event(n: int, **more: Any) -> dict[str, Any]:
    return {"event_type": "like", "user_id": f"u{n % 7}", "item_id": f"i{n * n % 13}", "timestamp": n * 1000, **more}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_an_example(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert f"Example: headrace {command}" in done.output
    assert "--debug" in done.output


def test_help_names_the_commands_and_version_says_which() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    assert all(f"  {command} " in done.output for command in COMMANDS)
    assert re.fullmatch(r"headrace \d+\.\d+\.\d+\S*\n", CliRunner().invoke(app, ["--version"]).output)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--stage", "trainer"], "--stage: must be embedder or learner, not 'trainer'"),
        (["run", "--bootstrap", "nowhere"], "settings: kafka.bootstrap: must be HOST:PORT"),
        (["run", "--config", "none.yaml"], "none.yaml: No such file or directory"),
        (["run", "--metrics-port", "70000"], "metrics.port: must be at most 65535 (given: 70000, by --port)"),
        (["broker", "--kind", "rabbit"], "--kind: must be auto, kafka or embedded"),
        (["broker", "--nodes", "2"], "--nodes: must be 1, or 3 to 5, not 2"),
        (["broker", "--nodes", "3", "--kind", "embedded"], "--nodes: the embedded broker has one only"),
        (["demo", "--broker", "rabbit"], "--broker: must be auto, kafka or embedded"),
        (["publish", "none.jsonl", "--topic", "events"], "none.jsonl: no such file"),
        (["publish", "here.jsonl"], "--topic: needed, since the name of here.jsonl does not say"),
        (["publish", "-"], "--topic: needed, since the name of - does not say"),
        (["publish", "here.jsonl", "--topic", "evnets"], "not evnets; did you mean events?"),
        (
            ["publish", "here.jsonl", "--topic", "other.events.v1"],
            "must be events, items or users, not other.events.v1",
        ),
        (["publish", "here.jsonl", "--topic", "events", "--rate", "0"], "--rate: must be above 0"),
        (["publish", "here.jsonl", "--from", "shopify"], "--from: must be one of gorse, metarank, segment, ga4, table"),
        (["publish", "here.jsonl", "--from", "table"], "--mapping: a table needs a mapping"),
        (["publish", "here.jsonl", "--from", "gorse", "--topic", "events"], "--topic: what --from reads goes to"),
        (["publish", "here.jsonl", "--topic", "events", "--dry-run"], "--dry-run: only with --from"),
        (["evaluate"], "--events: needed unless --plan is given"),
        (["evaluate", "--events", "none.jsonl"], "none.jsonl: no such file"),
        (
            ["evaluate", "--events", "here.jsonl", "--peers", "oracle"],
            "--peers: unknown oracle; known: popularity, item-item",
        ),
        (["evaluate", "--events", "here.jsonl", "--report", "no/r.json"], "no/r.json: there is no such folder"),
        (["evaluate", "--events", "-", "--items", "-"], "only one of them can be standard input"),
    ],
)
def test_bad_usage_and_settings_are_exit_2_and_named(arguments: list[str], said: str) -> None:
    Path("here.jsonl").write_text("{}\n")
    assert said in told(arguments, 2)


def test_unknown_keys_are_named_wherever_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("headrace.yaml").write_text("kafka: {bootstrp: 'a:1'}\n")
    assert "unknown key kafka.bootstrp; did you mean kafka.bootstrap? (by headrace.yaml)" in told(
        ["dump", "--out", "x"], 2
    )
    Path("headrace.yaml").unlink()
    monkeypatch.setenv("HEADRACE__KAFAK__BOOTSTRAP", "a:1")
    assert "did you mean kafka? (by HEADRACE__KAFAK__BOOTSTRAP)" in told(["dump", "--out", "x"], 2)


def test_a_device_that_is_not_there_is_a_setting_to_change() -> None:
    Path("headrace.yaml").write_text("learning: {device: 'cuda:97'}\n")
    Path("here.jsonl").write_text("{}\n")
    assert "learning.device: cuda:97 cannot be used here: " in told(["evaluate", "--events", "here.jsonl"], 2)


@pytest.mark.parametrize("arguments", [["--nope"], ["nope"], ["publish"], ["run", "--metrics-port", "x"]])
def test_what_is_no_command_line_at_all_is_exit_2(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "arguments", [["run"], ["publish", "events.jsonl"], ["dump", "--out", "x"]], ids=lambda arguments: arguments[0]
)
def test_a_broker_that_does_not_answer_is_told_within_seconds(arguments: list[str]) -> None:
    Path("events.jsonl").write_text('{"user_id":"u"}\n')
    ports = ["--metrics-port", "0"] if arguments[0] == "run" else []
    began = time.monotonic()
    with started(*arguments, *ports, "--bootstrap", "127.0.0.1:1") as process:
        out, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert err.strip().splitlines()[-1] == (
        "headrace: Kafka at 127.0.0.1:1 does not answer; kafka.bootstrap and --bootstrap say where it is"
    )
    assert "Traceback" not in out + err
    assert time.monotonic() - began < 60


def test_a_learner_that_was_overtaken_has_an_exit_status_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(*_: object, **__: object) -> None:
        raise Fenced("instance b has taken over this shard")

    monkeypatch.setattr(service, "serve", serve)
    assert told(["run"], 3) == "headrace: instance b has taken over this shard"


def test_debug_shows_the_traceback() -> None:
    done = CliRunner().invoke(app, ["run", "--stage", "x", "--debug"])
    assert done.exit_code == 2
    assert done.stderr.strip().splitlines()[-1].startswith("headrace: --stage")


def test_evaluate_reports_every_learner_with_the_contracts_keys(tmp_path: Path) -> None:
    events = lines(tmp_path / "e.jsonl", *(event(n) for n in range(120)), "nonsense", event(1, item_id=None))
    items = tmp_path / "i.jsonl.gz"
    with gzip.open(items, "wt") as out:
        out.writelines(json.dumps({"item_id": f"i{n}"}) + "\n" for n in range(13))
    arguments = ["evaluate", "--events", str(events), "--items", str(items), "--k", "5", "--report", "r.json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(Path("r.json").read_text())
    assert list(report["learners"]) == ["headrace", "popularity", "item-item"]
    for name, found in report["learners"].items():
        assert set(found) == METRICS, name
        assert (found["seconds"] is None) == (name != "headrace")
    assert report["k"] == 5
    assert report["learners"]["headrace"]["n"] == report["learners"]["popularity"]["n"] > 50
    assert report["learners"]["headrace"]["events_per_second"] > 0
    assert report["learners"]["headrace"]["peak_rss_mb"] > 10
    assert report["refused_lines"] == 2
    assert report["refused"][0].startswith(f"{events} line 121: ")
    assert f"refused: {events} line 122: item_id: missing" in done.stderr
    assert "headrace" in done.stdout
    assert "ndcg@5" in done.stdout


@pytest.mark.parametrize(("peers", "learners"), [("none", ["headrace"]), ("popularity", ["headrace", "popularity"])])
def test_evaluate_scores_the_peers_asked_for_and_needs_no_items(
    tmp_path: Path, peers: str, learners: list[str]
) -> None:
    events = lines(tmp_path / "e.jsonl", *(event(n) for n in range(60)))
    arguments = ["evaluate", "--events", str(events), "--peers", peers, "--report", "r.json", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert list(json.loads(Path("r.json").read_text())["learners"]) == learners
    assert json.loads(done.stdout) == json.loads(Path("r.json").read_text())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no usable event; it is empty"),
        (b"nope\n[]\n", "no usable event; {path} line 1: "),
        (gzip.compress(b'{"user_id":"u"}\n' * 999, mtime=0)[:-30], "{path}: line "),
    ],
)
def test_evaluate_says_which_line_of_a_bad_file_is_bad(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(content)
    assert said.format(path=path) in told(["evaluate", "--events", str(path)], 1)


def test_a_plan_that_is_none_is_named_by_line(tmp_path: Path) -> None:
    plan = lines(tmp_path / "p.jsonl", "{}")
    assert f"{plan} line 1: neither a dumped record nor a manifest" in told(["evaluate", "--plan", str(plan)], 1)


def _wait_until_it_waits(pid: int) -> None:
    """Until a process has read an empty pipe for a while: imports read those of their helpers, but briefly.

    Where Linux does not tell, until it has long been idle.
    """
    used, idle, deadline = -1.0, 0.0, time.monotonic() + 120
    while time.monotonic() < deadline:
        where, now = Path(f"/proc/{pid}/wchan").read_text(), psutil.Process(pid).cpu_times().user
        still = now > 1 and now - used < 0.02
        if not still:
            idle = 0.0
        elif "pipe_read" in where or where in ("", "0"):
            idle += 1 if "pipe_read" in where else 0.3
        if idle >= 12:
            return
        used = now
        time.sleep(0.25)
    raise AssertionError(f"process {pid} does not wait for input: {where}")


def test_evaluate_reads_standard_input_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    with started("evaluate", "--events", "-", "--peers", "none") as process:
        out, err = process.communicate("".join(json.dumps(event(n)) + "\n" for n in range(60)), timeout=90)
        assert (process.returncode, err) == (0, "")
        assert "60 events" in out
    with started("evaluate", "--events", "-", "--peers", "none") as process:
        _wait_until_it_waits(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "Traceback" not in err


def test_publish_reads_standard_input_and_counts_what_it_refuses(broker: Broker, namespace: str) -> None:
    where = ["--bootstrap", broker.bootstrap, "--namespace", namespace]
    with started("publish", "-", "--topic", "events", *where) as process:
        out, err = process.communicate('{"user_id":"a","n":1}\nnope\n{"user_id":"b","n":2}\n', timeout=90)
    assert process.returncode == 1
    assert f"-: 2 lines to {namespace}.events.v1 in " in out
    assert err.splitlines() == ["-: line 2 refused: is not a JSON object", "headrace: 1 lines were refused"]
    consumer = KafkaConsumer(
        f"{namespace}.events.v1", bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest",
        consumer_timeout_ms=3000,
    )  # fmt: skip
    assert sorted((record.key, record.value) for record in consumer) == [
        (b"a", b'{"user_id":"a","n":1}'),
        (b"b", b'{"user_id":"b","n":2}'),
    ]
    consumer.close()


EXPORTS = Path(__file__).parent / "consumers" / "exports"


def test_publish_from_another_system_tells_what_would_be_published(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["publish", str(EXPORTS / "segment.jsonl"), "--from", "segment", "--dry-run"])
    assert done.exit_code == 1
    told, *lines_told = done.output.splitlines()
    assert told.startswith(f"{EXPORTS / 'segment.jsonl'}: 17 events, 4 items, 3 users, 1 of page left out, 1 of track")
    assert told.endswith(" left out, 8 rows that could not be used")
    assert f"{EXPORTS / 'segment.jsonl'}: line 25: timestamp: missing" in lines_told
    assert lines_told[-1] == "headrace: 8 rows could not be used"
    bad = lines(tmp_path / "bad.jsonl", {"UserId": "u"}, {"Nothing": 1})
    done = CliRunner().invoke(app, ["publish", str(bad), "--from", "gorse", "--dry-run"])
    assert done.exit_code == 1
    assert f"{bad}: line 2: has none of FeedbackType, ItemId and UserId" in done.output
    gaps = lines(tmp_path / "gaps.jsonl", *[{"UserId": ""}] * 5)
    done = CliRunner().invoke(app, ["publish", str(gaps), "--from", "gorse", "--dry-run"])
    assert f"{gaps}: 5 rows in all: UserId: missing" in done.output
    assert "line 4" not in done.output
    sorts = lines(tmp_path / "sorts.jsonl", *({"type": "track", "event": f"Sort {n}"} for n in range(13)))
    done = CliRunner().invoke(app, ["publish", str(sorts), "--from", "segment", "--dry-run"])
    assert "1 of track Sort 9 left out, 3 of 3 other sorts left out, 0 rows that" in done.output


def test_run_says_when_it_is_ready_and_when_it_has_stopped(broker: Broker, namespace: str, tmp_path: Path) -> None:
    where = ["--bootstrap", broker.bootstrap, "--namespace", namespace, "--metrics-port", "0"]
    process_arguments = ["run", "--stage", "learner", *where, "--snapshots", str(tmp_path / "s")]
    with started(*process_arguments) as process:
        assert process.stderr is not None
        heard: list[str] = []
        for line in process.stderr:
            heard.append(line)
            if "ready:" in line:
                break
        assert re.search(r"ready: reading 20 partitions, epoch \d+$", heard[-1].strip()), heard
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
        producer.send(f"{namespace}.events.v1", json.dumps(event(1)).encode(), b"u").get(30)
        producer.close()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=30)
    assert process.returncode == 0
    assert rest.strip().endswith("pipeline.runtime.service: stopped")
    log = "".join(heard) + rest
    assert "Uvicorn" not in log
    assert "Traceback" not in log


def test_a_taken_metrics_port_is_exit_2_and_names_the_key(broker: Broker, namespace: str) -> None:
    port = broker.bootstrap.partition(":")[2]
    with started("run", "--bootstrap", broker.bootstrap, "--namespace", namespace, "--metrics-port", port) as process:
        _, err = process.communicate(timeout=90)
    assert process.returncode == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith(
        f"headrace: metrics.port, metrics.host: cannot listen on 127.0.0.1:{port}: Address already in use"
    )


def test_the_brokers_address_goes_through_a_pipe_at_once(tmp_path: Path) -> None:
    with started("broker", "--port", "0") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert re.search(r"127\.0\.0\.1:\d+", first), first
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert (tmp_path / "kafka-data" / "kafka" / "meta.properties").exists()  # what was published is there tomorrow


def test_three_nodes_are_told_and_end_with_the_command() -> None:
    with started("broker", "--port", "0", "--nodes", "3", "--temporary") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        addresses = re.findall(r"127\.0\.0\.1:\d+", first)
        assert len(set(addresses)) == 3, first
        consumer = KafkaConsumer(bootstrap_servers=addresses)
        assert len(consumer._client.cluster.brokers()) == 3
        consumer.close()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in out + err
    assert all(socket_refuses(address) for address in addresses)


def socket_refuses(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0
