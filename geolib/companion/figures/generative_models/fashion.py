"""Panels of notebook 12: what the variance does to the latent space of three classes of clothes."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from geolib.companion.figures import plots, style
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.generative_models.fashion import NETWORK, RBF, WITHOUT, Fashion
from geolib.companion.studies.generative_models.fashion_curves import LABELS, MANY, N_IMAGES, WIDE
from geolib.companion.studies.generative_models.surfaces import Surface, Surfaces
from geolib.companion.studies.generative_models.variance_sweep import CENTERS, CHOSEN, CURVATURES

_SIDE = 28  # pixels of an image
_DOTS = 1500
_WALKERS = 3
_POINTS = 600
LINE, GEODESIC, OTHER = style.PALETTE[7], style.PALETTE[4], style.PALETTE[0]


def surfaces(found: Surfaces) -> Figure:
    """DWB-1: the data in space, their latents, and the metric's magnification factor, with a line and a geodesic."""
    figure = plt.figure(figsize=(style.PAGE, 6.4))
    for row, one in enumerate(found.found.values()):
        space = figure.add_subplot(3, 3, 3 * row + 1, projection="3d")
        _draw_space(space, one)
        latent, metric = (figure.add_subplot(3, 3, 3 * row + k) for k in (2, 3))
        latent.set(xlim=one.grid.extent[:2], ylim=one.grid.extent[2:])
        plots.scatter_classes(latent, one.g.test_latents, one.g.test_labels)
        plots.latent_axes(latent)
        limits = plots.limits_at(one.log_volume_at_data)
        picture = plots.heat_map(metric, one.grid, one.log_volume, cmap=style.GROUND, **limits)
        for panel in (latent, metric):
            for points, color in ((one.line, LINE), (one.geodesic, GEODESIC)):
                plots.draw_curves(panel, points[:1], colors=color, linewidths=1.4, zorder=5)
        plots.color_bar(picture, metric, plots.LOG_VOLUME)
        if row == 0:
            for panel, title in ((space, "data"), (latent, "latents"), (metric, "metric")):
                panel.set_title(title)
        if row < 2:
            latent.set_xlabel("")
            metric.set_xlabel("")
        metric.set_ylabel("")
    handles = [
        Line2D([], [], color=c, linewidth=1.4, label=w) for c, w in ((LINE, "straight line"), (GEODESIC, "geodesic"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _draw_space(axes: Axes, one: Surface) -> None:
    data = one.g.data
    points, labels = (plots.to_numpy(x[:_POINTS]) for x in (data.train_images, data.train_labels))
    for color, label in zip(style.PALETTE, data.classes, strict=False):
        axes.scatter(*points[labels == label].T, s=1, alpha=0.5, color=color, linewidths=0)
    for curve, color in ((one.line, LINE), (one.geodesic, GEODESIC)):
        axes.plot(*plots.to_numpy(one.image(curve[0])).T, color=color, linewidth=1.4)
    axes.view_init(elev=15, azim=-65)
    axes.set(xticks=[], yticks=[], zticks=[], box_aspect=(1, 1, 1))
    axes.text2D(0.5, 0.0, one.label, transform=axes.transAxes, ha="center", va="top")


def latent_space(found: Fashion, *, side: int = 10) -> Figure:
    """DWB-3: encoded test images, and decoded ones on a regular grid over the same square."""
    figure, axes = plots.new_figure(style.PAGE, 3.4, columns=2, sharex=True, sharey=True)
    grid = LatentGrid.around(found.g.test_latents, resolution=side, margin=0)
    plots.scatter_classes(axes[0], found.g.test_latents, found.g.test_labels, size=3)
    plots.latent_axes(axes[0])
    plots.decoded_grid(axes[1], grid, found.g.vae.mean)
    for axis in (axes[0].xaxis, axes[0].yaxis):  # an image has no ticks, and both panels share theirs
        axis.set_major_locator(MaxNLocator(6))
    for panel, title in zip(axes, ("encoded test images", "decoded mean"), strict=True):
        panel.set(xlim=grid.extent[:2], ylim=grid.extent[2:], title=title)
    axes[1].set_ylabel("")
    return figure


def variances(found: Fashion) -> Figure:
    """DWB-4 and DWB-5: log sum sigma of the RBF over a (top), of the network and of the RBF over K (bottom)."""
    figure, axes = plots.new_figure(style.PAGE, 2.9, rows=2, columns=len(CURVATURES), sharex=True, sharey=True)
    fitted = found.sweep.fitted
    shown = [(f"$a$ = {a:g}", fitted[a, CHOSEN[1]].log_sigma) for a in CURVATURES]
    shown += [("network", found.sweep.network)] + [(f"$K$ = {k}", fitted[CHOSEN[0], k].log_sigma) for k in CENTERS]
    limits = plots.limits_at(torch.stack([values for _, values in shown]), share=1.0)
    for panel, (title, values) in zip(axes.flat, shown, strict=True):
        picture = plots.heat_map(panel, found.grid, values, **limits)
        panel.scatter(*_dots(found), s=0.2, color="white", linewidths=0, alpha=0.5, rasterized=True)
        panel.set(title=title, xlabel="", ylabel="")
        panel.locator_params(nbins=3)
    for panel in axes[1]:
        panel.set_xlabel("$z_1$")
    for panel in axes[:, 0]:
        panel.set_ylabel("$z_2$")
    plots.color_bar(picture, list(axes.flat), plots.LOG_SIGMA)
    return figure


def geodesic(found: Fashion) -> Figure:
    """DWB-6 and DWB-8: the metric with the RBF and with the network's variance, and images along three curves."""
    rows = [[RBF, NETWORK], ["strips", "strips"]]
    figure, axes = plt.subplot_mosaic(rows, figsize=(style.PAGE, 4.9), height_ratios=[2.1, 1])
    curves = found.curves
    drawn = {
        "straight line": (curves.line, LINE, "--"),
        "shortest curve": (curves.geodesics[CHOSEN], GEODESIC, "-"),
        "path over the graph": (curves.graph, OTHER, ":"),
    }
    for variance in (RBF, NETWORK):
        panel = axes[variance]
        picture = _volume(panel, found, variance)
        for points, color, line in drawn.values():
            plots.draw_curves(panel, points[:1], colors=color, linestyles=line, linewidths=1.4, zorder=5)
        panel.set_title(f"with {variance}")
        plots.color_bar(picture, panel, plots.LOG_VOLUME)
    axes[NETWORK].set_ylabel("")
    handles = [Line2D([], [], color=c, linestyle=s, linewidth=1.4, label=w) for w, (_, c, s) in drawn.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    strips = axes["strips"]
    images = torch.cat([curves.images(drawn[kind][0][:1])[0] for kind in ("shortest curve", "straight line")])
    plots.image_grid(strips, images, columns=N_IMAGES)
    strips.set_yticks([_SIDE / 2, 1.5 * _SIDE], ["shortest curve", "straight line"])
    strips.tick_params(length=0)
    return figure


def extremes(found: Fashion) -> Figure:
    """DWB-7: the same pair at other hyperparameters, and how much of many curves lies off the data."""
    figure, axes = plots.new_figure(style.PAGE, 3.0, columns=3, gridspec_kw={"width_ratios": [1, 1, 1.1]})
    curves = found.curves
    for panel, setting in zip(axes, (WIDE, MANY), strict=False):
        picture = _volume(panel, found, LABELS[setting])
        plots.draw_curves(panel, curves.geodesics[CHOSEN][:1], colors=GEODESIC, linewidths=1.2, zorder=5)
        plots.draw_curves(panel, curves.geodesics[setting][:1], colors=OTHER, linewidths=1.2, zorder=5)
        plots.draw_curves(panel, curves.line[:1], colors=LINE, linestyles="--", linewidths=1.0, zorder=5)
        panel.set_title(LABELS[setting])
        plots.color_bar(picture, panel, plots.LOG_VOLUME, location="bottom")
    axes[1].set_ylabel("")
    kinds = {"straight line": curves.line, **{LABELS[s]: points for s, points in curves.geodesics.items()}}
    shares = [100 * curves.off.shares(points) for points in kinds.values()]
    plots.intervals(
        axes[2], list(kinds), [summaries.mean(x) for x in shares], [float(summaries.half_width(x)) for x in shares]
    )
    axes[2].set(xlabel="length off the data [%]", xlim=(0, None))
    return figure


def walks(found: Fashion) -> Figure:
    """DWB-9: walks that follow the metric, over the variance; walks that do not, with the data's extent."""
    figure, axes = plots.new_figure(style.PAGE, 3.2, columns=2)
    walked = (found.walks.riemannian, found.walks.euclidean)
    limits = plots.limits_at(found.sweep.fitted[CHOSEN].log_sigma, share=1.0)
    wide = LatentGrid.around(
        torch.cat([x[:_WALKERS].reshape(-1, 2).cpu() for x in walked]), resolution=160, margin=0.05
    )
    for panel, points, title in zip(axes, walked, ("Riemannian", "Euclidean"), strict=True):
        grid = found.grid if title == "Riemannian" else wide
        values = summaries.log_sigma(found.g.rbf, grid.points.to(found.g.train_latents))
        picture = plots.heat_map(panel, grid, values, cmap=style.GROUND, **limits)
        panel.scatter(*_dots(found), s=0.4, color="0.35", linewidths=0, rasterized=True)
        plots.draw_curves(
            panel, points[:_WALKERS], colors=style.PALETTE[:_WALKERS], linewidths=0.4, alpha=0.8, rasterized=True
        )
        panel.set_title(title)
    axes[1].set_ylabel("")
    plots.color_bar(picture, list(axes), plots.LOG_SIGMA)
    return figure


def flatness(found: Fashion) -> Figure:
    """DWB-8: Algorithm 1's mean relative improvement under three variances of one decoder."""
    figure, axes = plots.new_figure(style.COLUMN, 1.6)
    names = (WITHOUT, NETWORK, RBF)
    means = [100 * found.improvements[name].mean for name in names]
    halves = [100 * found.improvements[name].half_width for name in names]
    plots.intervals(axes, list(names), means, halves)
    axes.set(xlabel="mean relative improvement [%]", xlim=(0, None))
    return figure


def _volume(axes: Axes, found: Fashion, variance: str) -> AxesImage:
    limits = plots.limits_at(found.volumes[variance])
    picture = plots.heat_map(axes, found.grid, found.volumes[variance], cmap=style.GROUND, **limits)
    axes.scatter(*_dots(found), s=0.4, color="0.35", linewidths=0, alpha=0.6, rasterized=True)
    return picture


def _dots(found: Fashion) -> np.ndarray:
    return plots.to_numpy(found.g.test_latents[:_DOTS]).T
