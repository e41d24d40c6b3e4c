"""nDCG over the stream, a line per contestant, as an SVG."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipeline.evaluation.record import Predictions

POINTS = 60
SMOOTHED = 0.1
"""Share of the stream that a point is the mean of."""


def curve(score_N: np.ndarray, event_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Events and means of the score over the tenth of the predictions that ends there."""
    window = max(1, int(len(score_N) * SMOOTHED))
    ends = np.unique(np.linspace(window, len(score_N), POINTS).astype(int))
    total = np.concatenate([[0.0], np.cumsum(score_N)])
    return event_N[ends - 1] + 1, (total[ends] - total[ends - window]) / window


def draw(predictions: Predictions, names: list[str], title: str, path: Path) -> None:
    """Write the plot; the first name stands out. The same predictions give the same bytes."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = mpl.colormaps["tab20"]
    for number, name in enumerate(names):
        x, y = curve(predictions.ndcg(name), predictions.event_N)
        first = number == 0
        axes.plot(
            x,
            y,
            label=name,
            color="black" if first else colours((number - 1) % 20),
            linewidth=2.5 if first else 1.2,
            zorder=3 if first else 2,
        )
    axes.set_xlabel("events")
    axes.set_ylabel("nDCG@10, over a tenth of the stream")
    axes.set_title(title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="x-small", frameon=False)
    with mpl.rc_context({"svg.hashsalt": "headrace", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
