"""The pictures of the contest: work against precision, and who solves what."""

import numpy as np
import seaborn as sns
import torch
from matplotlib.figure import Figure

from geolib import METHODS
from geolib.companion.figures import style
from geolib.companion.figures import plots
from geolib.companion.studies.shortest_curves.solvers import SOLVED, Row, shortest, success

_FLOOR = 1e-8  # below that, 512 chords and rounding decide
_MARKERS = "osD^vP*Xd"


def work_precision(rows: list[Row]) -> Figure:
    """Median relative excess over the shortest known curves against time (top) and decoder evaluations (bottom)."""
    problems = list(dict.fromkeys(row.problem for row in rows))
    figure, axes = plots.new_figure(
        style.PAGE, 4.6, rows=2, columns=len(problems), sharey="row", sharex="row", squeeze=False
    )
    colors = sns.color_palette("colorblind", len(METHODS))
    for column, problem in enumerate(problems):
        own = [row for row in rows if row.problem == problem]
        best = shortest(own)
        for method, color, marker in zip(METHODS, colors, _MARKERS, strict=True):
            done = [row for row in own if row.method == method and row.in_time]
            excess = [_excess(row, best) for row in done]
            for line, work in enumerate(([row.seconds for row in done], [row.evaluations for row in done])):
                axes[line, column].plot(
                    np.array(work) / len(best),
                    excess,
                    marker=marker,
                    markersize=3.2,
                    linewidth=0.9,
                    color=color,
                    label=method,
                )
        axes[0, column].set_title(problem)
        axes[0, column].set_xlabel("seconds a pair")
        axes[1, column].set_xlabel("evaluations a pair")
        for panel in axes[:, column]:
            panel.set(xscale="log", yscale="log")
            panel.grid(True, which="major", linewidth=0.3, alpha=0.6)
    for panel in axes[:, 0]:
        panel.set_ylabel("median relative excess length")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=len(METHODS),
        handlelength=1.4,
        columnspacing=1.0,
    )
    return figure


def _excess(row: Row, best: torch.Tensor) -> float:
    return max(_FLOOR, float((torch.tensor(row.lengths, dtype=torch.float64) / best - 1).median()))


def successes(rows: list[Row]) -> Figure:
    """Share of pairs solved by each method at its standard setting; what it claimed, and its time, in the cells."""
    problems = list(dict.fromkeys(row.problem for row in rows))
    shares, words = np.full((len(METHODS), len(problems)), np.nan), []
    for i, method in enumerate(METHODS):
        words.append([])
        for j, problem in enumerate(problems):
            found = success(rows, problem, method)
            if found is None:
                words[-1].append("out of time")
                continue
            shares[i, j] = 100 * found.solved
            words[-1].append(f"{100 * found.solved:.0f} %  ({100 * found.claimed:.0f} %)\n{_time(found.seconds)}")
    figure, axes = plots.new_figure(style.PAGE * 0.8, 0.42 * len(METHODS) + 0.7)
    axes.set_facecolor("0.9")
    sns.heatmap(
        shares,
        ax=axes,
        annot=np.array(words),
        fmt="",
        cmap="crest",
        vmin=0,
        vmax=100,
        linewidths=1,
        annot_kws={"fontsize": 6.5},
        xticklabels=problems,
        yticklabels=METHODS,
        cbar_kws={"label": f"pairs solved to {100 * SOLVED:g} % [%]"},
    )
    # seaborn annotates only what has a value
    for i, j in zip(*np.nonzero(np.isnan(shares)), strict=True):
        axes.text(j + 0.5, i + 0.5, words[i][j], ha="center", va="center", fontsize=6.5, color="0.35")
    axes.tick_params(left=False, bottom=False, labelrotation=0)
    axes.set_title("solved (reported as converged), time a pair")
    return figure


def _time(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds >= 1
        else f"{1000 * seconds:.0f} ms"
        if seconds >= 0.01
        else f"{1000 * seconds:.1f} ms"
    )
