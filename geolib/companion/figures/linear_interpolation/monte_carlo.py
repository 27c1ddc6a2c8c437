"""Panels of notebook 04: improvements of straight lines, on the map and as a histogram."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geolib import magnification_factor
from geolib.companion.figures import plots, style
from geolib.companion.studies.linear_interpolation.monte_carlo import PAPER_MEAN, MonteCarlo
from geolib.companion.studies.linear_interpolation.worst_case import DIRECTIONS, LABELS, WorstCase

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
    plots.color_bar(ground, axes, plots.LOG_VOLUME, location="top")
    plots.color_bar(lines, axes, "relative improvement [%]", location="bottom")
    return figure


def histogram(found: MonteCarlo) -> Figure:
    """MB-4: relative improvements on a logarithmic count, and the means of retrained models beside the paper's."""
    figure, axes = plots.new_figure(style.PAGE, 2.4, columns=2, gridspec_kw={"width_ratios": [2, 1]})
    _counts(axes[0], found)
    _means(axes[1], found)
    return figure


def worst_case(found: WorstCase) -> Figure:
    """Mean improvements along three directions over the step size, and how much more lines along v_max can gain."""
    figure, axes = plots.new_figure(style.PAGE, 2.4, columns=2, gridspec_kw={"width_ratios": [2, 1]})
    steps = np.array(found.step_sizes)
    for k, name in enumerate(DIRECTIONS):
        mean, low, high = plots.to_numpy(found.mean(name)).T
        spread = np.abs(np.stack([mean - low, high - mean]))
        marks = {"color": style.PALETTE[k], "marker": style.MARKERS[k], "markersize": 4, "linewidth": 1.2}
        axes[0].errorbar(steps * 1.03 ** (k - 1), mean, yerr=spread, label=LABELS[name], capsize=2, **marks)
    axes[0].set(xscale="log", xlabel="step size [latent units]", ylabel="mean relative\nimprovement [%]")
    axes[0].set(ylim=(0, None))
    axes[0].set_xticks(steps, [f"{step:g}" for step in steps])
    axes[0].minorticks_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(DIRECTIONS))
    for k, name in enumerate(DIRECTIONS[1:], start=1):
        mean, low, high = found.difference(name)
        axes[1].plot([low, high], [k, k], color=style.PALETTE[k], linewidth=1.5)
        axes[1].plot(mean, k, marker=style.MARKERS[k], color=style.PALETTE[k], markersize=5)
    axes[1].axvline(0, color="0.35", linewidth=0.8)
    names = [LABELS[name].replace(" ", "\n") for name in DIRECTIONS[1:]]
    axes[1].set_yticks(range(1, len(DIRECTIONS)), names)
    axes[1].set(ylim=(0.5, len(DIRECTIONS) - 0.5), xlabel="maximal eigenvector's mean\nless this one's [points]")
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
