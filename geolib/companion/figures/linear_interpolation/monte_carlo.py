"""Panels of notebook 04: improvements of straight lines, on the map and as a histogram."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geolib import magnification_factor
from geolib.companion.figures import plots, style
from geolib.companion.studies.linear_interpolation.monte_carlo import PAPER_MEAN, MonteCarlo

_BIN = 0.5  # per cent
_LAST = 12.0  # where the overflow bin begins


def improvement_map(found: MonteCarlo, *, resolution: int) -> Figure:
    """MB-2: the sampled lines over the magnification factor, coloured by relative improvement."""
    figure, axes = plots.new_figure(style.COLUMN, 4.5)
    grid, volume = found.volume(resolution=resolution)
    at_data = magnification_factor(found.g.metric(found.g.test_latents)).log()
    ground = plots.heat_map(axes, grid, volume, cmap=style.GROUND, **plots.limits_at(at_data))
    improvement = 100 * found.mc.improvement
    lines = plots.draw_segments(axes, found.mc.start, found.mc.end, improvement, cmap=style.LINES, width=0.5)
    plots.label_classes(axes, found.g.test_latents, found.g.test_labels)
    plots.color_bar(ground, axes, r"$\log\sqrt{\det M_z}$", location="top")
    plots.color_bar(lines, axes, "relative improvement [%]", location="bottom")
    return figure


def histogram(found: MonteCarlo) -> Figure:
    """MB-4: relative improvements on a logarithmic count, and the means of retrained models beside the paper's."""
    figure, axes = plots.new_figure(style.PAGE, 2.4, columns=2, gridspec_kw={"width_ratios": [2, 1]})
    _counts(axes[0], found)
    _means(axes[1], found)
    return figure


def _counts(axes: Axes, found: MonteCarlo) -> None:
    improvement = 100 * plots.to_numpy(found.mc.improvement)
    beyond = int((improvement >= _LAST).sum())
    counts, edges = np.histogram(improvement[improvement < _LAST], bins=np.arange(0, _LAST + _BIN / 2, _BIN))
    axes.bar(edges[:-1], counts, width=_BIN, align="edge", color=style.PALETTE[0], edgecolor="white", linewidth=0.3)
    overflow = _LAST + 2 * _BIN
    axes.bar(overflow, beyond, width=2 * _BIN, color=style.PALETTE[5])
    ticks = np.arange(0, _LAST, 2)
    axes.set_xticks([*ticks, overflow], [*(f"{tick:g}" for tick in ticks), f"≥ {_LAST:g}"])
    top = 6.0 * max(counts.max(), beyond)  # room for two lines of text above the bars
    axes.set(yscale="log", ylim=(0.7, top), xlim=(-_BIN, overflow + 2 * _BIN))
    axes.set(xlabel="relative improvement [%]", ylabel="number of lines")
    axes.yaxis.set_major_formatter("{x:,g}")
    ours = 100 * found.mc.mean
    first, second = sorted(
        [
            (min(ours, overflow), f"our mean\n{ours:.2f} %", style.PALETTE[4]),
            (PAPER_MEAN, f"the paper's\nmean {PAPER_MEAN:.2f} %", style.PALETTE[7]),
        ]
    )
    # the left one's text stands to its left where that keeps it off the right one's
    for (place, label, color), left in ((first, second[0] - first[0] < _LAST / 3), (second, False)):
        axes.axvline(place, color=color, linewidth=1.2)
        shift, aligned = (-0.15, "right") if left else (0.15, "left")
        axes.text(place + shift, 0.85 * top, label, color=color, va="top", ha=aligned)


def _means(axes: Axes, found: MonteCarlo) -> None:
    for seed, mc in enumerate((found.mc, *found.retrained)):
        low, high = mc.interval
        axes.plot([100 * low, 100 * high], [seed, seed], color=style.PALETTE[0], linewidth=1.5)
        axes.plot(100 * mc.mean, seed, "o", color=style.PALETTE[0], markersize=4)
    axes.axvline(PAPER_MEAN, color=style.PALETTE[7], linewidth=1.2)
    axes.set(
        xlabel="mean improvement [%]",
        ylabel="trained model",
        xlim=(0, None),
        yticks=range(len(found.means)),
        ylim=(-0.6, len(found.means) - 0.4),
    )
    axes.set_yticklabels([str(n + 1) for n in range(len(found.means))])
