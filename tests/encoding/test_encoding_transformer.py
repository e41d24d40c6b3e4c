"""Real models through TransformerEncoder, judged by sentence-transformers as an independent oracle."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5Model,
)
from transformers.utils import logging

from pipeline.encoding.model_files import UnusableModel, locate
from pipeline.encoding.transformer import TransformerEncoder
from pipeline.settings import Encoding

TEXTS = [
    "Alien. Horror, Sci-Fi. In space no one can hear you scream.",
    "wireless mouse",
    "Ein Käse, bitte! — 42 €",
    "手机 mobile phone",
    "word " * 400,
    "a",
    "red shoes for running in the rain",
]
CHINESE = ["红色高跟鞋", "蓝色智能手机", "儿童图画书", "不锈钢炒锅", "红色运动鞋"]


LETTERS = "abcdefghijklmnopqrstuvwxyz"
HAN = "".join(map(chr, range(0x4E00, 0x9FA6)))


def tokenizer(cls_token: str | None = None, **special: str) -> PreTrainedTokenizerFast:
    """As Chinese BERT has it: a token for each ideograph, and for each letter, first or inner."""
    inner = [f"##{letter}" for letter in LETTERS]
    pieces = [*special.values(), cls_token or "[UNK]", "[UNK]", *HAN, *LETTERS, *inner, "."]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if cls_token:
        ends = (("[SEP]", vocabulary["[SEP]"]), (cls_token, vocabulary[cls_token]))
        core.post_processor = processors.BertProcessing(*ends)
        special["cls_token"] = cls_token
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", **special)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def save(folder: Path, model: torch.nn.Module, tokens: PreTrainedTokenizerFast) -> Path:
    """A local folder as `save_pretrained` leaves it, with weights spread enough to tell texts apart."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2, generator=generator)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chinese_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with the CJK block as its vocabulary; untrained, so it tests the path and not the meaning."""
    tokens = tokenizer(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    config = BertConfig(vocab_size=len(tokens), max_position_embeddings=64, **SMALL)
    return save(tmp_path_factory.mktemp("bert"), BertModel(config), tokens)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal decoder with rotary positions, and no token for padding."""
    tokens = tokenizer(eos_token="</s>")
    config = LlamaConfig(vocab_size=len(tokens), max_position_embeddings=256, **SMALL)
    return save(tmp_path_factory.mktemp("llama"), LlamaModel(config), tokens)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal decoder with learned positions, counted from the left; no token for padding."""
    tokens = tokenizer(eos_token="</s>")
    config = GPT2Config(vocab_size=len(tokens), n_positions=48, n_embd=32, n_layer=2, n_head=2)
    return save(tmp_path_factory.mktemp("gpt2"), GPT2Model(config), tokens)


@pytest.fixture(scope="session")
def minilm() -> TransformerEncoder:
    return TransformerEncoder(Encoding(dtype="float32", max_tokens=256))


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    return locate(Encoding().model).folder


def fp32(folder: Path, **settings: object) -> TransformerEncoder:
    return TransformerEncoder(Encoding.model_validate({"model": str(folder), "dtype": "float32", **settings}))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_minilm_agrees_with_sentence_transformers(minilm: TransformerEncoder, minilm_folder: Path) -> None:
    oracle = SentenceTransformer(str(minilm_folder), device="cpu", local_files_only=True).encode(TEXTS)
    assert minilm.width == 384
    assert minilm.pooling == "mean"
    assert cosines(minilm.encode(TEXTS), oracle).min() > 0.9999


def test_minilm_knows_meaning(minilm: TransformerEncoder) -> None:
    q, near, far = minilm.encode(["a film about space aliens", "Extraterrestrials attack a starship", "frying pan"])
    assert q @ near > q @ far + 0.2


def test_bfloat16_is_near_float32(minilm: TransformerEncoder) -> None:
    bfloat16 = TransformerEncoder(Encoding(dtype="bfloat16", max_tokens=256))
    assert bfloat16.dtype == torch.bfloat16
    assert bfloat16.identity != minilm.identity
    assert cosines(bfloat16.encode(TEXTS), minilm.encode(TEXTS)).min() > 0.998


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_is_chosen_and_agrees(minilm: TransformerEncoder) -> None:
    gpu = TransformerEncoder(Encoding(dtype="float32", max_tokens=256))
    assert cosines(gpu.encode(TEXTS), minilm.encode(TEXTS)).min() > 0.999


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "mean_sqrt_len_tokens"])
def test_pooling_is_read_from_what_sentence_transformers_saves(chinese_bert: Path, tmp_path: Path, mode: str) -> None:
    transformer = modules.Transformer(str(chinese_bert), max_seq_length=20)
    oracle = SentenceTransformer(
        modules=[transformer, modules.Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)],
        device="cpu",
    )
    oracle.save(str(tmp_path / "saved"))
    encoder = fp32(tmp_path / "saved")
    texts = [*CHINESE, "长" * 60]
    assert encoder.pooling == {"lasttoken": "last", "cls": "cls"}.get(mode, "mean")
    assert cosines(encoder.encode(texts), oracle.encode(texts)).min() > 0.9999


