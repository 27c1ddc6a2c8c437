"""Panels of notebook 07: quadratics on two moons, their warm start, and what one noise per point does to them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from torch import Tensor

from geolib.companion.figures import plots, style
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.shortest_curves.two_moons import TwoMoons

_LINE = {"color": "0.25", "linewidth": 0.8, "linestyle": (0, (1, 1.5))}
_QUADRATIC = {"color": style.PALETTE[7], "linewidth": 1.5, "linestyle": "-"}
_FREE = {"color": style.PALETTE[4], "linewidth": 1.3, "linestyle": (0, (4, 1.2))}
_COARSE = {"color": style.PALETTE[0], "linewidth": 1.3, "linestyle": "-"}
_FINE = {"color": style.PALETTE[4], "linewidth": 1.3, "linestyle": "-"}
_MOONS = tuple(zip((style.PALETTE[5], style.PALETTE[1]), ("o", "^"), strict=True))


def two_moons(found: TwoMoons, *, resolution: int) -> Figure:
    """YH-1: quadratics and free curves on one moon, and from moon to moon."""
    figure, axes = plots.new_figure(style.PAGE, 3.5, columns=2, sharex=True, sharey=True)
    joined = found.joined
    quadratics, free = found.drawn("cold"), found.drawn("graph")
    for panel, rows, title in (
        (axes[0], joined.shown & ~joined.across, "pairs on one moon"),
        (axes[1], joined.shown & joined.across, "pairs across the moons"),
    ):
        picture = _ground(panel, found, resolution)
        for curves, stroke in ((quadratics[:, [0, -1]], _LINE), (free, _FREE), (quadratics, _QUADRATIC)):
            _draw(panel, curves[rows], stroke)
        _ends(panel, quadratics[rows])
        panel.set_title(title)
    axes[1].set_ylabel("")
    plots.color_bar(picture, axes, r"$\log \sum_j \sigma_j(z)$")
    _legend(figure, [("straight line", _LINE), ("quadratic", _QUADRATIC), ("free curve, from a graph", _FREE)])
    return figure


def warm_start(found: TwoMoons) -> Figure:
    """YH-1: what the warm start changes in the quadratics, and what it costs."""
    figure, axes = plots.new_figure(style.PAGE, 2.4, columns=3, width_ratios=[1.15, 0.7, 1])
    _lengths(axes[0], found)
    names = {"cold": "cold", "warm": "warm", "newton": "Newton,\nfrom lines", "graph": "Newton,\nfrom a graph"}
    evaluations = {name: found.descents[name].n_evaluations for name in ("cold", "warm")}
    _bars(
        axes[1], {names[name]: value for name, value in evaluations.items()}, "decoder evaluations per curve", "{:.0f}"
    )
    _bars(axes[2], {label: found.seconds[name] for name, label in names.items()}, "seconds for all pairs", "{:.2f}")
    return figure


def noise(found: TwoMoons, *, resolution: int) -> Figure:
    """YH-1: quadratics that minimise Eq. 4 with one noise per curve, and with one noise per point."""
    figure, axes = plots.new_figure(style.COLUMN, 3.0)
    rows = found.joined.shown & ~found.joined.across
    picture = _ground(axes, found, resolution)
    curves = [found.descents["cold"], *found.literal.values()]
    strokes = (_QUADRATIC, _COARSE, _FINE)
    for each, stroke in zip(curves, strokes, strict=True):
        _draw(axes, each.points[rows], stroke)
    _ends(axes, curves[0].points[rows])
    plots.color_bar(picture, axes, r"$\log \sum_j \sigma_j(z)$")
    labels = ["one noise", *(f"{n + 1} noises" for n in found.literal)]
    _legend(figure, list(zip(labels, strokes, strict=True)))
    return figure


def _ground(axes: Axes, found: TwoMoons, resolution: int) -> AxesImage:
    """The summed deviation, light where there are data, and the test data, one colour and marker per moon."""
    g = found.g
    grid = LatentGrid.around(g.train_latents, resolution=resolution, margin=0.05)
    limits = plots.limits_at(summaries.log_sigma(g.rbf, found.drawn("graph")))
    picture = plots.heat_map(axes, grid, summaries.log_sigma(g.rbf, grid.points), cmap=style.GROUND, **limits)
    for label, (color, marker) in enumerate(_MOONS):
        points = plots.to_numpy(g.test_latents[(g.test_labels == label).to(g.test_latents.device)])
        axes.scatter(*points.T, s=9, color=color, marker=marker, alpha=0.8, linewidths=0, zorder=2, rasterized=True)
    return picture


def _lengths(axes: Axes, found: TwoMoons) -> None:
    """Improvements over straight lines with a warm start against those without."""
    cold, warm = (100 * plots.to_numpy(found.curves[name].improvement) for name in ("cold", "warm"))
    across = plots.to_numpy(found.joined.across)
    top = 1.05 * max(cold.max(), warm.max(), 1.0)
    axes.plot([0, top], [0, top], color="0.6", linewidth=0.8, zorder=1)
    for rows, color, marker, label in (
        (~across, style.PALETTE[0], "o", "on one moon"),
        (across, style.PALETTE[4], "^", "across the moons"),
    ):
        axes.scatter(cold[rows], warm[rows], s=14, color=color, marker=marker, linewidths=0, label=label, clip_on=False)
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    axes.set(xlabel="improvement, cold start [%]", ylabel="improvement, warm start [%]")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.05, 1.0), ncols=2, handletextpad=0.1, columnspacing=0.8)


def _bars(axes: Axes, values: dict[str, float], label: str, form: str) -> None:
    """One bar per name, with its value at its end."""
    places = np.arange(len(values))[::-1]
    colors = [style.PALETTE[0], style.PALETTE[3], "0.6", "0.6"][: len(values)]
    axes.barh(places, list(values.values()), height=0.6, color=colors, linewidth=0)
    for place, value in zip(places, values.values(), strict=True):
        axes.text(value, place, " " + form.format(value), va="center", fontsize=7)
    axes.set_yticks(places, list(values))
    axes.set(xlabel=label, xlim=(0, 1.3 * max(values.values())))
    axes.tick_params(axis="y", length=0)


def _draw(axes: Axes, curves: Tensor, stroke: dict) -> None:
    plots.draw_curves(
        axes, curves, colors=stroke["color"], linewidths=stroke["linewidth"], linestyles=[stroke["linestyle"]]
    )


def _ends(axes: Axes, curves: Tensor) -> None:
    ends = plots.to_numpy(curves[:, [0, -1]].reshape(-1, 2))
    axes.scatter(*ends.T, s=14, color="white", edgecolors="black", linewidths=0.8, zorder=5)


def _legend(figure: Figure, styles: Sequence[tuple[str, dict]]) -> None:
    handles = [Line2D([], [], label=label, **stroke) for label, stroke in styles]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(styles), handlelength=2.2, columnspacing=1.2)
