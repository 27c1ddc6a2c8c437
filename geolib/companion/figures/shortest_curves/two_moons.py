"""The figure of Yang & Hauberg 2018, put together from plots."""

from collections.abc import Sequence

import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from torch import Tensor

from geolib import Geodesic
from geolib.companion.figures import style
from geolib.companion.figures import plots
from geolib.companion.models.generators import Generator
from geolib.companion.studies.shortest_curves.two_moons import Pairs

# A style a kind of curve; dashes over a solid line show that two agree.
_LINE = {"color": "0.35", "linewidth": 0.7, "linestyle": (0, (1, 1.5))}
_COLD = {"color": "black", "linewidth": 1.5, "linestyle": "-"}
_WARM = {"color": "#e8000b", "linewidth": 1.1, "linestyle": (0, (3, 2))}
_FREE = {"color": "#029e73", "linewidth": 1.2, "linestyle": "-"}
_MOONS = ("#4c78c8", "#e0892e")


def two_moons(
    grid: plots.LatentGrid,
    g: Generator,
    chosen: Pairs,
    found: dict[str, Geodesic],
    shared: Tensor,
    independent: dict[int, Tensor],
) -> Figure:
    """YH-1: quadratics with and without warm start on and across the moons, and what Eq. 4 does when read literally.

    Args:
        grid: where the background is drawn.
        g: the generator.
        chosen: the n pairs.
        found: by ``"cold"``, ``"warm"`` and ``"graph"``, batch shape (n,) each.
        shared: quadratics ``(n, N, 2)`` of one noise for the whole curve.
        independent: quadratics ``(n, N, 2)`` of a noise for every point, by the number of segments.

    Returns:
        the figure; which pairs it shows is said by ``chosen.shown``.

    Source:
        Yang & Hauberg 2018, Fig. 1, of which the middle and right panels are no part.
    """
    figure, axes = plots.new_figure(style.PAGE, 2.75, columns=3, sharex=True, sharey=True)
    for panel in axes:
        picture = _background(panel, grid, g)
    own, across = chosen.shown & ~chosen.across, chosen.shown & chosen.across
    # the smooth curves, as points at equal Riemannian steps are few where the metric is small
    t = torch.linspace(0, 1, 257, dtype=shared.dtype, device=shared.device)
    points = {name: geodesic.curve(t) for name, geodesic in found.items()}
    for panel, rows, title in ((axes[0], own, "pairs on one moon"), (axes[1], across, "pairs across the moons")):
        _draw(panel, points["cold"][rows][:, [0, -1]], _LINE)
        for name, stroke in (("graph", _FREE), ("cold", _COLD), ("warm", _WARM)):
            _draw(panel, points[name][rows], stroke)
        _ends(panel, points["cold"][rows])
        panel.set_title(title)
    styles = [("straight line", _LINE), ("quadratic", _COLD), ("with warm start", _WARM), ("free curve", _FREE)]
    _legend(figure, styles, "outside lower left")

    shades = sns.color_palette("plasma", len(independent))
    literal = [{"color": shade, "linewidth": 1.1, "linestyle": "-"} for shade in shades]
    for stroke, curves in zip(literal, independent.values(), strict=True):
        _draw(axes[2], curves[own], stroke)
    _draw(axes[2], shared[own], _COLD)
    _ends(axes[2], shared[own])
    axes[2].set_title("Eq. 4 read literally")
    styles = [(f"{n + 1} noises", stroke) for n, stroke in zip(independent, literal, strict=True)]
    _legend(figure, [("one noise", _COLD), *styles], "outside lower right")
    for panel in axes[1:]:
        panel.set_ylabel("")
    figure.colorbar(picture, ax=axes, label=r"$\log \sum_j \sigma_j(z)$", fraction=0.02, pad=0.01, shrink=0.87)
    return figure


def _background(axes: Axes, grid: plots.LatentGrid, g: Generator) -> AxesImage:
    """The summed deviation, light where there are data, and the data."""
    # no darker than lets black curves be seen
    picture = plots.variance_map(axes, grid, g.rbf, cmap=sns.light_palette("0.5", as_cmap=True), colorbar=False)
    for label, color in enumerate(_MOONS):
        points = plots.to_numpy(g.test_latents[(g.test_labels == label).to(g.test_latents.device)])
        axes.scatter(*points.T, s=5, color=color, alpha=0.6, linewidths=0, zorder=2, rasterized=True)
    return picture


def _draw(axes: Axes, curves: Tensor, stroke: dict) -> None:
    plots.draw_curves(
        axes, curves, colors=stroke["color"], linewidths=stroke["linewidth"], linestyles=[stroke["linestyle"]]
    )


def _ends(axes: Axes, curves: Tensor) -> None:
    ends = plots.to_numpy(curves[:, [0, -1]].reshape(-1, 2))
    axes.scatter(*ends.T, s=14, color="white", edgecolors="black", linewidths=0.8, zorder=5)


def _legend(figure: Figure, styles: Sequence[tuple[str, dict]], place: str) -> None:
    handles = [Line2D([], [], label=label, **stroke) for label, stroke in styles]
    figure.legend(handles=handles, loc=place, ncols=len(styles), frameon=False, handlelength=2.2, columnspacing=1.2)
