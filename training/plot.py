"""Draws how the losses of a training run fell, from the log that it wrote.

    python -m training.plot --log WORK/loss.jsonl --out docs/images/reader-loss.svg [--marks 250,550,850]

Each part of the loss has a panel: the moving mean, and the band that four of five steps lie in. A run that was stopped
goes on a little before its last step; the last row of a step counts. Steps of nothing but greetings, which the reader
learns by heart, are left out. It prints the means of the last 100 steps. It knows the log's form; it knows no model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PARTS = {
    "reply": "tokens of the reply", "look": "where the last layer looks", "text": "tokens of the prompt",
    "rank": "right window first", "judge": "probability that it answers", "span": "start and end of the answer",
}  # fmt: skip
WIDTH = 0.05  # of the moving window, as a share of all steps
POINTS = 160  # of a curve: the picture stays small
COLOUR = "#2563a8"


def read_log(path: Path) -> list[dict[str, float]]:
    """One row for each step, in order."""
    rows = {row["step"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    return [rows[step] for step in sorted(rows) if {"look", "rank"} & rows[step].keys()]


def last_means(rows: Sequence[dict[str, float]], num_steps: int = 100) -> dict[str, float]:
    """Of each part of the loss that the last steps had."""
    late = [row for row in rows if row["step"] > rows[-1]["step"] - num_steps]
    values = {part: [row[part] for row in late if part in row] for part in PARTS}
    return {part: round(sum(some) / len(some), 3) for part, some in values.items() if some}


def smoothed(steps: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """[4, points]: step, mean, lower and upper edge of the band, around evenly spaced steps.

    >>> smoothed(np.arange(3), np.array([1.0, 2.0, 6.0]), 10)[1, 0]
    np.float64(3.0)
    """
    points = []
    for middle in np.linspace(steps[0], steps[-1], min(POINTS, len(steps))):
        near = values[np.abs(steps - middle) <= width / 2]
        if len(near):
            points.append((middle, near.mean(), *np.quantile(near, [0.1, 0.9])))
    return np.array(points).T


def draw(axes: Axes, rows: Sequence[dict[str, float]], part: str, marks: Sequence[float]) -> None:
    """One panel."""
    found = [(row["step"], row[part]) for row in rows if part in row]
    steps, values = np.array(found).T
    step, mean, low, high = smoothed(steps, values, max(WIDTH * rows[-1]["step"], 1))
    for mark in marks:
        axes.axvline(mark, color="#b0b0b0", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.fill_between(step, low, high, color=COLOUR, alpha=0.18, linewidth=0)
    axes.plot(step, mean, color=COLOUR, linewidth=1.6)
    axes.set_title(PARTS[part], fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.set_xlim(0, rows[-1]["step"])
    axes.set_ylim(0, 1.05 * float(high.max()))
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def picture(rows: Sequence[dict[str, float]], marks: Sequence[float]) -> Figure:
    parts = [part for part in PARTS if any(part in row for row in rows)]
    figure = Figure(figsize=(3.3 * len(parts), 2.7), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, part in zip(panels, parts, strict=True):
        draw(axes, rows, part, marks)
    panels[0].set_ylabel("loss", fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="its suffix says the format: .svg or .png")
    parser.add_argument("--marks", default="", help="steps at which a line is drawn, such as 250,550,850")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "carrel"}):  # text as text; the same bytes each time
        figure = picture(rows := read_log(args.log), [float(mark) for mark in args.marks.split(",") if mark])
        figure.savefig(args.out, dpi=110, metadata={"Date": None} if args.out.suffix == ".svg" else None)
    print(f"{rows[-1]['step']} steps, {sum(row['s'] for row in rows) / 60:.0f} minutes; last 100:", last_means(rows))


if __name__ == "__main__":
    main()
