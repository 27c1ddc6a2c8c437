"""Panels of notebook 02: variance maps."""

from matplotlib.figure import Figure

from geolib.companion.figures import plots, style
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.linear_interpolation.explorer import Landscape
from geolib.companion.studies.linear_interpolation.variance_rbf import Variances


def variance_maps(found: Variances) -> Figure:
    """The decoder's own variance and the RBF variance on one colour scale, with the encoded test data."""
    figure, axes = plots.new_figure(style.PAGE, 3.6, columns=2, sharex=True, sharey=True)
    maps = [summaries.log_sigma(std, found.grid.points) for std in (found.g.vae.std, found.g.rbf)]
    limits = {"vmin": min(float(m.min()) for m in maps), "vmax": max(float(m.max()) for m in maps)}
    for panel, values, title in zip(axes, maps, ("variance network", "RBF variance"), strict=True):
        picture = plots.heat_map(panel, found.grid, values, **limits)
        points = plots.to_numpy(found.g.test_latents).T
        panel.scatter(*points, s=0.5, alpha=0.6, color="white", linewidths=0, rasterized=True)
        plots.label_classes(panel, found.g.test_latents, found.g.test_labels)
        panel.set_title(title)
    axes[1].set_ylabel("")
    plots.color_bar(picture, list(axes), plots.LOG_SIGMA)
    return figure


def first_state(landscape: Landscape, grid: LatentGrid) -> Figure:
    """What the sliders begin with: the map of an RBF variance, and its centres."""
    rbf, setting = landscape.metric.std, landscape.setting
    figure, axes = plots.new_figure(style.COLUMN, 2.8)
    picture = plots.heat_map(axes, grid, summaries.log_sigma(rbf, grid.points))
    plots.color_bar(picture, axes, plots.LOG_SIGMA)
    axes.scatter(*plots.to_numpy(rbf.centers).T, s=6, c="white", edgecolors="black", linewidths=0.4, zorder=3)
    axes.set_title(f"a = {setting.curvature:g}, K = {setting.n_centers}, ζ = {setting.zeta:.2g}")
    return figure
