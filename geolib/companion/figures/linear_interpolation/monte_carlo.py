"""Panels of notebook 04: improvements of straight lines."""

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


def improvements(grid: plots.LatentGrid, volume: Tensor, g: Generator, mc: RelativeImprovement) -> Figure:
    """MB-2: sampled lines on the volume map, coloured by relative improvement, and their histogram."""
    figure, axes = plots.new_figure(style.PAGE, 3.0, columns=2, gridspec_kw={"width_ratios": [1.9, 1]})
    plots.heat_map(axes[0], grid, volume, r"$\log\sqrt{\det M_z}$", cmap="viridis")
    plots.scatter_classes(axes[0], g.test_latents, g.test_labels, size=0.8, alpha=0.35)
    plots.draw_segments(axes[0], mc.start, mc.end, mc.improvement, "relative improvement", cmap="rocket")
    plots.histogram(axes[1], mc.improvement, mean=mc.mean, interval=mc.interval)
    return figure
