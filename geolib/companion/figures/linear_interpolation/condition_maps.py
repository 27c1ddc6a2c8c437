"""Panel of notebook 03: condition number and streamlines."""

from matplotlib.figure import Figure

from geolib.companion.figures import plots, style
from geolib.companion.studies.linear_interpolation.condition_maps import Conditions


def condition_maps(found: Conditions) -> Figure:
    """MB-1: condition number, encoded digits, streamlines of the minimal (left) and maximal (right) eigenvectors."""
    figure, axes = plots.new_figure(style.PAGE, 3.6, columns=2, sharex=True, sharey=True)
    log_condition = found.map.condition.log10()
    limits = {"vmin": 0.0, "vmax": plots.limits_at(found.data.condition.log10())["vmax"]}
    for panel, directions, title in (
        (axes[0], found.map.v_min, "minimal eigenvectors"),
        (axes[1], found.map.v_max, "maximal eigenvectors"),
    ):
        picture = plots.heat_map(panel, found.grid, log_condition, cmap=style.GROUND, **limits)
        plots.scatter_classes(panel, found.g.test_latents, found.g.test_labels, size=1.2)
        plots.draw_streamlines(panel, found.grid, directions, color="black")
        panel.set_title(title)
    axes[1].set_ylabel("")
    plots.color_bar(picture, list(axes), r"$\log_{10}$ condition number $\lambda_{\max}/\lambda_{\min}$")
    return figure
