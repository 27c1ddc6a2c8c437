"""The explorer: sliders for the RBF variance's hyperparameters that refit it and redraw its map."""

import io
import math
import time

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from geolib import fit_rbf_precision
from geolib.companion.figures import plots, style
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries


def rbf_figure(
    latents: Tensor, variance_target: Tensor, grid: LatentGrid, *, n_centers: int, curvature: float, zeta: float
) -> Figure:
    """Fit the RBF variance and draw its map with the centres: one frame of the explorer, and its static twin."""
    rbf = fit_rbf_precision(latents, variance_target, n_centers=n_centers, curvature=curvature, zeta=zeta)
    figure, axes = plots.new_figure(style.COLUMN, 2.8)
    picture = plots.heat_map(axes, grid, summaries.log_sigma(rbf, grid.points))
    plots.color_bar(picture, axes, plots.LOG_SIGMA)
    axes.scatter(*plots.to_numpy(rbf.centers).T, s=6, c="white", edgecolors="black", linewidths=0.4, zorder=3)
    axes.set_title(f"a = {curvature:g}, K = {n_centers}, ζ = {zeta:.2g}")
    return figure


class RBFExplorer(ipywidgets.VBox):
    """Three sliders over a map. A setting that cannot be fitted is explained under the picture, which stays.

    Args:
        latents: encoded data ``(n, 2)``.
        variance_target: variances at the latents ``(n, D)``.
        grid: where the map is drawn.
        n_centers, curvature, zeta: the sliders' first state; their ranges are widened to hold it.
    """

    def __init__(
        self,
        latents: Tensor,
        variance_target: Tensor,
        grid: LatentGrid,
        *,
        n_centers: int = 64,
        curvature: float = 1.25,
        zeta: float = 1e-3,
    ):
        self._data = (latents, variance_target, grid)
        # a refit takes part of a second: follow the handle when it is let go, not on its way
        common = {"continuous_update": False, "style": {"description_width": "9em"}, "layout": {"width": "26em"}}
        self.curvature = ipywidgets.FloatSlider(
            value=curvature,
            min=min(0.25, curvature),
            max=max(3.0, curvature),
            step=0.25,
            description="curvature a",
            **common,
        )
        self.n_centers = ipywidgets.IntSlider(
            value=n_centers, min=min(4, n_centers), max=max(128, n_centers), step=4, description="centres K", **common
        )
        low, high = min(-5.0, math.log10(zeta)), max(0.0, math.log10(zeta))
        self.zeta = ipywidgets.FloatLogSlider(value=zeta, min=low, max=high, step=0.25, description="floor ζ", **common)
        self.picture = ipywidgets.Image(format="png", layout={"width": "460px"})
        self.message = ipywidgets.HTML()
        for slider in (self.curvature, self.n_centers, self.zeta):
            slider.observe(lambda _: self.redraw(), names="value")
        self.redraw()
        super().__init__([self.curvature, self.n_centers, self.zeta, self.picture, self.message])

    def redraw(self) -> None:
        """Refit and redraw with the sliders' values."""
        started = time.perf_counter()
        try:
            figure = rbf_figure(
                *self._data, n_centers=self.n_centers.value, curvature=self.curvature.value, zeta=self.zeta.value
            )
        except ValueError as error:
            self.message.value = f"<i>not fitted: {error}</i>"
            return
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        plt.close(figure)
        self.picture.value = buffer.getvalue()
        self.message.value = f"<i>refitted and redrawn in {time.perf_counter() - started:.2f} s</i>"
