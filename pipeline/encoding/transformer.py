"""Any Hugging Face encoder or decoder that lies on this machine, as an Encoder."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)
from transformers.utils import logging as _transformers_logging

from pipeline import settings
from pipeline.encoding.model_files import ModelFiles, Pooling, UnusableModel, digest, locate

# Tokenizing a megabyte to keep 128 tokens of it takes a second: cut before, far beyond any real token.
_CHARACTERS_PER_TOKEN = 64
# transformers leaves these few functions without types.
_log: Any = _transformers_logging
# What transformers and its loaders raise on files that are damaged, foreign or in need of a missing package.
_LOADING_FAULTS = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    EOFError,
    SafetensorError,
)
_VERSION = "transformer-1"


class TransformerEncoder:
    """Texts → unit vectors, with the pooling that the model's own files ask for. Not thread-safe.

    Never touches the network, never runs code that a model brings along, and
    leaves torch's global state (threads, seeds, default dtype) alone.
    """

    def __init__(self, encoding: settings.Encoding) -> None:
        """Load the model; raises `model_files.UnusableModel` with one line on what is wrong."""
        files = locate(encoding.model)
        self._device = _device(encoding.device)
        self._dtype = _dtype(encoding.dtype, self._device)
        self._batch_size = encoding.batch_size
        self._lower_case = files.lower_case
        self._tokenizer, self._model = _load(files, self._dtype, self._device)
        self._pooling = _pooling(encoding.pooling, files, self._model.config)
        self._max_tokens = _max_tokens(encoding.max_tokens, files, self._tokenizer, self._model)
        self._pad = self._tokenizer.pad_token_id or 0
        self._width = int(self._forward([[self._pad]]).shape[1])
        shaping = (_VERSION, digest(files), self._pooling, self._max_tokens, str(self._dtype))
        self._identity = hashlib.sha256(repr(shaping).encode()).hexdigest()[:32]

    @property
    def identity(self) -> str:
        """32 hex digits over the model's files, pooling, token limit and dtype, not over the folder."""
        return self._identity

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self._width

    @property
    def pooling(self) -> Pooling:
        """How token vectors become one."""
        return self._pooling

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in; vectors are float32 whatever it is."""
        return self._dtype

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts), width] float32, each row of unit length; blank text gives zeros.

        Raises ValueError where a text gives a vector that is not finite.
        """
        tokens = self._tokenize(texts)
        rows_BD = np.zeros((len(texts), self._width), np.float32)
        # Batches of like length waste no work on padding.
        order = sorted((row for row, ids in enumerate(tokens) if ids), key=lambda row: -len(tokens[row]))
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            rows_BD[batch] = self._forward([tokens[row] for row in batch])
        return rows_BD

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids per text, none for a blank one; not padded, since many decoders lack a token for that."""
        kept = [text[: self._max_tokens * _CHARACTERS_PER_TOKEN] for text in texts]
        filled = [row for row, text in enumerate(kept) if not text.isspace() and text]
        tokens: list[list[int]] = [[] for _ in texts]
        if filled:
            encoded = self._tokenizer(
                [kept[row].lower() if self._lower_case else kept[row] for row in filled],
                truncation=True,
                max_length=self._max_tokens,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            for row, ids in zip(filled, encoded["input_ids"], strict=True):
                tokens[row] = ids
        return tokens

    @torch.inference_mode()
    def _forward(self, tokens: list[list[int]]) -> NDArray[np.float32]:
        # Padding on the right, for decoders too: positions count from the first real token in every batch.
        lengths_B = torch.tensor([len(ids) for ids in tokens])
        ids_BT = torch.full((len(tokens), int(lengths_B.max())), self._pad)
        for row, ids in enumerate(tokens):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
        mask_BT = (torch.arange(ids_BT.shape[1]) < lengths_B[:, None]).long().to(self._device)
        hidden_BTD = self._model(input_ids=ids_BT.to(self._device), attention_mask=mask_BT).last_hidden_state
        pooled_BD = _pool(hidden_BTD, mask_BT, self._pooling)
        rows_BD: NDArray[np.float32] = torch.nn.functional.normalize(pooled_BD, dim=1).cpu().numpy()
        if not np.isfinite(rows_BD).all():
            raise ValueError(f"the model gave a vector that is not finite in {self._dtype}")
        return rows_BD


def _pool(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """One float32 vector per text, [B, D], of token vectors padded on the right."""
    if pooling == "cls":
        return hidden_BTD[:, 0].float()
    if pooling == "last":
        rows_B = torch.arange(len(mask_BT), device=mask_BT.device)
        return hidden_BTD[rows_B, mask_BT.sum(1) - 1].float()
    weights_BT1 = mask_BT[:, :, None].float()
    return (hidden_BTD.float() * weights_BT1).sum(1) / weights_BT1.sum(1)


def _load(files: ModelFiles, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(files.folder, **local)
            tokenizer = AutoTokenizer.from_pretrained(files.folder, **local)
            # While it loads, transformers makes `dtype` torch's default for all threads, a learner's too: so float32.
            model, report = _family(config).from_pretrained(
                files.folder, dtype=torch.float32, output_loading_info=True, use_safetensors=True, **local
            )
            model = model.to(device).eval()
            for parameter in model.parameters():  # Buffers, as of rotary positions, stay exact.
                parameter.data = parameter.data.to(dtype)
    except _LOADING_FAULTS as error:
        reason = " ".join(str(error).split())[:500]
        raise UnusableModel(f"{files.folder}: cannot be loaded: {reason}") from error
    # The pooler is the one part that vectors do not pass through; the rest would be left at random.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UnusableModel(f"{files.folder}: {len(missing)} weights are missing, {missing[0]} the first")
    model.config.use_cache = False
    return tokenizer, model


def _family(config: Any) -> Any:
    """Of an encoder-decoder the encoder alone."""
    if config.model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:
        return AutoModelForTextEncoding
    if config.is_encoder_decoder:
        raise ValueError(f"the encoder of a {config.model_type} model cannot be used alone")
    return AutoModel


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice on the terminal; both as they were afterwards."""
    verbosity = _log.get_verbosity()
    bars = _log.is_progress_bar_enabled()
    _log.set_verbosity_error()
    _log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _log.set_verbosity(verbosity)
        if bars:
            _log.enable_progress_bar()


