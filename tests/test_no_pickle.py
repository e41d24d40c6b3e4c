"""No code of ours reads bytes that could run code: no pickle, no eval, no unsafe YAML; snapshots are safetensors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline import settings_reading
from pipeline.encoding.model_files import UnusableModel, locate
from pipeline.epochs.snapshot import FileSnapshotStore

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "consumers", "producers", "config")
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "torch.package", "np.save", "numpy.save", "np.fromfile",
    "pd.read_pickle", "pandas.read_pickle", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load",
}  # fmt: skip


def sources() -> list[Path]:
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(found) > 100
    return found


def faults(tree: ast.AST) -> Iterator[str]:
    """What in a module could run code that it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (f"line {node.lineno}: imports {name}" for name in names if name.partition(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {fault}" for fault in called(node))


def called(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name in BUILTINS or name in CALLS or name.rpartition(".")[2] == "import_module":
        yield f"calls {name}"
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    loader = given.get("Loader") or (ast.unparse(node.args[1]) if len(node.args) > 1 else None)
    if name == "yaml.load" and loader not in ("_Loader", "yaml.SafeLoader"):
        yield f"calls yaml.load with {loader}"
    if name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
        yield "calls np.load without allow_pickle=False"
    if given.get("allow_pickle") == "True" or given.get("shell") == "True" or given.get("trust_remote_code") == "True":
        yield f"calls {name} with {given}"
    model = name.endswith(".from_pretrained") and name.partition(".")[0] not in ("AutoConfig", "AutoTokenizer")
    if model and given.get("use_safetensors") != "True":
        yield f"calls {name} for whatever weights there are"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_reads_what_could_run_code(path: Path) -> None:
    assert list(faults(ast.parse(path.read_text("utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "import torch; torch.load(f)", "yaml.load(text)", "eval(text)",
        "yaml.load(text, yaml.Loader)", "np.load(path)", "import joblib.numpy_pickle", "run(x, shell=True)",
        "AutoModel.from_pretrained(folder)", "from marshal import load", "np.load(path, allow_pickle=True)",
    ],
)  # fmt: skip
def test_the_scan_finds_what_it_looks_for(code: str) -> None:
    assert list(faults(ast.parse(code)))


def test_the_loader_of_settings_is_a_safe_one(tmp_path: Path) -> None:
    assert issubclass(settings_reading._Loader, yaml.SafeLoader)
    path = tmp_path / "headrace.yaml"
    path.write_text("namespace: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(settings_reading.SettingsError, match="could not determine a constructor"):
        settings_reading.read_yaml(path)


def test_pickled_weights_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UnusableModel, match="weights as safetensors beside it: pickled ones, which can run code"):
        locate(str(tmp_path))


def test_a_snapshot_is_safetensors(tmp_path: Path) -> None:
    import safetensors.torch
    import torch

    store = FileSnapshotStore(tmp_path / "s")
    store.save(1, {"saved_at": 0}, {"x": torch.arange(3)})
    store.close()
    raw = next((tmp_path / "s").iterdir()).read_bytes()
    length = int.from_bytes(raw[20:28], "little")
    body = raw[28 + length : -32]
    assert safetensors.torch.load(body)["x"].tolist() == [0, 1, 2]
