"""Which encoder the settings ask for."""

from __future__ import annotations

import re

from pipeline import settings
from pipeline.encoding.hashing import HashingEncoder
from pipeline.ports import Encoder


def build_encoder(encoding: settings.Encoding) -> Encoder:
    """`hashing` or `hashing-WIDTH` gives a HashingEncoder, anything else a TransformerEncoder.

    Raises `model_files.UnusableModel`.

    >>> build_encoder(settings.Encoding(model="hashing-64")).width
    64
    """
    if hashing := re.fullmatch(r"hashing(?:-([1-9]\d{0,4}))?", encoding.model):
        return HashingEncoder(int(hashing[1] or 256))
    # Importing transformers takes seconds, for nothing if there is no model to load.
    from pipeline.encoding.transformer import TransformerEncoder

    return TransformerEncoder(encoding)
