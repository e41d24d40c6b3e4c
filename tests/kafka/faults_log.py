"""The log and the software: events deleted that a start needs, and starts under other versions and thread counts."""

from __future__ import annotations

import re
import shutil
import signal
from contextlib import closing
from importlib.metadata import distribution
from pathlib import Path

from committed_log import Place
from crashing import World
from faults import Trial, learns_on, reads_on
from kafka import KafkaAdminClient, TopicPartition
from oracle import Report
from service import ROOT

RANGE = re.compile(r"(\S+)-(\d+):? \[(\d+), (\d+)\)")


def retention(trial: Trial) -> Report:
    """Events go that were not learned yet, or that are needed to replay epochs since the snapshot.

    A start without leave refuses, names what is missing, exits 1 and changes nothing; with --accept-gap it goes on.
    """
    world = trial.found(epochs={"snapshot_interval_s": 600, "replay_s": 0})
    with trial.busy(), closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        service = trial.live()
        for number in range(trial.times):
            service.wait_ready()
            reads_on(service)
            trial.pause(0.5, 2)
            service.kill()
            unread = number % 2 == 0
            gone = _delete_events(world, admin, unread=unread)
            _is_refused(world, gone, unread=unread)
            trial.strike("gaps of unread events" if unread else "gaps behind the snapshot")
            service = trial.live("--accept-gap")
        service.wait_ready()
        reads_on(service)
        service.kill()
    with world.run() as last:  # needs no leave: the state after a gap was written down
        return world.finish(last)


def _delete_events(world: World, admin: KafkaAdminClient, *, unread: bool) -> dict[Place, tuple[int, int]]:
    """Delete what was read, or all there is; gives for each partition what was read to, and where it begins now."""
    topic, settings = world.settings.topic("events"), world.settings
    # Whatever a killed learner's transaction did, it is over before its successor reads on.
    world.end_transaction()
    log = world.keep()
    places = log.places([topic])
    read = log.committed(f"{settings.namespace}.learner.{settings.instance}", places)
    gone = {place: (read[place] or 0, log.end(place) if unread else read[place] or 0) for place in places}
    admin.delete_records({TopicPartition(*place): start for place, (_, start) in gone.items()})
    return gone


def _is_refused(world: World, gone: dict[Place, tuple[int, int]], *, unread: bool) -> None:
    with world.run() as refused:
        assert refused.wait(120) == 1, refused.said
        line = refused.said.splitlines()[-1]
        assert "Traceback" not in refused.said
    assert line.startswith("headrace: "), line
    assert "--accept-gap" in line, f"{line}\ngone are {gone}"
    of_unread, _, of_read = line.partition("what past epochs read, and this start must read again, is gone")
    found = RANGE.findall(of_unread if unread else of_read)
    named = {(topic, int(number)): (int(a), int(b)) for topic, number, a, b in found}
    if unread:
        expected = {place: (read, start) for place, (read, start) in gone.items() if read < start}
        assert "events that were not read yet are gone" in line, line
        assert named == expected, f"{line}\ngone are {expected}"
    else:
        assert named.keys() <= gone.keys(), line
        assert named, line


def versions(trial: Trial) -> Report:
    """Restarts under other versions and thread counts, in peace and by SIGKILL; each change resets the digests, and
    nothing else does.
    """
    world = trial.found()
    chosen, changes = ("0.1.0", 1), 0
    with trial.busy() as traffic:
        for number in range(trial.times + 1):
            before, chosen = chosen, (trial.chance.choice(("0.1.0", "0.2.0", "1.0.0")), trial.chance.choice((1, 2)))
            if number % 4 == 3:
                chosen = before
            changes += number > 0 and chosen != before
            variables = {"HEADRACE__LEARNING__THREADS": str(chosen[1])} | _released(world.folder, chosen[0])
            with world.run(variables=variables) as service:
                service.wait_ready()
                learns_on(service)
                trial.pause(0, 2)
                if number == trial.times:
                    traffic.finish()
                    report = world.finish(service)
                elif trial.chance.random() < 0.5:
                    service.process.send_signal(signal.SIGTERM)
                    assert service.wait(30) == 0, service.said
                    trial.strike("clean restarts")
                else:
                    service.kill()
                    trial.strike("SIGKILLs")
    assert report.resets == changes, f"{changes} changes of version or threads, {report.resets} digest resets"
    return report


def _released(folder: Path, version: str) -> dict[str, str]:
    """Variables under which the package's metadata say that it is this version: a copy of them, found first."""
    here = folder / "releases" / version
    copied = here / f"headrace-{version}.dist-info"
    if not copied.exists():
        original = next(file for file in distribution("headrace").files or () if file.name == "METADATA").locate()
        copied.mkdir(parents=True)
        text = re.sub(r"(?m)^Version: .*$", f"Version: {version}", Path(str(original)).read_text("utf-8"), count=1)
        (copied / "METADATA").write_text(text, "utf-8")
        shutil.copy(Path(str(original)).with_name("entry_points.txt"), copied)
    # Without the working folder, where an editable installation leaves metadata of its own.
    return {"PYTHONPATH": f"{here}:{ROOT}", "PYTHONSAFEPATH": "1"}
