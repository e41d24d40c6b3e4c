"""Texts per second of the encoder, against the bare matrix products of its own shapes.

    python tests/benchmarks/encoder.py --data DIR [--texts N] [--rounds N] [--threads 1]

DIR holds items.jsonl.gz, see `convert.py`. Its items' texts are embedded as they are (title and
genres, "short"), and with the titles of some others in place of a description ("long"). The bare
loop does nothing but the products of all layers for the very same batches and tokens: query, key
and value in one, attention's output, up and down, in bfloat16, with the weights laid out as a
Linear has them and the other way round; the faster of both is what counts. Encoder and bare loop
follow each other in every round. Time is that of the processor, tokenising included: with one
thread, what else runs on the machine is no part of it. Of the same FLOP the ratio of the rates is
that of the times.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from consumers.decoding import JsonDecoder
from consumers.file import read_jsonl
from pipeline.encoding.text import item_text
from pipeline.encoding.transformer import TransformerEncoder
from pipeline.messages import Item, Record
from pipeline.settings import Encoding

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Round:
    """Processor seconds for the same texts."""

    encoder: float
    bare: float
    bare_transposed: float

    @property
    def ratio(self) -> float:
        """Of the faster bare loop's rate."""
        return min(self.bare, self.bare_transposed) / self.encoder

    @property
    def ratio_as_linear(self) -> float:
        """Of the rate of products with the weights as a Linear has them."""
        return self.bare / self.encoder


def texts_of(data: Path, count: int, seed: int) -> dict[str, list[str]]:
    """Texts of so many items, drawn at random, by name."""
    decode = JsonDecoder({"items": "items"})
    items = [decode(Record("items", 0, 0, 0, None, line)) for _, line in read_jsonl(data / "items.jsonl.gz")]
    chance = random.Random(seed)
    known = [item for item in items if isinstance(item, Item)]
    drawn = chance.sample(known, min(count, len(known)))
    short = [item_text(item) for item in drawn]
    long = [". ".join([text, *(chance.choice(short) for _ in range(chance.randrange(2, 8)))]) for text in short]
    return {"short": short, "long": long}


def processor_seconds(work: Callable[[], object]) -> float:
    """Of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def batches_of(encoder: TransformerEncoder, texts: Sequence[str], size: int) -> list[int]:
    """Tokens of each batch, as the encoder makes them."""
    lengths = sorted((len(ids) for ids in encoder._tokenize(texts)), reverse=True)
    return [sum(lengths[start : start + size]) for start in range(0, len(lengths), size)]


def products(batches: Sequence[int], width: int, inner: int, layers: int, transposed: bool) -> float:
    """Processor seconds of the bare products alone; inputs and weights were made before."""
    shapes = ((width, 3 * width), (width, width), (width, inner), (inner, width))
    weights = [[torch.randn(i, o).bfloat16() for i, o in shapes] for _ in range(layers)]
    if not transposed:
        weights = [[weight.t().contiguous().t() for weight in layer] for layer in weights]
    seconds = 0.0
    for tokens in batches:
        inputs = [torch.randn(tokens, i).bfloat16() for i, _ in shapes]
        began = time.process_time()
        for layer in weights:
            for hidden, weight in zip(inputs, layer, strict=True):
                torch.mm(hidden, weight)
        seconds += time.process_time() - began
    return seconds


def measured(encoder: TransformerEncoder, texts: list[str], size: int) -> Round:
    """One round."""
    config = encoder._model.config
    batches = batches_of(encoder, texts, size)
    shape = (config.hidden_size, config.intermediate_size, config.num_hidden_layers)
    return Round(
        encoder=processor_seconds(lambda: encoder.encode(texts)),
        bare=products(batches, *shape, False),
        bare_transposed=products(batches, *shape, True),
    )


def line(name: str, texts: int, tokens: int, rounds: Sequence[Round]) -> str:
    """Rounds as text: medians, and the spread of the ratios."""

    def spread(ratios: list[float]) -> str:
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"

    pace = texts / statistics.median(one.encoder for one in rounds)
    return (
        f"{name}, {tokens / texts:.0f} tokens a text: {pace:,.0f} texts/s of a processor, "
        f"{spread([one.ratio for one in rounds])} of the bare products, "
        f"{spread([one.ratio_as_linear for one in rounds])} of those with weights as a Linear has them"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "encoder.json")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    size = Encoding().batch_size
    encoder = TransformerEncoder(Encoding(dtype="bfloat16"))
    kinds = texts_of(chosen.data, chosen.texts, 1)
    rows: dict[str, list[Round]] = {name: [] for name in kinds}
    for texts in kinds.values():
        measured(encoder, texts[:size], size)
    for _ in range(chosen.rounds):
        for name, texts in kinds.items():
            rows[name].append(measured(encoder, texts, size))
    told = {}
    for name, rounds in rows.items():
        tokens = sum(batches_of(encoder, kinds[name], size))
        print(line(name, len(kinds[name]), tokens, rounds))
        told[name] = {
            "texts": len(kinds[name]), "tokens": tokens, "batch": size, "threads": chosen.threads,
            "rounds": [asdict(one) | {"ratio": one.ratio} for one in rounds],
        }  # fmt: skip
    chosen.out.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
