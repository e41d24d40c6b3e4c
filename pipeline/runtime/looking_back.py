"""`headrace why`: a list that was published once is made again from snapshots and log, with all its reasons.

It reads and changes nothing, beside a learner that may be running: from the
newest snapshot before the list's epoch everything is learned again up to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import chain, takewhile
from typing import Any

import msgspec

from pipeline.epochs.base import Base, base_of
from pipeline.epochs.processor import Applied, Processor
from pipeline.epochs.replay import RecoveryRefused, gone, named, replay
from pipeline.epochs.rewinding import Undone
from pipeline.epochs.snapshot import ChosenSnapshots
from pipeline.epochs.tail import Tail
from pipeline.learning.explaining import Action, Why, why
from pipeline.messages import Manifest, Output, Recommendations
from pipeline.runtime.erasure import Reading
from pipeline.runtime.scanning import scanned
from pipeline.settings import Settings
from pipeline.showing import utc

FOREVER = 2**63 - 1


class NothingToExplain(ValueError):
    """There is no such list, or no such item."""


@dataclass(frozen=True)
class Published:
    """A list as it was published, and its bytes."""

    listed: Recommendations
    raw: bytes


@dataclass
class Answer:
    """A list and why: `since` is the epoch of the snapshot that all was learned again from.

    `exact`: the epoch came to the digest that its manifest has. `as_published`:
    the list came out byte for byte as the topic has it; None where it has it no more.
    """

    listed: Recommendations
    since: int
    exact: bool
    as_published: bool | None
    whys: list[Why] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """For JSON."""
        listed = msgspec.to_builtins(self.listed)
        whys = [asdict(one) | {"scorers": msgspec.to_builtins(one.scorers)} for one in self.whys]
        return {"list": listed, "since": self.since, "exact": self.exact, "as_published": self.as_published} | {
            "why": whys
        }

    def told(self, whole: bool) -> str:
        """For a person; `whole` has all that is known of each item, else the strongest reasons of each."""
        listed = self.listed
        lines = [
            f"{listed.user_id}, list {listed.list} of epoch {listed.epoch}, {utc(listed.generated_at)}, after event "
            f"{listed.trigger_event_id or 'none'}, {listed.model_version}",
            f"learned again from {f'the snapshot of epoch {self.since}' if self.since else 'the beginning'}: "
            f"{self._likeness()}",
        ]
        for one in self.whys:
            lines += _whole(one) if whole else [_in_short(one)]
        return "\n".join(lines)

    def _likeness(self) -> str:
        if self.as_published is None:
            return "the topic holds that list no more" + ("; the digest is the manifest's" if self.exact else "")
        if self.as_published:
            return "the list is the published one, byte for byte"
        return "NOT the bytes that were published" + (
            "" if self.exact else ": other software, hardware or settings than then"
        )


def look_back(
    reading: Reading,
    user: str,
    items: tuple[str, ...] = (),
    name: str = "home",
    at: int | None = None,
    pairs: int = 4,
    progress: Callable[[str], None] = lambda text: None,
) -> Answer:
    """The list that was a user's at an epoch (None: now), and why these items, or all it shows, are where they are.

    Raises NothingToExplain, and RecoveryRefused where snapshots and log do not reach back there.
    """
    progress("looking for the list")
    known = published(reading, user, name, FOREVER if at is None else at)
    epoch = known.listed.epoch if known else _searched(reading, user, name, at, progress)
    base, manifests = _begin(reading, epoch)
    progress(f"learning epochs {base.standing.epoch + 1} to {epoch} again")
    found: list[Answer] = []

    def applied(manifest: Manifest, what: Applied) -> None:
        if manifest.epoch == epoch:
            found.append(_explained(base, manifest, what, known, user, name, items, pairs))

    undone = Undone(manifests)
    replay(base.processor, reading.source, manifests, undone, accept_gap=False, exact=False, on_applied=applied)
    if not found:
        raise NothingToExplain(f"epoch {epoch} published no list {name} of {user}")
    return found[0]


def published(reading: Reading, user: str, name: str, at: int) -> Published | None:
    """The last list of a user up to an epoch, as the topic holds it; None where it holds none."""
    topic, key = reading.settings.topic("recommendations"), f"{name}:{user}".encode()
    newest: Published | None = None
    for record in chain.from_iterable(scanned(reading.everything, only=topic)):
        if record.key != key or record.value is None:
            continue
        listed = msgspec.json.decode(record.value, type=Recommendations)
        if listed.epoch <= at and (newest is None or listed.epoch >= newest.listed.epoch):
            newest = Published(listed, record.value)
    return newest


def _searched(reading: Reading, user: str, name: str, at: int | None, progress: Callable[[str], None]) -> int:
    """The epoch of a list that the topic holds no more: compaction keeps the last of each key."""
    if at is None:
        raise NothingToExplain(f"{user}: no list {name} was published for them, or it was taken back")
    base, manifests = _begin(reading, at)
    progress(f"the topic holds no list of theirs so old: looking through epochs {base.standing.epoch + 1} to {at}")
    epochs: list[int] = []

    def applied(manifest: Manifest, what: Applied) -> None:
        if _listed(what.outputs, reading.settings, user, name) is not None:
            epochs.append(manifest.epoch)

    undone = Undone(manifests)
    replay(base.processor, reading.source, manifests, undone, accept_gap=False, exact=False, on_applied=applied)
    if not epochs:
        since = base.standing.epoch + 1
        raise NothingToExplain(f"{user}: no list {name} in epochs {since} to {at}; an earlier one is not held any more")
    return epochs[-1]


def _begin(reading: Reading, epoch: int) -> tuple[Base, Tail]:
    """The newest state before an epoch, and the manifests from there to it. Raises RecoveryRefused."""
    base = base_of(reading.sink, ChosenSnapshots(reading.snapshots, lambda one: one < epoch), reading.fresh)
    manifests = Tail(lambda: takewhile(lambda manifest: manifest.epoch <= epoch, base.manifests))
    first = next(iter(manifests), None)
    if first is None or manifests.last is None or manifests.last.epoch != epoch:
        raise NothingToExplain(f"epoch {epoch}: there is no such epoch yet")
    if first.epoch != base.standing.epoch + 1:
        raise RecoveryRefused(f"the epochs topic begins at epoch {first.epoch}, and no snapshot is left from before")
    if missing := gone(manifests, reading.source.starts()):
        start = f"the snapshot of epoch {base.standing.epoch}" if base.standing.epoch else "an empty state"
        raise RecoveryRefused(
            f"epoch {epoch} is out of reach: from {start} on, the newest before it, the log holds no more what was "
            f"read: {named(missing)}"
        )
    return base, manifests


def _explained(
    base: Base, manifest: Manifest, what: Applied, known: Published | None,
    user: str, name: str, items: tuple[str, ...], pairs: int,
) -> Answer:  # fmt: skip
    processor = base.processor
    raw = _listed(what.outputs, processor.settings, user, name)
    if raw is None:
        raise NothingToExplain(f"epoch {manifest.epoch} published no list {name} of {user}")
    listed = msgspec.json.decode(raw, type=Recommendations)
    same = None if known is None else known.raw == raw
    exact = what.state_digest == manifest.state_digest
    answer = Answer(listed, base.standing.epoch, exact, same)
    answer.whys = _whys(processor, listed, user, name, items or tuple(row.item_id for row in listed.items), pairs)
    return answer


def _whys(
    processor: Processor, listed: Recommendations, user: str, name: str, items: tuple[str, ...], pairs: int
) -> list[Why]:
    row = processor.learner.users.ids.find(user)
    if row < 0 or not items:
        return []
    try:
        return why(processor.learner, row, name, listed.generated_at, items, pairs)
    except KeyError as error:
        raise NothingToExplain(f"item {error.args[0]}: not known in epoch {listed.epoch}") from None


def _listed(outputs: list[Output], settings: Settings, user: str, name: str) -> bytes | None:
    topic, key = settings.topic("recommendations"), f"{name}:{user}".encode()
    return next((o.value for o in outputs if (o.topic, o.key) == (topic, key) and o.value is not None), None)


def _in_short(one: Why) -> str:
    scorers = ", ".join(f"{reason.name} {reason.contribution:+.3f}" for reason in one.scorers[:3])
    strongest = sorted(one.actions, key=lambda action: -abs(action.contribution))[:2]
    acts = ", ".join(f"{_act(action)} {action.contribution:+.3f}" for action in strongest)
    return f"{one.place or '–':>3}  {one.score:8.4f}  {one.item_id}: {scorers}" + (f"; by {acts}" if acts else "")


def _whole(one: Why) -> list[str]:
    if one.place is not None:
        stands = f"place {one.place} by its score"
    else:
        stands = f"not shown: {one.barred or 'not among the candidates'}; its score if it stood last among them"
    lines = [f"{one.item_id}: {stands}, {one.score:.4f}", "  what each scorer adds:"]
    lines += [f"    {reason.contribution:+.4f}  {reason.name}, weight {reason.weight:.3f}" for reason in one.scorers]
    lines += ["  what each past action adds (Shapley value):", f"    {one.base:+.4f}  without any of them"]
    by_size = sorted(one.actions, key=lambda action: -abs(action.contribution))
    return lines + [f"    {a.contribution:+.4f}  {_act(a)}, {utc(a.time)}" for a in by_size]


def _act(action: Action) -> str:
    return f"{action.event_type} {action.item_id}" if action.item_id is not None else f"{action.event_type} (text)"


def as_json(answer: Answer) -> str:
    """One line."""
    return json.dumps(answer.row())
