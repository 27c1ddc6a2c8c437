"""Panels of notebook 11: maps of five Jacobians, their spread, and geodesics that leave the data."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from geolib.companion.figures import plots, style
from geolib.companion.studies.generative_models.generators import MODELS, Curves, Generators, Landscape

_SHOWN = 12  # curves that can be told apart
_PLACES = {"at the data": ("o", style.PALETTE[0]), "off the data": ("s", style.PALETTE[4])}
_DOTS = 1000


def maps(found: Generators) -> Figure:
    """RA-1 to RA-5: log det(J^T J) and the condition number of J of five generators, on common scales."""
    figure, axes = plots.new_figure(style.PAGE, 2.9, rows=2, columns=len(MODELS))
    shown = [found.first(name) for name in MODELS]
    at_data = torch.cat([one.log_det_at_data for one in shown])
    kappas = torch.cat([one.kappa_at_data for one in shown]).log10()
    scales = (plots.limits_at(at_data), {"vmin": 0.0, "vmax": plots.limits_at(kappas)["vmax"]})
    for column, one in enumerate(shown):
        for row, (values, cmap) in enumerate(((one.log_det, style.FIELD), (one.kappa.log10(), style.GROUND))):
            panel = axes[row, column]
            picture = plots.heat_map(panel, one.grid, values, cmap=cmap, **scales[row])
            if row:
                panel.scatter(*plots.to_numpy(one.latents[:_DOTS]).T, s=0.3, color=style.PALETTE[0], linewidths=0)
            else:
                panel.set_title(one.label.replace(" ", "\n", 1), fontsize=7.5)
                panel.set_xlabel("")
            if column:
                panel.set_ylabel("")
            panel.locator_params(nbins=3)
            if column == len(MODELS) - 1:
                label = (r"$\log\det J^\top J$", r"$\log_{10}\kappa(J)$")[row]
                plots.color_bar(picture, list(axes[row]), label)
    return figure


def spreads(found: Generators) -> Figure:
    """Median, 5th and 95th percentile of both quantities, at the data and off the data."""
    figure, axes = plots.new_figure(style.PAGE, 2.4, columns=2, sharey=True)
    for panel, quantity, label in (
        (axes[0], "log det", r"$\log\det J^\top J$"),
        (axes[1], "kappa", r"condition number $\kappa(J)$"),
    ):
        for k, (where, (marker, color)) in enumerate(_PLACES.items()):
            _intervals(panel, found, quantity, where, shift=0.15 * (2 * k - 1), marker=marker, color=color)
        panel.set_xlabel(label)
        panel.grid(axis="x", color="0.9", linewidth=0.5)
    axes[1].set_xscale("log")
    labels = [found.first(name).label for name in MODELS]
    axes[0].set(yticks=range(len(MODELS)), yticklabels=labels, ylim=(len(MODELS) - 0.5, -0.5))
    handles = [Line2D([], [], marker=m, color=c, linewidth=1, markersize=4, label=w) for w, (m, c) in _PLACES.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _intervals(panel: Axes, found: Generators, quantity: str, where: str, *, shift: float, **look: str) -> None:
    spreads = [found.spread(name, quantity, where) for name in MODELS]
    y = np.arange(len(MODELS)) + shift
    panel.hlines(y, [s.low for s in spreads], [s.high for s in spreads], color=look["color"], linewidth=1)
    panel.plot([s.median for s in spreads], y, look["marker"], color=look["color"], markersize=4)


def geodesics(found: Curves, ground: Landscape) -> Figure:
    """RA-1: geodesics without and with the variance, over the metric without it, and where the data end."""
    figure, axes = plots.new_figure(style.PAGE, 3.5, columns=2, sharex=True, sharey=True)
    limits = plots.limits_at(ground.log_det_at_data)
    for panel, points, title in (
        (axes[0], found.without, r"without $\sigma$"),
        (axes[1], found.with_sigma, r"with the RBF's $\sigma$"),
    ):
        picture = plots.heat_map(panel, ground.grid, ground.log_det, cmap=style.GROUND, **limits)
        off = plots.to_numpy(ground.off).astype(float)
        panel.contour(
            *map(plots.to_numpy, (ground.grid.x, ground.grid.y)), off, levels=[0.5], colors="0.2", linewidths=0.4
        )
        colors = [style.PALETTE[k % 6] for k in range(_SHOWN)]
        plots.draw_curves(panel, points[:_SHOWN], colors=colors, linewidths=1.1)
        ends = torch.cat([points[:_SHOWN, 0], points[:_SHOWN, -1]])
        panel.scatter(*plots.to_numpy(ends).T, s=8, color="black", linewidths=0, zorder=5)
        panel.set_title(title)
    axes[1].set_ylabel("")
    plots.color_bar(picture, list(axes), r"$\log\det J^\top J$")
    return figure
