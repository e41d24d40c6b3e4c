"""What diversity costs: nDCG@10 against intra-list diversity, coverage and Gini, over methods and strengths.

    python tests/benchmarks/diversity.py --data DIR [--set ml-100k,movietweetings] [--first N] [--full] [--out DIR]

One prequential run per set: all settings re-rank the same predictions, so that
they differ in the order alone. `--full` learns by the default settings; without
it the interest model is left small. Writes DIR/diversity.json, prints the table.
"""

from __future__ import annotations

from typing import Any

import torch
from streams import BEFORE_ALL, Stream, arguments, learner_of, load, settings_of, write

from pipeline.evaluation.metrics import Tally
from pipeline.learning.batch import NO_ITEM
from pipeline.learning.diversity import diversified, intra_list_diversity
from pipeline.learning.learner import Batch, Learner, Predictions
from pipeline.settings import Diversity
from pipeline.step import micro_batches

STRENGTHS = (0.1, 0.2, 0.3, 0.5, 0.7)
TOP = 10


class Shown:
    """Lists made under one setting, added up."""

    def __init__(self, wanted: Diversity) -> None:
        self.wanted = wanted
        self.tally = Tally(TOP)
        self.diverse = 0.0
        self.lists = 0

    def add(self, learner: Learner, batch: Batch, predicted: Predictions) -> None:
        """A micro-batch's predictions, re-ranked."""
        vector_QCP = learner.catalogue.projected_IP[predicted.rows_QC]
        order_QN = diversified(predicted.score_QC, vector_QCP, TOP, self.wanted)
        present_QN = predicted.score_QC.gather(1, order_QN) > -torch.inf
        rows_QN = predicted.rows_QC.gather(1, order_QN).masked_fill(~present_QN, NO_ITEM)
        hit_QN = rows_QN == batch.target_Q[:, None]
        rank_Q = torch.where(hit_QN.any(1), hit_QN.int().argmax(1) + 1, 0)
        self.tally.add(rank_Q, batch.questions.banned.left(), rows_QN)
        of_list_Q = intra_list_diversity(learner.catalogue.projected_IP[rows_QN.clamp(min=0)], present_QN)
        self.diverse += float(of_list_Q.nansum())
        self.lists += int((~of_list_Q.isnan()).sum())

    def report(self, items: int) -> dict[str, Any]:
        """Quality and diversity."""
        found = self.tally.report(items)
        kept = {name: found[name] for name in ("n", "ndcg", "hr", "coverage", "gini")}
        return self.wanted.model_dump() | kept | {"ild": self.diverse / max(self.lists, 1)}


def compared(stream: Stream, full: bool) -> list[dict[str, Any]]:
    """One run over the stream; a report for each setting, plain lists first."""
    plain = Diversity(method="none")
    settings = [plain] + [Diversity(method=m, strength=s) for m in ("mmr", "dpp") for s in STRENGTHS]
    shown = [Shown(wanted) for wanted in settings]
    learner = learner_of(stream, settings_of(full))
    watermark = BEFORE_ALL
    for part in micro_batches(len(stream.events), learner.settings.learning.micro_batch):
        events = stream.events[part]
        batch = learner.admit(events, [event.timestamp for event in events], watermark)
        predicted = learner.predict(batch.questions)
        if len(batch.target_Q):
            for one in shown:
                one.add(learner, batch, predicted)
        learner.learn(batch, predicted, learner.score(batch, predicted))
        watermark = max(watermark, events[-1].timestamp)
    return [one.report(len(stream.items)) for one in shown]


def main() -> None:
    """Run and print."""
    given = arguments(__doc__, "ml-100k,movietweetings", 12_000).parse_args()
    torch.set_num_threads(given.threads)
    reports: dict[str, Any] = {}
    for name in given.sets.split(","):
        stream = load(given.data, name, given.first)
        reports[name] = {"events": len(stream.events), "settings": compared(stream, given.full)}
        print(f"\n{name}, {len(stream.events)} events\n")
        print("| method | strength | nDCG@10 | price | intra-list diversity | coverage | Gini |")
        print("|---|---|---|---|---|---|---|")
        plain = reports[name]["settings"][0]["ndcg"] or 1.0
        for row in reports[name]["settings"]:
            cells = [f"{row['ndcg']:.4f}", f"{row['ndcg'] / plain - 1:+.1%}"]
            cells += [f"{row[key]:.3f}" for key in ("ild", "coverage", "gini")]
            print(f"| {row['method']} | {row['strength']} | " + " | ".join(cells) + " |", flush=True)
    write(given.out, "diversity", reports)


if __name__ == "__main__":
    main()