@pytest.mark.parametrize(("key", "pooling"), [("cls_token", "cls"), ("mean_tokens", "mean"), ("lasttoken", "last")])
def test_pooling_is_read_from_the_older_files_too(chinese_bert: Path, tmp_path: Path, key: str, pooling: str) -> None:
    folder = shutil.copytree(chinese_bert, tmp_path / "model")
    (folder / "1_Pooling").mkdir()
    flags = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, f"pooling_mode_{key}": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    assert fp32(folder).pooling == pooling
    assert fp32(folder, pooling="cls").pooling == "cls"


def test_an_encoder_without_pooling_files_is_averaged(chinese_bert: Path) -> None:
    assert fp32(chinese_bert).pooling == "mean"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_decoder_gives_its_last_token_whatever_the_batch(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    encoder = fp32(folder)
    assert encoder.pooling == "last"
    texts = ["a", "red shoes", "a long story about nothing. " * 3]
    together = encoder.encode(texts)
    kind = LlamaModel if name == "llama" else GPT2Model
    model = kind.from_pretrained(folder).eval()
    tokens = PreTrainedTokenizerFast.from_pretrained(folder)
    for text, row in zip(texts, together, strict=True):
        ids = torch.tensor(
            [tokens(text, truncation=True, max_length=min(128, 48 if name == "gpt2" else 128)).input_ids]
        )
        with torch.inference_mode():
            expected = model(input_ids=ids).last_hidden_state[0, -1].numpy()
        assert cosines(expected[None], row[None])[0] > 0.9999
        np.testing.assert_allclose(encoder.encode([text])[0], row, atol=1e-5)


@pytest.mark.parametrize("name", ["chinese_bert", "llama"])
def test_chinese_texts_are_told_apart(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    tokens = PreTrainedTokenizerFast.from_pretrained(folder)
    assert not any(tokens.unk_token_id in tokens(text).input_ids for text in CHINESE)
    encoder = fp32(folder)
    rows = encoder.encode([*CHINESE, CHINESE[0]])
    np.testing.assert_allclose(rows[-1], rows[0], atol=1e-6)
    similar = rows[:-1] @ rows[:-1].T - np.eye(len(CHINESE))
    assert similar.max() < 0.99


def test_tokens_beyond_the_limit_do_not_count(minilm_folder: Path) -> None:
    encoder = fp32(minilm_folder, max_tokens=8)
    one, same, other = encoder.encode(["red " * 6, "red " * 6 + "blue", "red " * 5 + "blue"])
    np.testing.assert_allclose(one, same, atol=1e-6)
    assert one @ other < 0.999


@pytest.mark.parametrize("positions", [20, 34])
def test_roberta_reserves_its_first_positions(tmp_path: Path, positions: int) -> None:
    tokens = tokenizer(pad_token="<pad>")
    config = RobertaConfig(vocab_size=len(tokens), max_position_embeddings=positions, pad_token_id=0, **SMALL)
    rows = fp32(save(tmp_path, RobertaModel(config), tokens)).encode(["far too long a text " * 9, "a"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_of_an_encoder_decoder_the_encoder_is_used(tmp_path: Path) -> None:
    tokens = tokenizer(pad_token="<pad>", eos_token="</s>")
    config = T5Config(vocab_size=len(tokens), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
    for kind in (T5EncoderModel, T5Model):
        encoder = fp32(save(tmp_path / kind.__name__, kind(config), tokens))
        assert (encoder.pooling, encoder.width) == ("mean", 32)
        assert np.isfinite(encoder.encode(["red shoes"])).all()


def test_an_encoder_that_cannot_stand_alone_is_refused(tmp_path: Path) -> None:
    config = BartConfig(vocab_size=99, d_model=16, encoder_layers=1, decoder_layers=1, max_position_embeddings=32)
    with pytest.raises(UnusableModel, match="bart model cannot be used alone"):
        fp32(save(tmp_path, BartModel(config), tokenizer(eos_token="</s>")))


def test_a_model_that_gives_no_number_says_so(chinese_bert: Path, tmp_path: Path) -> None:
    model = BertModel.from_pretrained(chinese_bert)
    word = PreTrainedTokenizerFast.from_pretrained(chinese_bert).convert_tokens_to_ids("鞋")
    model.embeddings.word_embeddings.weight.data[word] = float("nan")
    model.save_pretrained(tmp_path)
    PreTrainedTokenizerFast.from_pretrained(chinese_bert).save_pretrained(tmp_path)
    encoder = fp32(tmp_path)
    assert np.isfinite(encoder.encode(["手机"])).all()
    with pytest.raises(ValueError, match="not finite"):
        encoder.encode(["手机", "红色高跟鞋"])


def test_identity_follows_the_content_not_the_place(chinese_bert: Path, tmp_path: Path) -> None:
    identity = fp32(chinese_bert).identity
    copy = shutil.copytree(chinese_bert, tmp_path / "copy")
    assert fp32(copy).identity == identity
    assert fp32(copy, batch_size=3, cache_texts=1).identity == identity
    assert fp32(copy, pooling="cls").identity != identity
    assert fp32(copy, max_tokens=16).identity != identity
    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert fp32(copy).identity != identity


def test_the_network_is_not_touched(chinese_bert: Path, minilm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: touched.append(address) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: touched.append(address))
    for folder in (chinese_bert, minilm_folder):
        fp32(folder).encode(["手机"])
    assert touched == []


def test_torch_is_left_as_it_was(chinese_bert: Path) -> None:
    before = (torch.get_num_threads(), torch.get_rng_state().sum(), torch.get_default_dtype())
    grad = torch.is_grad_enabled()
    fp32(chinese_bert).encode(["手机"])
    assert (torch.get_num_threads(), torch.get_rng_state().sum(), torch.get_default_dtype()) == before
    assert torch.is_grad_enabled() == grad


def test_while_a_model_loads_other_threads_compute_as_ever(
    minilm_folder: Path, chinese_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = set()
    monkeypatch.setattr(torch, "set_default_dtype", defaults.add)
    for folder in (minilm_folder, chinese_bert):
        encoder = TransformerEncoder(Encoding(model=str(folder), dtype="bfloat16", device="cpu"))
        assert {parameter.dtype for parameter in encoder._model.parameters()} == {torch.bfloat16}
    assert defaults == {torch.float32}


def test_loading_and_encoding_say_nothing(minilm_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fp32(minilm_folder).encode(["a", "word " * 2000])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bars", [True, False])
def test_progress_bars_and_verbosity_are_as_they_were(chinese_bert: Path, bars: bool) -> None:
    was = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
    logging.set_verbosity_info()
    try:
        fp32(chinese_bert)
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.INFO, bars)
    finally:
        logging.set_verbosity(was[0])
        (logging.enable_progress_bar if was[1] else logging.disable_progress_bar)()


def test_weights_left_out_are_an_error_and_not_random(chinese_bert: Path, tmp_path: Path) -> None:
    model = BertModel.from_pretrained(chinese_bert)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("encoder.layer.1.")}
    model.save_pretrained(tmp_path, state_dict=state)
    PreTrainedTokenizerFast.from_pretrained(chinese_bert).save_pretrained(tmp_path)
    with pytest.raises(UnusableModel, match=r"weights are missing, encoder\.layer\.1\."):
        fp32(tmp_path)


def test_damaged_files_are_told_in_one_line(chinese_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(chinese_bert, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(UnusableModel, match="cannot be loaded") as caught:
        fp32(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_code_that_a_model_brings_is_not_run(chinese_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(chinese_bert, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\nclass M: pass\n")
    with pytest.raises(UnusableModel):
        fp32(folder)
    assert not (tmp_path / "ran").exists()


def test_a_device_that_is_not_there_is_named(chinese_bert: Path) -> None:
    with pytest.raises(ValueError, match="device"):
        fp32(chinese_bert, device="warp")
    if not torch.cuda.is_available():
        with pytest.raises(UnusableModel, match=r"encoding\.device 'cuda'"):
            fp32(chinese_bert, device="cuda")
