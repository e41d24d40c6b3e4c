"""Which encoder the settings ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline import settings
from pipeline.encoding.hashing import HashingEncoder
from pipeline.ports import Encoder


class LateEncoder:
    """An encoder that is built when it is first asked for anything; what building raises comes then. Not thread-safe.

    >>> late = LateEncoder(lambda: HashingEncoder(64))
    >>> late.width
    64
    """

    def __init__(self, build: Callable[[], Encoder]) -> None:
        """`build` is called once, or until it returns."""
        self._build = build

    @cached_property
    def _encoder(self) -> Encoder:
        return self._build()

    @property
    def identity(self) -> str:
        """The identity of the encoder that is built."""
        return self._encoder.identity

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self._encoder.width

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the encoder that is built."""
        return self._encoder.encode(texts)


def check_model(encoding: settings.Encoding) -> None:
    """Whether there is such a model, without loading it; raises `model_files.UnusableModel`."""
    if _hashing(encoding.model) is None:
        from pipeline.encoding.model_files import locate

        locate(encoding.model)


def build_encoder(encoding: settings.Encoding) -> Encoder:
    """`hashing` or `hashing-WIDTH` gives a HashingEncoder, anything else a TransformerEncoder.

    Raises `model_files.UnusableModel`.

    >>> build_encoder(settings.Encoding(model="hashing-64")).width
    64
    """
    if hashing := _hashing(encoding.model):
        return HashingEncoder(int(hashing[1] or 256))
    # Importing transformers takes seconds, for nothing if there is no model to load.
    from pipeline.encoding.transformer import TransformerEncoder

    return TransformerEncoder(encoding)


def _hashing(model: str) -> re.Match[str] | None:
    return re.fullmatch(r"hashing(?:-([1-9]\d{0,4}))?", model)
