"""Panel of notebook 03: condition number and streamlines."""

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


def condition_maps(grid: plots.LatentGrid, kappa: Tensor, v_min: Tensor, v_max: Tensor, g: Generator) -> Figure:
    """MB-1: condition number, encoded digits, streamlines of the minimal (left) and maximal (right) eigenvectors."""
    figure, axes = plots.new_figure(style.PAGE, 3.5, columns=2, sharex=True, sharey=True)
    log_kappa = kappa.log10()
    for panel, directions, title in (
        (axes[0], v_min, "minimal eigenvectors"),
        (axes[1], v_max, "maximal eigenvectors"),
    ):
        picture = plots.heat_map(panel, grid, log_kappa, "", cmap="mako", colorbar=False)
        plots.scatter_classes(panel, g.test_latents, g.test_labels, size=1.2, legend=panel is axes[1])
        plots.draw_streamlines(panel, grid, directions)
        panel.set_title(title)
    axes[1].set_ylabel("")
    label = r"$\log_{10}$ condition number $\lambda_{\max}/\lambda_{\min}$"
    figure.colorbar(picture, ax=axes, label=label, fraction=0.024, pad=0.02)
    return figure
