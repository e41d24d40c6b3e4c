"""The tournament's tables and curves, from predictions made up for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench import best_of_families, results_of, table
from plot import curve, draw

from pipeline.evaluation.record import Predictions

NAMES = ("headrace", "isgd:1", "isgd:2", "random")


def predictions() -> Predictions:
    """600 predictions of 30 users; ranks get worse from name to name, isgd:2 only in its first half."""
    random = np.random.default_rng(0)
    rank_NP = np.stack([random.integers(1, most, 600) for most in (12, 40, 40, 900)], axis=1).astype(np.int32)
    rank_NP[:300, 2] = 1
    count = np.arange(600, dtype=np.int32)
    return Predictions(NAMES, count * 2, count % 30, count, count, rank_NP)


def report() -> dict[str, object]:
    told = predictions()
    keys = ("hr", "last_half_ndcg", "new_item_ndcg", "new_user_ndcg", "coverage")
    learners = {name: {"ndcg": float(told.ndcg(name).mean())} | dict.fromkeys(keys) for name in NAMES}
    cpu = {"cpu_asking_s": 1.0, "cpu_learning_s": 2.0}
    contestants = {name: {"family": name.split(":")[0], **cpu} for name in NAMES}
    contestants["random"]["refits"] = 3
    return {"learners": learners, "contestants": contestants}


def test_a_familys_best_stands_for_it_after_the_learner() -> None:
    rows = results_of(report(), predictions())
    assert [row["name"] for row in rows] == ["headrace", "isgd:2", "isgd:1", "random"]
    assert [row["name"] for row in best_of_families(rows)] == ["headrace", "isgd:2", "random"]
    half = predictions().ndcg("isgd:2")[:300].mean()
    assert next(row for row in rows if row["name"] == "isgd:2")["first_half_ndcg"] == pytest.approx(half)
    for row in rows:
        low, high = row["ndcg_interval"]
        assert low <= row["ndcg"] <= high
    assert rows[0]["headrace_over_it"] == (1.0, 1.0, 1.0)
    assert rows[-1]["headrace_over_it"].value == pytest.approx(rows[0]["ndcg"] / rows[-1]["ndcg"])


def test_the_table_has_a_line_for_each_and_what_was_tuned_elsewhere() -> None:
    rows = results_of(report(), predictions())
    lines = table(best_of_families(rows), {"isgd": "isgd:1"}, rows).splitlines()
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    elsewhere = next(row for row in rows if row["name"] == "isgd:1")["ndcg"]
    assert lines[3].startswith("| isgd:2 |")
    assert f"| {elsewhere:.4f} |" in lines[3]
    assert lines[4].startswith("| random (3 fits) |")


def test_a_curve_is_a_moving_mean_and_its_plot_repeats(tmp_path: Path) -> None:
    score_N = np.repeat([0.0, 1.0], 100)
    x, y = curve(score_N, np.arange(200) * 3)
    assert (x[0], y[0]) == (3 * 19 + 1, 0.0)
    assert (x[-1], y[-1]) == (3 * 199 + 1, 1.0)
    for name in ("one.svg", "two.svg"):
        draw(predictions(), list(NAMES), "a title", tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "a title" in (tmp_path / "one.svg").read_text()
