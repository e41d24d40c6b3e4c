"""What every Encoder must keep to: the promises of `ports.Encoder`, and those that the cache builds on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from pipeline.encoding.build import build_encoder
from pipeline.encoding.cache import CachedEncoder
from pipeline.encoding.hashing import HashingEncoder
from pipeline.encoding.transformer import TransformerEncoder
from pipeline.ports import Encoder
from pipeline.settings import Encoding

Factory = Callable[[], Encoder]

TEXTS = [
    "Alien. Horror, Sci-Fi. In space no one can hear you scream.",
    "wireless mouse",
    "红色高跟鞋",
    "スペースオペラ",
    "قطة سوداء",
    "👨\u200d👩\u200d👧 & 🎧",
    "e\u0301 combining, \u202e bidirectional, \ufffd replacement",
    "x",
    "?!",
    "long " * 5000,
    "无" * 20_000,
]


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal model over bytes, with neither pooling files nor a token for padding."""
    folder = tmp_path_factory.mktemp("decoder")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        LlamaModel(LlamaConfig(vocab_size=len(alphabet), initializer_range=0.3, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["hashing", "hashing-1", "cached", "cached-0", "float32", "bfloat16", "decoder"])
def factory(request: pytest.FixtureRequest) -> Factory:
    match request.param:
        case "hashing":
            return lambda: build_encoder(Encoding(model="hashing"))
        case "hashing-1":
            return lambda: build_encoder(Encoding(model="hashing-1"))
        case "cached":
            return lambda: CachedEncoder(HashingEncoder(64), 5)
        case "cached-0":
            return lambda: CachedEncoder(HashingEncoder(64), 0)
        case "decoder":
            folder = str(request.getfixturevalue("decoder_folder"))
            return lambda: build_encoder(Encoding(model=folder, dtype="float32", batch_size=3))
        case dtype:
            return lambda: build_encoder(Encoding(dtype=dtype, batch_size=4))


@pytest.fixture(scope="module")
def encoder(factory: Factory) -> Encoder:
    return factory()


@pytest.fixture(scope="module")
def rows(encoder: Encoder) -> np.ndarray:
    return encoder.encode(TEXTS)


def test_one_float32_row_of_unit_length_per_text(encoder: Encoder, rows: np.ndarray) -> None:
    assert rows.shape == (len(TEXTS), encoder.width)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_no_texts_give_no_rows(encoder: Encoder) -> None:
    none = encoder.encode([])
    assert none.shape == (0, encoder.width)
    assert none.dtype == np.float32


@pytest.mark.parametrize("blank", ["", " ", "\n\t "])
def test_blank_text_gives_zeros_and_disturbs_no_other(encoder: Encoder, rows: np.ndarray, blank: str) -> None:
    blank_row, row, again = encoder.encode([blank, TEXTS[0], blank])
    assert not blank_row.any()
    assert not again.any()
    assert row @ rows[0] > 0.999
    assert not encoder.encode([blank]).any()


def test_the_same_call_gives_the_same_bytes(encoder: Encoder, factory: Factory, rows: np.ndarray) -> None:
    assert encoder.encode(TEXTS).tobytes() == rows.tobytes()
    assert factory().encode(TEXTS).tobytes() == rows.tobytes()


def test_a_row_does_not_depend_on_its_batch(encoder: Encoder, rows: np.ndarray) -> None:
    for text, row in zip(TEXTS, rows, strict=True):
        assert encoder.encode([text])[0] @ row > 0.999
    backwards = encoder.encode(TEXTS[::-1])[::-1]
    assert (backwards * rows).sum(1).min() > 0.999


def test_repeats_are_equal(encoder: Encoder) -> None:
    rows = encoder.encode(["red", "blue", "red"])
    assert rows[0] @ rows[2] > 0.9999


def test_different_texts_differ(encoder: Encoder) -> None:
    if encoder.width == 1:
        pytest.skip("one number at unit length can only tell two texts apart")
    red, blue = encoder.encode(["red shoes", "a blue telephone"])
    assert red @ blue < 0.99


def test_identity_is_stable_short_and_printable(encoder: Encoder, factory: Factory) -> None:
    assert factory().identity == encoder.identity
    encoder.encode(["a"])
    assert factory().identity == encoder.identity
    assert encoder.identity.isascii()
    assert encoder.identity.isprintable()
    assert 0 < len(encoder.identity) <= 64


def test_the_caller_may_write_to_what_it_gets(encoder: Encoder, rows: np.ndarray) -> None:
    given = encoder.encode(TEXTS[:2])
    given[:] = 9
    np.testing.assert_allclose(encoder.encode(TEXTS[:2]), rows[:2], atol=0.02)


def test_identities_tell_settings_apart(decoder_folder: Path) -> None:
    local = {"model": str(decoder_folder), "dtype": "float32"}
    chosen = [{}, {"pooling": "mean"}, {"max_tokens": 9}, {"dtype": "bfloat16"}]
    identities = [TransformerEncoder(Encoding.model_validate(local | c)).identity for c in chosen]
    identities += [HashingEncoder(width).identity for width in (64, 65)]
    assert len(set(identities)) == len(identities)
