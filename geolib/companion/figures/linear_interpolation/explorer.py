"""Panels of notebook 16: what the explorer opens with, on paper."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from geolib.companion.figures import plots, style
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies.linear_interpolation.explorer import Found

_IMAGES = 9


def first_state(found: Found) -> Figure:
    """The map with both curves of the pair shown, and the images along them."""
    figure, (ground, strips) = plots.new_figure(style.PAGE, 2.6, columns=2, gridspec_kw={"width_ratios": [1.0, 1.35]})
    explored, (start, end) = found.explored, found.ends
    side = found.landscape.table.resolution + 1
    grid = LatentGrid(
        *(torch.linspace(*ends, side) for ends in zip(explored.lower.tolist(), explored.upper.tolist(), strict=True))
    )
    # x comes first in a table, y in a picture
    volume = found.landscape.table.logs[..., 0].mT
    limits = plots.limits_at(volume, share=0.96)
    picture = plots.heat_map(ground, grid, volume, **limits)
    ground.scatter(*plots.to_numpy(explored.g.test_latents).T, s=0.4, color="white", linewidths=0, rasterized=True)
    plots.label_classes(ground, explored.g.test_latents, explored.g.test_labels)
    line, curve = plots.along(start, end, _IMAGES), found.exact.points[found.shown]
    for color, width in (("black", 3.0), ("white", 1.4)):
        plots.draw_curves(ground, line[None], colors=[color], linewidths=width, linestyles="-" if width > 2 else "--")
    for color, width in (("black", 3.4), (style.PALETTE[1], 2.0)):
        plots.draw_curves(ground, curve[None], colors=[color], linewidths=width)
    for marker, z in zip("os", (start, end), strict=True):
        ground.plot(*z.tolist(), marker, markersize=6, color="white", markeredgecolor="black", zorder=5)
    plots.color_bar(picture, ground, plots.LOG_VOLUME)
    _strips(strips, found, line, curve)
    return figure


def _strips(axes: Axes, found: Found, line: Tensor, curve: Tensor) -> None:
    chosen = curve[torch.linspace(0, len(curve) - 1, _IMAGES).round().long()]
    with torch.no_grad():
        images = found.explored.g.vae.mean(torch.cat([line, chosen]))
    plots.image_grid(axes, images, columns=_IMAGES)
    lengths = [float(x[found.shown]) for x in (found.exact.line_length, found.exact.length)]
    axes.set(yticks=[14, 42], yticklabels=["line", "curve"], xlabel="from circle to square, at equal steps of length")
    axes.set_title(f"length {lengths[0]:.3g} along the line, {lengths[1]:.3g} along the curve")
    axes.tick_params(length=0)
