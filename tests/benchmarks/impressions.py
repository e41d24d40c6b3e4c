"""Position-corrected click-through rates against popularity and naive rates, on the Open Bandit Dataset.

    python tests/benchmarks/impressions.py [--data DIR] [--out DIR]

Reads the small version of the dataset (Saito et al. 2021; ZOZO, CC BY 4.0): four
logs of 10,000 impressions, by a random and a Thompson sampling policy, of men's
and women's fashion, with place (left, centre, right) and click. Each impression
is predicted, then learned, in the order of time. The rows are:

    observed    clicks of the log itself: log loss and AUC of P(click)
    simulated   the same impressions, places 1, 2, 3 examined with chance 1, .5, .25,
                and clicks drawn from known rates: also how well items are ordered (Kendall's tau)

Intervals are 95% by bootstrap over impressions. Writes DIR/impressions.json, prints the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata
from streams import RESULTS, write

from pipeline.learning.learner import Learner
from pipeline.learning.scorers.impressions import Impressions
from pipeline.messages import Event
from pipeline.settings import Settings

LOGS = ("random_men", "random_women", "bts_men", "bts_women")
FEATURES = [f"user_feature_{n}" for n in range(4)]
EXAMINED = np.array([1.0, 0.5, 0.25])
BATCH = 64
DRAWS = 200
Numbers = NDArray[np.float64]


def events_of(log: pd.DataFrame) -> list[list[Event]]:
    """Each impression, and the click on it where there was one, a second later."""
    users = log[FEATURES].astype(str).agg("|".join, axis=1)
    times = pd.to_datetime(log["timestamp"], format="ISO8601").astype("int64") // 1_000_000
    rows = zip(users, times, log["item_id"], log["position"], log["click"], strict=True)
    made = []
    for user, time, item, position, click in rows:
        shown = Event("impression", int(time), user, item_id=f"i{item}", position=int(position) - 1)
        made.append([shown, Event("click", int(time) + 1000, user, item_id=f"i{item}")] if click else [shown])
    return made


def predicted(log: pd.DataFrame) -> dict[str, Numbers]:
    """P(click) of each impression by each method, from what was before its batch; popularity's is a count."""
    learner = Learner(Settings(), torch.device("cpu"))
    [scorer] = [scorer for scorer in learner.scorers if isinstance(scorer, Impressions)]
    events, items = events_of(log), log["item_id"].to_numpy()
    places, clicks = log["position"].to_numpy(), log["click"].to_numpy()
    size = int(items.max()) + 1
    rows = torch.tensor([learner.catalogue.row(f"i{n}") for n in range(size)])
    learner.resize()
    shown_I, clicked_I = np.zeros(size), np.zeros(size)
    found: dict[str, list[Numbers]] = {"popularity": [], "rate": [], "corrected": []}
    for start in range(0, len(log), BATCH):
        part = slice(start, start + BATCH)
        mean = (clicked_I.sum() + 1) / (shown_I.sum() + 100)
        found["popularity"].append(clicked_I[items[part]])
        found["rate"].append((clicked_I[items[part]] + 2) / (shown_I[items[part]] + 2 / mean))
        rate_I, examined_P = scorer.rate_I()[rows].double().numpy(), scorer.examined_P.double().numpy()
        found["corrected"].append(rate_I[items[part]] * examined_P[places[part]])
        batch = [event for several in events[part] for event in several]
        scorer.observe(learner.admit(batch, [event.timestamp for event in batch], 0).seen)
        np.add.at(shown_I, items[part], 1.0)
        np.add.at(clicked_I, items[part], clicks[part])
    final = {
        "popularity": clicked_I,
        "rate": clicked_I / np.maximum(shown_I, 1),
        "corrected": scorer.rate_I()[rows].double().numpy(),
    }
    return {name: np.concatenate(parts) for name, parts in found.items()} | {f"{n}, items": v for n, v in final.items()}


def simulated(log: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, Numbers]:
    """The log with clicks drawn by the position-based model; items' rates are 2 to 30%. The best items stand last."""
    random = np.random.default_rng(seed)
    size = int(log["item_id"].max()) + 1
    taken_I = random.permutation(np.linspace(0.02, 0.3, size))
    log = log.copy()
    best = taken_I[log["item_id"].to_numpy()] > np.median(taken_I)
    places = np.where(random.random(len(log)) < 0.7, np.where(best, 3, 1), random.integers(1, 4, len(log)))
    log["position"] = places
    log["click"] = (random.random(len(log)) < taken_I[log["item_id"].to_numpy()] * EXAMINED[places - 1]).astype(int)
    return log, taken_I


def log_loss(chance: Numbers, click: Numbers) -> float:
    """Mean negative log-likelihood."""
    chance = chance.clip(1e-6, 1 - 1e-6)
    return float(-(click * np.log(chance) + (1 - click) * np.log(1 - chance)).mean())


def auc(score: Numbers, click: Numbers) -> float:
    """Chance that a clicked impression stands above one that was not; ties count half."""
    positives = click.sum()
    ranks = rankdata(score)[click > 0].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (len(click) - positives)))


def interval(score: Numbers, click: Numbers, random: np.random.Generator) -> list[float]:
    """95% bootstrap interval of the AUC."""
    draws = [random.integers(0, len(click), len(click)) for _ in range(DRAWS)]
    return [float(q) for q in np.quantile([auc(score[draw], click[draw]) for draw in draws], [0.025, 0.975])]


def compared(log: pd.DataFrame, truth_I: Numbers | None) -> dict[str, dict[str, Any]]:
    """Each method on one log."""
    click, found = log["click"].to_numpy(dtype=np.float64), predicted(log)
    random = np.random.default_rng(1)
    report: dict[str, dict[str, Any]] = {}
    for name in ("popularity", "rate", "corrected"):
        chance = found[name]
        report[name] = {"auc": auc(chance, click), "interval": interval(chance, click, random)}
        report[name]["log_loss"] = None if name == "popularity" else log_loss(chance, click)
        if truth_I is not None:
            report[name]["tau"] = float(kendalltau(found[f"{name}, items"], truth_I).statistic)
    return report


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[3] / "shared" / "data" / "open-bandit-small"
    parser.add_argument("--data", type=Path, default=default, help="folder of the CSV files")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    reports: dict[str, Any] = {}
    print("| log | clicks | method | AUC (95%) | log loss | Kendall's tau |\n|---|---|---|---|---|---|")
    for name in LOGS:
        observed = pd.read_csv(given.data / f"{name}.csv").sort_values("timestamp", kind="stable")
        drawn, truth_I = simulated(observed, 1)
        for kind, log, truth in (("observed", observed, None), ("simulated", drawn, truth_I)):
            reports[f"{name}, {kind}"] = found = compared(log, truth)
            for method, row in found.items():
                loss, tau = (f"{row[key]:.4f}" if row.get(key) is not None else "–" for key in ("log_loss", "tau"))
                low, high = row["interval"]
                cells = f"{row['auc']:.3f} ({low:.3f}–{high:.3f}) | {loss} | {tau}"
                print(f"| {name}, {kind} | {int(log['click'].sum())} | {method} | {cells} |", flush=True)
    write(given.out, "impressions", reports)


if __name__ == "__main__":
    main()
