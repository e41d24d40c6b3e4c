"""What users' events say of their circumstances: `context` (device, page, anything), hashed, and the clock there.

It is what the last event with a `context` said: of the request that a list
will answer nothing is known when the list is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning.arena import grown
from pipeline.learning.context_kernels import told_features
from pipeline.learning.traits import hashed
from pipeline.messages import Scalar

WORDS = 24
NUMBERS = 4
TOLD = WORDS + NUMBERS

TIMEZONE = "timezone"
SETTLED = 10_000
"""Numbers after which their mean and spread follow an exponential average."""

FAR = 3.0
FIXED_ZONE = re.compile(r"([+-])(\d\d):?(\d\d)$")


@dataclass(frozen=True)
class Told:
    """What N users had last told: a bit per word, numbers as z-scores [N, NUMBERS], minutes east of UTC."""

    word_N: Tensor
    number_NM: Tensor
    zone_N: Tensor

    def __getitem__(self, rows: Tensor) -> Told:
        return Told(self.word_N[rows], self.number_NM[rows], self.zone_N[rows])

    def features(self) -> Tensor:
        """[N, TOLD]: 1 for each hashed word, the hashed numbers."""
        out_NX = torch.empty(len(self.word_N), TOLD)
        told_features(self.word_N.numpy(), self.number_NM.float().numpy(), WORDS, out_NX.numpy())
        return out_NX


def nothing_told(count: int) -> Told:
    """Of users who told nothing."""
    none = torch.zeros(count, dtype=torch.int32)
    return Told(none, torch.zeros(count, NUMBERS, dtype=torch.float16), none.short())


class Circumstances:
    """The last `context` of each user, 14 bytes: words and numbers hashed by key (and word), numbers scaled online."""

    def __init__(self) -> None:
        self.word_U = torch.zeros(64, dtype=torch.int32)
        self.number_UM = torch.zeros(64, NUMBERS, dtype=torch.float16)
        self.zone_U = torch.zeros(64, dtype=torch.int16)
        # Of each hashed number: how many, their mean, their variance.
        self.scale_M3 = torch.zeros(NUMBERS, 3, dtype=torch.float64)

    _ROWS = ("word_U", "number_UM", "zone_U")

    def resize(self, users: int) -> None:
        """Make room for users."""
        for name in self._ROWS:
            setattr(self, name, grown(getattr(self, name), users))

    def of(self, user_N: Tensor) -> Told:
        """What these users told last."""
        return Told(self.word_U[user_N], self.number_UM[user_N], self.zone_U[user_N])

    def take(self, user_B: Tensor, contexts: Sequence[Mapping[str, Scalar]], times: Sequence[int]) -> Told:
        """Note what events say, in order; returns what each one's user had told before it [B]. `times` in ms."""
        before = self.of(user_B)
        now, kept = self._views(self, self._ROWS), self._views(before, Told.__dataclass_fields__)
        scale = self.scale_M3.tolist()
        noted: set[int] = set()
        for b, (user, context, time) in enumerate(zip(user_B.tolist(), contexts, times, strict=True)):
            if user in noted:
                for source, target in zip(now, kept, strict=True):
                    target[b] = source[user]
            if context:
                words, numbers, zone = _said(context, time, scale)
                now[0][user], now[1][user] = words, numbers
                if zone is not None:
                    now[2][user] = zone
                noted.add(user)
        self.scale_M3[:] = torch.tensor(scale, dtype=torch.float64)
        return before

    def move(self, source: int, target: int) -> None:
        """One user is found to be another: what was told under the first name counts, if anything was."""
        if self.word_U[source] != 0 or bool((self.number_UM[source] != 0).any()) or self.zone_U[source] != 0:
            for name in self._ROWS:
                getattr(self, name)[target] = getattr(self, name)[source]

    def forget(self, user: int) -> None:
        """Erase what a user told."""
        for name in self._ROWS:
            getattr(self, name)[user] = 0

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        return {f"circumstances.{name}": getattr(self, name) for name in (*self._ROWS, "scale_M3")}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name in (*self._ROWS, "scale_M3"):
            setattr(self, name, tensors[f"circumstances.{name}"].clone())

    @staticmethod
    def _views(of: object, names: Iterable[str]) -> list[NDArray[Any]]:
        """Tensors as arrays that share their memory: element by element these are sooner read and written."""
        return [getattr(of, name).numpy() for name in names]


def _said(context: Mapping[str, Scalar], time: int, scale: list[list[float]]) -> tuple[int, list[float], int | None]:
    """Bits of words, numbers as z-scores, and minutes east of UTC where a time zone is named; `scale` learns."""
    words, numbers, zone = 0, [0.0] * NUMBERS, None
    for key, value in context.items():
        if key == TIMEZONE and isinstance(value, str):
            minutes = minutes_east(value, time)
            zone = zone if minutes is None else minutes
        elif isinstance(value, str | bool):
            words |= 1 << _bucket(f"{key}={value}", WORDS)
        elif value is not None:
            at = _bucket(key, NUMBERS)
            numbers[at] = _scaled(scale[at], value)
    return words, numbers, zone


def _scaled(scale: list[float], value: int | float) -> float:
    """A number's logarithm, sign kept, as a z-score among those seen so far: how many, their mean, their variance."""
    small = math.copysign(math.log1p(min(abs(value), 1e300)), value)
    count, mean, variance = scale
    share = 1 / min(count + 1, SETTLED)
    away = small - mean
    mean += share * away
    variance = (1 - share) * (variance + share * away * away)
    scale[:] = count + 1, mean, variance
    return max(-FAR, min(FAR, (small - mean) / math.sqrt(variance))) if variance > 1e-12 else 0.0


def minutes_east(name: str, time: int) -> int | None:
    """How far ahead of UTC the clocks of a time zone are at `time` (ms); None if there is no such zone.

    Of the IANA zones as the package `tzdata` has them, whatever the machine's own say, or fixed.

    >>> minutes_east("Europe/Berlin", 1_700_000_000_000), minutes_east("+05:30", 0), minutes_east("Middle/Earth", 0)
    (60, 330, None)
    """
    if fixed := FIXED_ZONE.match(name):
        minutes = int(fixed[2]) * 60 + int(fixed[3])
        return -minutes if fixed[1] == "-" else minutes
    if (zone := _zone(name)) is None:
        return None
    offset = datetime.fromtimestamp(min(max(time, 0) // 1000, 32_503_680_000), UTC).astimezone(zone).utcoffset()
    return None if offset is None else round(offset.total_seconds() / 60)


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo | None:
    if name not in _zones():
        return None
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


@lru_cache(maxsize=65_536)
def _bucket(text: str, buckets: int) -> int:
    return hashed(text) % buckets