def _pooling(chosen: str, files: ModelFiles, config: Any) -> Pooling:
    for pooling in ("mean", "cls", "last"):
        if chosen == pooling:
            return pooling
    if files.pooling_unknown is not None:
        raise UnusableModel(
            f"{files.folder}: its pooling {files.pooling_unknown!r} is not supported, "
            "set encoding.pooling to mean, cls or last"
        )
    if files.pooling is not None:
        return files.pooling
    kind = config.model_type
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "last" if causal or getattr(config, "is_decoder", False) else "mean"


def _max_tokens(chosen: int, files: ModelFiles, tokenizer: Any, model: Any) -> int:
    """The setting, unless the model takes less."""
    limits = [chosen, tokenizer.model_max_length, files.max_tokens or chosen]
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(positions, torch.nn.Embedding):
        # RoBERTa and its kin count positions from behind the padding index.
        reserved = 0 if positions.padding_idx is None else positions.padding_idx + 1
        limits.append(positions.num_embeddings - reserved)
    else:
        limits.append(getattr(model.config, "max_position_embeddings", None) or chosen)
    return int(min(limits))


def _device(chosen: str) -> torch.device:
    best = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(best if chosen == "auto" else chosen)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UnusableModel(f"encoding.device {chosen!r} cannot be used here: {reason}") from None
    return device


def _dtype(chosen: str, device: torch.device) -> torch.dtype:
    if chosen != "auto":
        return torch.bfloat16 if chosen == "bfloat16" else torch.float32
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        # avx512_bf16 alone is not enough: without AMX, bfloat16 was measured slower than float32.
        fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
