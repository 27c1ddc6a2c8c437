"""Panel of notebook 00: one geodesic."""

from collections.abc import Callable, Sequence

import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from geolib import Geodesic
from geolib.companion.figures import plots, style
from geolib.companion.models.generators import Generator
from geolib.evaluation import ModelComparison, RelativeImprovement

Map = Callable[[Tensor], Tensor]


def tour(grid: plots.LatentGrid, volume: Tensor, g: Generator, curve: Geodesic, *, n_images: int = 8) -> Figure:
    """A geodesic and its straight line on the volume map, and the images along both."""
    start, end = curve.points[0], curve.points[-1]
    figure, axes = plots.new_figure(style.PAGE, 2.9, columns=2, gridspec_kw={"width_ratios": [1, 1.25]})
    plots.heat_map(axes[0], grid, volume, r"$\log\sqrt{\det M_z}$", cmap="viridis")
    plots.scatter_classes(axes[0], g.test_latents, g.test_labels, size=1.0, alpha=0.35)
    line = torch.stack([start, end]).unsqueeze(0)
    plots.draw_curves(axes[0], line, colors="white", linestyles="--", linewidths=1.4)
    plots.draw_curves(axes[0], curve.points.unsqueeze(0), colors="white", linewidths=1.8)
    t = torch.linspace(0, 1, n_images, dtype=start.dtype, device=start.device)
    rows = torch.stack([g.vae.mean(plots.along(start, end, n_images)), g.vae.mean(curve.curve(t))])
    plots.image_grid(axes[1], rows.reshape(2 * n_images, -1), columns=n_images)
    axes[1].set_title("straight line (top) and geodesic (bottom)")
    return figure
