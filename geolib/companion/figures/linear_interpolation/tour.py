"""Panel of notebook 00: one geodesic."""

import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geolib import magnification_factor
from geolib.companion.figures import plots, style
from geolib.companion.studies.linear_interpolation.tour import Tour

_LINE, _CURVE = style.PALETTE[7], style.PALETTE[4]
_SIDE = 28  # pixels of an image


def tour(found: Tour, *, resolution: int, n_images: int = 8) -> Figure:
    """A geodesic and its straight line over the magnification factor, and the images along both."""
    figure, axes = plots.new_figure(style.COLUMN, 4.5, rows=2, gridspec_kw={"height_ratios": [4, 1]})
    grid, volume = found.volume(resolution=resolution)
    at_data = magnification_factor(found.g.metric(found.g.test_latents)).log()
    ground = plots.heat_map(axes[0], grid, volume, cmap=style.GROUND, **plots.limits_at(at_data))
    plots.color_bar(ground, axes[0], plots.LOG_VOLUME, location="top")
    _classes(axes[0], found)
    line, curve = found.along(n_points=129)
    plots.draw_curves(axes[0], line.unsqueeze(0), colors=_LINE, linestyles="--", linewidths=0.9)
    plots.draw_curves(axes[0], curve.unsqueeze(0), colors=_CURVE, linewidths=1.2)
    shown = found.along(n_points=n_images)
    for points, color in zip(shown, (_LINE, _CURVE), strict=True):
        axes[0].scatter(*plots.to_numpy(points).T, s=5, color=color, zorder=5)
    plots.image_grid(axes[1], found.g.vae.mean(torch.cat(shown)), columns=n_images)
    axes[1].set_yticks([_SIDE / 2, 1.5 * _SIDE], ["line\n(dashed)", "geodesic\n(solid)"])
    axes[1].tick_params(length=0)
    return figure


def _classes(axes: Axes, found: Tour) -> None:
    """Encoded test images, one colour per digit, which is written away from the curve: its ends are two medians."""
    latents, labels = found.g.test_latents, found.g.test_labels.to(found.g.test_latents.device)
    for label, color in zip(labels.unique().tolist(), style.PALETTE, strict=False):
        own = latents[labels == label]
        axes.scatter(*plots.to_numpy(own).T, s=1.0, alpha=0.4, color=color, linewidths=0, rasterized=True, zorder=2)
        central = own[(own - own.median(0).values).norm(dim=-1).argsort()[: max(1, 4 * len(own) // 5)]]
        place = central[torch.cdist(central, found.curve.points).amin(-1).argmax()]
        name = axes.text(*plots.to_numpy(place), str(label), weight="bold", ha="center", va="center", zorder=6)
        name.set_path_effects([patheffects.withStroke(linewidth=2, foreground="white")])
