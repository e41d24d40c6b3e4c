"""A toy in the learner's place: scores of the demo's films that follow what was done, and numbers that walk about."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STRENGTH = {"view": 0.4, "like": 1.0, "purchase": 1.2, "dislike": -1.1, "search": 0.9}

Json = dict[str, Any]


def films() -> list[Json]:
    """The demo's items."""
    with gzip.open(ROOT / "config" / "demo" / "items.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


class Taste:
    """A toy in place of the learner: what an action adds to an item's score, and which scorers say so."""

    def __init__(self, items: list[Json]) -> None:
        self.items = {item["item_id"]: item for item in items}
        draw = random.Random(7)
        self.base = {item_id: round(draw.betavariate(2, 5) * 1.6, 4) for item_id in self.items}
        self.mix = {item_id: (draw.uniform(0.35, 0.6), draw.uniform(0.1, 0.3)) for item_id in self.items}

    def added(self, action: Json, item: Json, age: int) -> float:
        """What one action adds to one item."""
        return round(STRENGTH.get(action["event_type"], 0.3) * 0.93**age * self._near(action, item), 4)

    def _near(self, action: Json, item: Json) -> float:
        own = set(item["categories"])
        if action.get("item_id") is None:
            words = set(re.findall(r"\w+", action.get("text", "").lower()))
            told = set(re.findall(r"\w+", " ".join([item["title"], *item["categories"]]).lower()))
            return 1.8 * len(words & told) / (len(words) or 1)
        liked = self.items.get(action["item_id"])
        if liked is None:
            return 0.0
        theirs = set(liked["categories"])
        years = abs(liked.get("attributes", {}).get("year", 2000) - item.get("attributes", {}).get("year", 2000))
        return 1.5 * len(own & theirs) / (len(own | theirs) or 1) * math.exp(-years / 30) - 0.08

    def explained(self, actions: list[Json], item_id: str) -> Json:
        """As /v1/why tells it."""
        item = self.items[item_id]
        ages = range(len(actions) - 1, -1, -1)
        parts = [self.added(action, item, age) for action, age in zip(actions, ages, strict=True)]
        base, learned = self.base[item_id], sum(parts)
        together, about = self.mix[item_id]
        told = {
            "neighbours": together * learned,
            "content": about * learned,
            "interest": 0.3 * learned,
            "companions": 0.08 * learned,
            "popularity": base * 1.2,
            "impressions": -0.02 * base,
        }
        score = base + learned
        told["interaction"] = score - sum(told.values())
        return {
            "item_id": item_id,
            "title": item["title"],
            "score": score,
            "base": base,
            "scorers": [
                {"name": n, "weight": 0.4 + 0.1 * i, "contribution": c} for i, (n, c) in enumerate(told.items())
            ],
            "actions": [
                {
                    "event_type": action["event_type"],
                    "item_id": action.get("item_id"),
                    "title": self.items.get(action.get("item_id"), {}).get("title"),
                    "time_ms": action["timestamp"],
                    "contribution": part,
                }
                for action, part in zip(actions, parts, strict=True)
            ],
        }


class Numbers:
    """Statistics that walk about plausibly, one point a second."""

    def __init__(self) -> None:
        self._random = random.Random(11)
        self.quality = {"headrace": 0.02, "item-item": 0.015, "popularity": 0.03}
        self.aims = {"headrace": 0.187, "item-item": 0.118, "popularity": 0.098}
        self.weights = {
            "together": 0.92, "interest": 0.81, "next-now": 0.55, "content": 0.5, "popularity-2k": 0.42,
            "companions": 0.38, "ridge": 0.35, "after-any": 0.31, "popularity-stage": 0.22, "lately": 0.2,
            "content-text": 0.18, "factorization": 0.1, "not-passed-over": -0.12, "popularity": -0.28,
        }  # fmt: skip
        self.rate, self.predictions, self.drifts, self.step = 96.0, 900, 0, 0

    def point(self, at: float, rest: Json) -> Json:
        """The next one."""
        draw = self._random
        self.step += 1
        self.rate = min(140.0, max(40.0, self.rate + draw.gauss(0, 5)))
        self.predictions += int(self.rate * 0.6)
        if self.step in (118, 226):
            self.drifts += 1
            self.quality["headrace"] *= 0.86
            self.quality["item-item"] *= 0.8
        for name, aim in self.aims.items():
            self.quality[name] += (aim - self.quality[name]) * 0.03 + draw.gauss(0, 0.0012)
        for name in self.weights:
            self.weights[name] += draw.gauss(0, 0.006)
        p50 = 138 + 14 * math.sin(self.step / 17) + draw.gauss(0, 6)
        return {
            "time": at, "ready": True, "effort": 4, "lag": max(0, int(draw.gauss(6, 5))),
            "events_per_second": round(self.rate, 1), "latency_p50_ms": p50, "latency_p99_ms": p50 * 1.9,
            "predictions": self.predictions, "drifts": self.drifts, "weights": dict(self.weights),
            "quality": {name: {"ndcg": value, "hr": value * 1.7} for name, value in self.quality.items()}, **rest,
        }  # fmt: skip
