"""Finds a model's files on this machine, reads how they want to be pooled, and hashes them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

Pooling = Literal["mean", "cls", "last"]

# A mean divided by the root of the length points where the mean points, and every row is normalised.
_POOLING_MODES: dict[str, Pooling] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "last",
}
_WEIGHTS = ("model.safetensors", "model-*.safetensors")
_PICKLED = ("pytorch_model*.bin",)
_SHAPING_FILES = (
    "config.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
_WHOLE_BYTES = 1 << 29
_SAMPLES = 512
_SAMPLE_BYTES = 1 << 20


class UnusableModel(RuntimeError):
    """A model that cannot be found, read or understood; the text is one line that says what and where."""


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder, and what the sentence-transformers files in it say, None where they are silent."""

    folder: Path
    pooling: Pooling | None
    pooling_unknown: str | None
    max_tokens: int | None
    lower_case: bool


def locate(model: str) -> ModelFiles:
    """The files of a folder, an installed package or distribution, or a hub id in the local cache.

    Looked for in this order, without the network and without importing the package.
    Raises UnusableModel.
    """
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        if not _holds_model(folder):
            what = "weights as safetensors" if _matching(folder, _PICKLED) else "weights"
            why = ": pickled ones, which can run code, are not read" if _matching(folder, _PICKLED) else ""
            raise UnusableModel(
                f"encoding.model {model!r}: {folder} holds no config.json with {what} beside it{why}"
            )
        return _read(folder)
    found = _outermost(_installed_folders(model)) or _hub_folders(model)
    if len(found) == 1:
        return _read(found[0])
    if found:
        listed = ", ".join(map(str, found))
        raise UnusableModel(f"encoding.model {model!r} holds several models, give one folder: {listed}")
    from huggingface_hub import constants

    raise UnusableModel(
        f"encoding.model {model!r}: not a folder, not an installed package or distribution that carries "
        "config.json and weights, and not in the Hugging Face cache "
        f"{constants.HF_HUB_CACHE} (nothing is downloaded)"
    )


def digest(files: ModelFiles) -> str:
    """SHA-256, in hex, over the names and contents of configuration, tokenizer and weights.

    Weight files above 512 MiB enter with their size and 512 samples of 1 MiB, the
    first and last among them: reading tens of gigabytes would hold up every start.
    """
    total = hashlib.sha256()
    for path in [*_matching(files.folder, _SHAPING_FILES), *_weights(files.folder)]:
        total.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        for chunk in _chunks(path):
            total.update(chunk)
    return total.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            while chunk := file.read(_SAMPLE_BYTES):
                yield chunk
            return
        for sample in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)


def _installed_folders(name: str) -> Iterator[Path]:
    try:
        # Only of a top-level name: find_spec of a dotted one imports its parent.
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except ValueError:
        spec = None
    for location in (spec.submodule_search_locations or []) if spec else []:
        for marker in ("config.json", "modules.json"):
            yield from (path.parent for path in Path(location).rglob(marker))
    try:
        listed = metadata.distribution(name).files if name else None
    except metadata.PackageNotFoundError:
        listed = None
    for file in listed or []:
        if file.name in ("config.json", "modules.json"):
            yield Path(str(file.locate())).parent


def _hub_folders(model: str) -> list[Path]:
    if "/" not in model:
        return []
    # Imported here: most models are packages or folders, and a start waits for it.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return []
    folder = Path(config).parent if isinstance(config, str) else None
    return [folder] if folder is not None and _holds_model(folder) else []


def _outermost(folders: Iterable[Path]) -> list[Path]:
    holding = {folder.resolve() for folder in folders if _holds_model(folder)}
    return sorted(f for f in holding if not any(parent in holding for parent in f.parents))


def _holds_model(root: Path) -> bool:
    folder = _transformer_folder(root, _modules(root))
    return (folder / "config.json").is_file() and bool(_weights(folder))


def _read(root: Path) -> ModelFiles:
    modules = _modules(root)
    unknown = [kind for kind, _ in modules if kind not in ("Transformer", "Pooling", "Normalize", "Dropout")]
    if unknown:
        raise UnusableModel(f"{root / 'modules.json'}: modules not supported: {', '.join(unknown)}")
    folder = _transformer_folder(root, modules)
    pooling_paths = [path for kind, path in modules if kind == "Pooling"] or ["1_Pooling"]
    mode = _pooling_mode(_json(root / pooling_paths[0] / "config.json", default={}))
    sentence = _json(folder / "sentence_bert_config.json", default={})
    limit = sentence.get("max_seq_length")
    return ModelFiles(
        folder=folder,
        pooling=_POOLING_MODES.get(mode or ""),
        pooling_unknown=None if mode is None or mode in _POOLING_MODES else mode,
        max_tokens=limit if isinstance(limit, int) else None,
        lower_case=sentence.get("do_lower_case") is True,
    )


def _pooling_mode(config: dict[str, Any]) -> str | None:
    mode = config.get("pooling_mode")
    if mode is None:
        prefix = "pooling_mode_"
        chosen = [key for key, on in config.items() if key.startswith(prefix) and on is True]
        mode = [key.removeprefix(prefix) for key in chosen]
    if isinstance(mode, list):
        mode = "+".join(map(str, mode))
    return str(mode) if mode else None


def _modules(root: Path) -> list[tuple[str, str]]:
    """(class name, path) of each entry of modules.json, first to last; [] without the file."""
    path = root / "modules.json"
    try:
        return [(str(e["type"]).rpartition(".")[2], str(e["path"])) for e in _json(path, default=[])]
    except (KeyError, TypeError):
        raise UnusableModel(f"{path}: not a list of modules") from None


def _transformer_folder(root: Path, modules: list[tuple[str, str]]) -> Path:
    return next((root / path for kind, path in modules if kind == "Transformer"), root)


def _weights(folder: Path) -> list[Path]:
    """The weight files that are loaded; safetensors alone, since a pickle can run code."""
    for pattern in _WEIGHTS:
        if files := _matching(folder, [pattern]):
            return files
    return []


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _json(path: Path, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UnusableModel(f"{path}: not JSON: {error}") from None
    if not isinstance(content, type(default)):
        raise UnusableModel(f"{path}: must hold a {type(default).__name__}, holds {type(content).__name__}")
    return content
