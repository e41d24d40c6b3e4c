"""Chinese titles through a real Chinese model, in the folder format that a user would give."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from transformers import AutoTokenizer

from pipeline.encoding.text import item_text
from pipeline.encoding.transformer import TransformerEncoder
from pipeline.messages import Item
from pipeline.settings import Encoding

sys.path.insert(0, str(Path(__file__).parent))
from chinese_model import model_folder

THEMES = {
    "天文": ("银河系与黑洞", "望远镜观星指南", "行星和卫星的运动"),
    "烘焙": ("法式面包的做法", "蛋糕与饼干烘焙", "奶油泡芙食谱"),
    "足球": ("世界杯决赛回顾", "足球战术分析", "守门员训练手册"),
}


@pytest.fixture(scope="module")
def folder() -> Path:
    return model_folder()


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TransformerEncoder:
    return TransformerEncoder(Encoding(model=str(folder), dtype="float32"))


def test_pooling_is_read_from_the_models_files(encoder: TransformerEncoder) -> None:
    assert (encoder.pooling, encoder.width) == ("cls", 512)


def test_vectors_are_those_of_the_onnx_graph(encoder: TransformerEncoder, folder: Path) -> None:
    text = "银河系与黑洞"
    given = AutoTokenizer.from_pretrained(folder, local_files_only=True)(text, return_tensors="np")
    graph = ReferenceEvaluator(onnx.load(folder / "model.onnx"))
    names = ("input_ids", "attention_mask", "token_type_ids")
    (hidden,) = graph.run(["last_hidden_state"], {name: given[name].astype(np.int64) for name in names})
    expected = hidden[0, 0] / np.linalg.norm(hidden[0, 0])
    np.testing.assert_allclose(encoder.encode([text])[0], expected, atol=1e-4)


def test_titles_of_a_theme_are_nearest_to_each_other(encoder: TransformerEncoder) -> None:
    items = [
        Item(item_id=title, title=title, categories=(theme,)) for theme, titles in THEMES.items() for title in titles
    ]
    rows = encoder.encode([item_text(item) for item in items])
    likeness = rows @ rows.T
    np.fill_diagonal(likeness, -1)
    for n, item in enumerate(items):
        nearest = items[int(likeness[n].argmax())]
        assert nearest.categories == item.categories, (item.title, nearest.title)


def test_a_search_finds_the_theme_without_sharing_a_word_with_it(encoder: TransformerEncoder) -> None:
    titles = [title for group in THEMES.values() for title in group]
    rows = encoder.encode(titles)
    (query,) = encoder.encode(["宇宙星空"])
    best = np.argsort(-(rows @ query))[:3]
    assert {titles[n] for n in best} == set(THEMES["天文"])
