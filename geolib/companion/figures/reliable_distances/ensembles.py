"""Panels of notebook 15: variances and curves of an ensemble, distances over retrainings, members drawn per node."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from geolib.companion.figures import plots, style
from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.reliable_distances.drawn_members import DrawnMembers
from geolib.companion.studies.reliable_distances.ensembles import NETWORK, Ensembles
from geolib.companion.studies.reliable_distances.retrainings import KINDS, Retrainings

_DOTS = 1500
_LEVELS_SHOWN = 3


def variances(found: Ensembles) -> Figure:
    """B-4: log sum sigma of the network, the RBF and the ensemble on one scale, with the encoded test data."""
    figure, axes = plots.new_figure(style.PAGE, 2.5, columns=len(found.maps), sharex=True, sharey=True)
    limits = plots.limits_at(torch.stack(list(found.maps.values())), share=1.0)
    for panel, (name, values) in zip(axes, found.maps.items(), strict=True):
        picture = plots.heat_map(panel, found.grid, values, **limits)
        _dots(panel, found.g, "white")
        panel.set_title(name)
    for panel in axes[1:]:
        panel.set_ylabel("")
    plots.color_bar(picture, list(axes), plots.LOG_SIGMA)
    return figure


def curves(found: Ensembles) -> Figure:
    """B-4: geodesics under three metrics over the encoded data, and how far from it curves lie."""
    figure, axes = plots.new_figure(style.PAGE, 2.1, columns=4)
    shown = {name: points for name, points in found.shown.items() if name != NETWORK}
    reach = LatentGrid.around(
        torch.cat([found.g.test_latents, *(points.flatten(0, 1) for points in shown.values())]),
        resolution=100,
        margin=0.02,
    ).extent
    for panel, (name, points) in zip(axes, shown.items(), strict=False):
        plots.latent_axes(panel)
        panel.set(title=name, xlim=reach[:2], ylim=reach[2:])
        plots.draw_curves(panel, points, colors=style.PALETTE[0], linewidths=0.9)
        _dots(panel, found.g, "0.75")
    for panel in axes[1:3]:
        panel.set(ylabel="", yticklabels=[])
    distances = [found.distance(name) for name in found.kinds]
    means, halves = [summaries.mean(x) for x in distances], [float(summaries.half_width(x)) for x in distances]
    plots.intervals(axes[3], found.kinds, means, halves)
    axes[3].set(xlabel="distance to the data", xlim=(0, None), box_aspect=1)
    return figure


def retrainings(found: Retrainings) -> Figure:
    """B-6: coefficients of variation over trainings of all pairs, and rank correlations between trainings."""
    figure, axes = plots.new_figure(style.PAGE, 2.4, columns=2, sharey=True)
    y = np.arange(len(KINDS))
    for row, kind in enumerate(KINDS):
        values = 100 * found.variation(kind)
        rows = row + np.linspace(-0.25, 0.25, len(values))
        axes[0].scatter(plots.to_numpy(values), rows, s=4, color="0.65", linewidths=0, zorder=1)
        between = plots.to_numpy(found.agreement(kind))
        axes[1].scatter(between, row + 0.2 * np.ones(len(between)), s=12, color="0.5", linewidths=0.8, marker="|")
    variations = [100 * found.variation(kind) for kind in KINDS]
    plots.intervals(
        axes[0],
        KINDS,
        [summaries.mean(x) for x in variations],
        [float(summaries.half_width(x)) for x in variations],
    )
    plots.intervals(axes[1], KINDS, *zip(*(found.mean_agreement(kind) for kind in KINDS), strict=True))
    axes[0].set(xlabel="coefficient of variation over trainings [%]", xlim=(0, None), yticks=y)
    axes[1].set(xlabel="rank correlation of two trainings")
    return figure


def drawn_members(found: DrawnMembers) -> Figure:
    """B-7: lengths over the number of segments, and the curves that least energy with drawn members leads to."""
    figure, axes = plots.new_figure(style.PAGE, 2.7, columns=2, gridspec_kw={"width_ratios": [1, 1.1]})
    n = [level.n_segments for level in found.levels]
    means = [float(level.drawn.mean()) for level in found.levels]
    errors = [float(level.drawn.std()) for level in found.levels]
    drawn, expected = style.PALETTE[4], style.PALETTE[0]
    axes[0].errorbar(n, means, yerr=errors, fmt="o", color=drawn, markersize=4, linewidth=1, label="drawn per node")
    axes[0].plot(n, [level.predicted for level in found.levels], "--", color=drawn, linewidth=1, label="its formula")
    lengths = [level.expected for level in found.levels]
    axes[0].plot(n, lengths, "s-", color=expected, markersize=3, linewidth=1.2, label="expected metric")
    axes[0].set(xscale="log", xlabel="segments N", ylabel="length of the geodesic", ylim=(0, None))
    axes[0].set_xticks(n, [str(k) for k in n])
    axes[0].minorticks_off()
    _shapes(axes[1], found)
    points, line, formula = (axes[0].containers[0], axes[0].lines[-1], axes[0].lines[-2])
    handles = [points, formula, line] + [
        Line2D([], [], color=style.PALETTE[k + 1], marker=".", linewidth=0.8, label=f"N = {level.n_segments}")
        for k, level in enumerate(_few(found))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6)
    return figure


def _few(found: DrawnMembers) -> list:
    chosen = np.linspace(0, len(found.levels) - 1, min(_LEVELS_SHOWN, len(found.levels))).round().astype(int)
    return [found.levels[k] for k in chosen]


def _shapes(panel: Axes, found: DrawnMembers) -> None:
    levels = _few(found)
    geodesic = found.geodesic.points
    reach = torch.cat([geodesic.cpu(), *(level.points for level in levels)])
    grid = LatentGrid.around(reach, resolution=100, margin=0.15)
    values = summaries.log_sigma(found.members.std, grid.points.to(geodesic))
    picture = plots.heat_map(panel, grid, values, cmap=style.GROUND)
    plots.draw_curves(panel, geodesic[None], colors=style.PALETTE[0], linewidths=1.6, zorder=3)
    for k, level in enumerate(levels):
        x, y = plots.to_numpy(level.points).T
        panel.plot(x, y, ".-", color=style.PALETTE[k + 1], markersize=3, linewidth=0.8, zorder=4)
    plots.color_bar(picture, panel, plots.LOG_SIGMA)


def _dots(panel: Axes, g: Generator, color: str) -> None:
    points = plots.to_numpy(g.test_latents[:_DOTS]).T
    panel.scatter(*points, s=0.4, color=color, linewidths=0, rasterized=True)
    plots.label_classes(panel, g.test_latents, g.test_labels)
