"""What happens in a simulated world and when: drawn from a seed, replayed exactly, shrunk by leaving things out."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

USERS = 5
ITEMS = 6
DELAYS = (-1, 0, 1, 2, 3, 5, 8, 13)
CRITICAL = (
    "init", "produce", "offsets", "commit", "committed", "write", "sync", "rename", "sync-names", "remove", "read",
)  # fmt: skip

FAULTS = {
    "crash": 60, "unknown": 5, "lose": 3, "bump": 2, "timeout": 2, "away": 3, "full": 2, "flip": 2, "wipe": 1,
    "clock": 3, "twin": 2, "grow": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Action:
    """From the `at`-th effect on, `what` happens, once it can; `how` says more."""

    at: int
    what: str
    how: Any = None


@dataclass(frozen=True)
class Plan:
    """A world's settings and all that befalls it. In one that `overlaps`, commits go on beside the loop."""

    seed: int
    max_events: int
    linger_ms: int
    snapshot_interval_s: float
    kept: int
    hourly: int
    retention: bool
    efforts: tuple[str, ...]
    overlaps: bool
    actions: tuple[Action, ...]

    def without(self, dropped: range) -> Plan:
        """A smaller plan."""
        return replace(self, actions=self.actions[: dropped.start] + self.actions[dropped.stop :])


def drawn(seed: int, length: int = 110) -> Plan:
    """A plan of so many actions: inputs and faults, about as many of each."""
    chance = random.Random(seed)
    kinds, weights = list(FAULTS), list(FAULTS.values())
    retention = chance.random() < 0.15
    actions: list[Action] = []
    at = 0
    pace = chance.choice((3, 6, 14, 40))
    calm = chance.choice((length, length, length * 4 // 5))
    for number in range(length):
        at += chance.randrange(pace)
        if retention and chance.random() < 0.08:
            actions.append(Action(at, chance.choice(("retain", "retain-late")), chance.randrange(4)))
        elif chance.random() < 0.55:
            actions.append(Action(at, "input", _message(number, chance)))
        elif chance.random() < 0.06:
            messages = [_message(1000 * (number + 1) + n, chance) for n in range(chance.randrange(1, 4))]
            actions.append(Action(at, "upstream", (messages, chance.random() < 0.5, chance.randrange(1, 30))))
        else:
            what = chance.choices(kinds, weights)[0] if number < calm else chance.choice(("clock", "grow", "twin"))
            actions.append(Action(at, what, _how(what, chance)))
    _poison(actions, random.Random(f"poison {seed}"))
    if not retention:
        actions = _with_rewinds(actions, seed)
    beside = random.Random(f"beside {seed}")
    if overlaps := beside.random() < 0.5:
        actions = [_in_a_step(action, beside) for action in actions]
    return Plan(
        seed=seed,
        max_events=chance.choice((1, 2, 3, 7, 64)),
        linger_ms=chance.choice((0, 5)),
        snapshot_interval_s=chance.choice((1e-9, 0.05, 0.5, 1e9)),
        kept=chance.choice((1, 2, 3)),
        hourly=chance.choice((0, 2)),
        retention=retention,
        efforts=tuple(chance.choice(("full", "lean", "1", "2")) for _ in range(4)),
        overlaps=overlaps,
        actions=tuple(actions),
    )


def _poison(actions: list[Action], chance: random.Random) -> None:
    """In some plans a few events are such as end the step, or the process with it: for ever, or once or twice."""
    if chance.random() >= 0.12:
        return
    events = [n for n, action in enumerate(actions) if action.what == "input" and isinstance(action.how[2], dict)]
    events = [n for n in events if actions[n].how[2].get("event_type") == "like"]
    for n in chance.sample(events, min(len(events), chance.randrange(1, 4))):
        topic, key, event = actions[n].how
        bad = event | {"event_type": chance.choice(("poison", "deadly", "moody", "moodier"))}
        actions[n] = replace(actions[n], how=(topic, key, bad))


def _with_rewinds(actions: list[Action], seed: int) -> list[Action]:
    """In one plan of five an operator takes something back, once or several times: (how far, of which item, restore).

    Drawn apart from all else: the other plans are what they were.
    """
    chance = random.Random(f"rewinds of {seed}")
    if not actions or chance.random() < 0.8:
        return actions
    for _ in range(chance.choice((1, 1, 2, 3))):
        item = chance.choice((None, *(f"i{n}" for n in range(ITEMS))))
        at = chance.randrange(actions[-1].at + 1)
        actions.append(Action(at, "rewind", (chance.random(), item, chance.random() < 0.2)))
    return sorted(actions, key=lambda action: action.at)


def _in_a_step(action: Action, chance: random.Random) -> Action:
    """Some crashes come in the middle of a step while the commit of the epoch before it is under way."""
    if action.what == "crash" and chance.random() < 0.2:
        return replace(action, how=(*action.how[:2], "apply"))
    return action


def _how(what: str, chance: random.Random) -> Any:
    match what:
        case "crash":
            # How many effects later a commit request under way arrives (never, if negative), what the disk makes
            # of the crash, and before which kind of effect it comes (any, if None).
            kind = chance.choice(CRITICAL) if chance.random() < 0.5 else None
            return chance.choice(DELAYS), chance.randrange(1 << 30), kind
        case "unknown":
            return chance.choice(DELAYS)
        case "clock":
            return chance.choice((-120_000, -10_000, -500, 700, 5_000, 30_000))
        case "twin":
            return chance.randrange(5, 120)
        case "flip":
            return chance.randrange(1 << 30)
    return None


def _message(number: int, chance: random.Random) -> tuple[str, str | None, Any]:
    """(topic, key, meaning): a dict of what the event says, None for a tombstone, bytes for what cannot be read."""
    user, item = f"u{chance.randrange(USERS)}", f"i{chance.randrange(ITEMS)}"
    pick = chance.random()
    if pick < 0.05:
        return "users", user, None
    if pick < 0.08:
        return "users", user, {"user_id": user}
    if pick < 0.12:
        return "items", item, chance.choice(({"item_id": item}, None, b"{"))
    if pick < 0.17:
        return "events", chance.choice((user, None)), chance.choice((b"{", b"\x00avro", b"[]", b""))
    again = max(0, number - chance.choice((0, 0, 0, 0, 1, 2, 5)))
    event = {"user_id": f"u{again % USERS}", "item_id": item, "event_type": "like"}
    event["ago"] = chance.choice((0, 0, 1, 500, 20_000))
    if pick < 0.22:
        event["ago"] = 7_200_000
    elif pick < 0.25:
        event["ago"] = -3_600_000
    elif pick < 0.33:
        event["event_type"] = "later"
    elif pick < 0.36:
        del event["item_id"]
        event["event_type"] = "search"
    if chance.random() < 0.8:
        event["event_id"] = f"e{again}"
    return "events", event["user_id"], event
