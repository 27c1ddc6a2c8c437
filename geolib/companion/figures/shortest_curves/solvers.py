"""Panels of notebook 06: work against precision, and who solves what."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from geolib import METHODS
from geolib.companion.figures import plots, style
from geolib.companion.studies.shortest_curves.solvers import Contest, Row, percent

_FLOOR = 1e-8  # rounding and the 512 chords decide what lies below

# One colour per family, so that nine methods can be told apart: those that move points, those with few parameters,
# those that solve the geodesic equation, and the graph. Within a family, the marker and its filling differ.
_POINTS, _PARAMETERS, _EQUATION, _GRAPH = style.PALETTE[0], style.PALETTE[4], style.PALETTE[2], style.PALETTE[7]
_LOOKS = {
    "newton": (_POINTS, "o", True),
    "georce": (_POINTS, "s", False),
    "discrete": (_POINTS, "^", False),
    "spline": (_PARAMETERS, "D", True),
    "quadratic": (_PARAMETERS, "v", False),
    "network": (_PARAMETERS, "P", False),
    "bvp": (_EQUATION, "X", True),
    "fixed_point": (_EQUATION, "d", False),
    "graph": (_GRAPH, "*", True),
}


def work_precision(found: Contest) -> Figure:
    """B-1: relative excess over the shortest known curves against time (top) and decoder evaluations (bottom)."""
    n = len(found.problems)
    figure, axes = plots.new_figure(style.PAGE, 4.9, rows=2, columns=n, sharey=True, sharex="row", squeeze=False)
    for column, problem in enumerate(found.problems):
        for line, work in enumerate(("seconds", "evaluations")):
            axes[line, column].set(xscale="log", yscale="log")
            for method in _LOOKS:
                _line(axes[line, column], found, found.of(problem, method), work, method)
            axes[line, column].grid(True, which="major", linewidth=0.3, color="0.85")
        axes[0, column].set_title(f"{problem}\n{found.n_pairs[problem]} pairs")
        if not found.of(problem):
            for panel in axes[:, column]:
                panel.text(0.5, 0.5, "all over budget", ha="center", va="center", transform=panel.transAxes)
    for line, label in enumerate(("time\nper pair [s]", "evaluations\nper pair")):
        # labels of the powers of ten only, of which at least one is shown: those between would overlap
        low, high = axes[line, 0].get_xlim()
        axes[line, 0].set_xlim(low, max(high, 10 ** np.ceil(np.log10(low))))
        for panel in axes[line]:
            panel.set_xlabel(label)
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.yaxis.set_minor_formatter(NullFormatter())
        axes[line, 0].set_ylabel("relative excess length")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), handlelength=1.6, columnspacing=0.9)
    return figure


def _line(axes: Axes, found: Contest, rows: list[Row], work: str, method: str) -> None:
    """A method's settings, each at the median over pairs with a bar from the lower to the upper quartile."""
    color, marker, filled = _LOOKS[method]
    spent = [getattr(row, work) / found.n_pairs[row.problem] for row in rows]
    quartiles = [np.quantile(found.excess(row), (0.25, 0.5, 0.75)).clip(min=_FLOOR) for row in rows]
    low, middle, high = np.array(quartiles).reshape(-1, 3).T
    if rows:  # an empty collection would put a zero on the logarithmic axes
        axes.vlines(spent, low, high, color=color, linewidth=0.6, alpha=0.6, zorder=2)
    look = {"markerfacecolor": color if filled else "white", "markeredgewidth": 0.7, "markersize": 4}
    axes.plot(spent, middle, marker=marker, color=color, linewidth=0.8, label=method, zorder=3, **look)


def successes(found: Contest) -> Figure:
    """B-1: how many pairs each method solves at its standard setting, and how long it takes."""
    shares = np.full((len(METHODS), len(found.problems)), np.nan)
    figure, axes = plots.new_figure(style.PAGE, 0.45 * len(METHODS) + 0.6)
    for i, method in enumerate(METHODS):
        for j, (problem, n) in enumerate(found.n_pairs.items()):
            success = found.success(problem, method)
            if success is None:
                words = "over budget"
            else:
                shares[i, j] = success.solved / n
                counts = f"{success.solved} of {n} ({success.converged})"
                words = f"{counts}\n{percent(success.interval)}\n{_time(success.seconds)}"
            axes.text(j, i, words, ha="center", va="center", fontsize=7)
    axes.imshow(np.ma.masked_invalid(shares), cmap=style.GROUND, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(found.problems)), found.problems)
    axes.set_yticks(range(len(METHODS)), METHODS)
    axes.set_xticks(np.arange(len(found.problems) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(METHODS) - 1) + 0.5, minor=True)
    axes.grid(True, which="minor", color="0.8", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("pairs solved (reported as converged), 95 % interval of the share solved, time per pair")
    return figure


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
