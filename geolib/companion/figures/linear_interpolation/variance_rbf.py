"""Panels of notebook 02: variance maps."""

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


def variance_maps(grid: plots.LatentGrid, network: Map, g: Generator) -> Figure:
    """The decoder's own variance and the RBF variance, with the data they were fitted to."""
    figure, axes = plots.new_figure(style.PAGE, 3.0, columns=2)
    for panel, std, title in ((axes[0], network, "variance network"), (axes[1], g.rbf, "RBF precision")):
        plots.variance_map(panel, grid, std)
        plots.scatter_classes(panel, g.test_latents, g.test_labels, size=0.8, alpha=0.35, legend=panel is axes[0])
        panel.set_title(title)
    return figure
