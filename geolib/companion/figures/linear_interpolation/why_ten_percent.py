"""The panel of notebook 09: the mean improvement on every rung between our model and the paper's number."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geolib.companion.figures import plots, style
from geolib.companion.studies.linear_interpolation.monte_carlo import PAPER_MEAN
from geolib.companion.studies.linear_interpolation.why_ten_percent import Ladder, Mean

_ROW = 0.23  # inches
_TRUE, _RULE, _SOLVER = style.PALETTE[0], style.PALETTE[7], style.PALETTE[4]


def staircase(found: Ladder) -> Figure:
    """One row per rung: what is true, what their rule makes of it, and what their code would print."""
    rows = np.arange(len(found.measured))
    figure, axes = plots.new_figure(style.PAGE, 1.1 + _ROW * len(rows))
    true = [measured.true for measured in found.measured]
    edges = np.concatenate([[rows[0] - 0.5], np.repeat(rows[:-1] + 0.5, 2), [rows[-1] + 0.5]])
    axes.plot(np.repeat([mean.value for mean in true], 2), edges, color=_TRUE, linewidth=1.2)
    for row, measured in zip(rows, found.measured, strict=True):
        _drawn(axes, measured.true, row - 0.17, _TRUE, "o")
        axes.plot(measured.rule.value, row, "|", color=_RULE, markersize=6, markeredgewidth=1.2)
        _drawn(axes, measured.solver, row + 0.17, _SOLVER, "D")
        if measured.rung.theirs:
            axes.axhspan(row - 0.5, row + 0.5, color="0.92", linewidth=0, zorder=0)
    axes.axvline(PAPER_MEAN, color=style.PALETTE[7], linewidth=1.2, linestyle="--")
    axes.set_yticks(rows, [measured.rung.label for measured in found.measured])
    highest = max(PAPER_MEAN, *(_high(mean) for m in found.measured for mean in (m.true, m.rule, m.solver)))
    axes.set(xlim=(0, 1.08 * highest), ylim=(rows[-1] + 0.5, -0.5), xlabel="mean relative improvement [%]")
    axes.tick_params(axis="y", length=0)
    above = axes.secondary_xaxis("top")
    above.set_xticks([PAPER_MEAN], [f"the paper: {PAPER_MEAN:.2f} %"])
    above.tick_params(length=0)
    above.spines["top"].set_visible(False)
    handles = [
        axes.plot([], [], "o-", color=_TRUE, markersize=4, label="true improvement")[0],
        axes.plot([], [], "|", color=_RULE, markersize=6, markeredgewidth=1.2, label="their rule, same curves")[0],
        axes.plot([], [], "D-", color=_SOLVER, markersize=3, label="their solver and rule")[0],
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def _high(mean: Mean) -> float:
    return mean.high if math.isfinite(mean.half) else mean.value


def _drawn(axes: Axes, mean: Mean, row: float, color: str, marker: str) -> None:
    if math.isfinite(mean.half):
        axes.plot([mean.low, mean.high], [row, row], color=color, linewidth=1.0)
    axes.plot(mean.value, row, marker, color=color, markersize=4 if marker == "o" else 3)
