"""Panels of notebook 08: global distances with a local minimum among them, and how many minima are not global."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from geolib.companion.figures import plots, style
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies.shortest_curves.global_distances import LONGER, LocalMinima

_LINE, _LOCAL, _GLOBAL = "#000000", style.PALETTE[4], style.PALETTE[0]
_LEVELS = 24
_LEAST, _MOST = 0.01, 30  # per cent; a smaller excess is within the curves' tolerance
_LARGEST = 24
_MARGIN = 0.04


def distance_field(
    found: LocalMinima, pair: int, latents: Tensor, labels: Tensor, *, resolution: int, init: str = "line"
) -> Figure:
    """B-2: distances from a pair's start, with the pair's straight line, local minimum and global path; the same curves
    on the magnification factor around them."""
    figure, axes = plots.new_figure(style.PAGE, 3.4, columns=2)
    _field(axes[0], found, pair, latents)
    plots.scatter_classes(axes[0], latents, labels, size=0)
    grid, volume = found.volume(pair, init, resolution=resolution)
    inside = _within(latents, grid)
    # the colour range follows the data in the close-up; without any, all of it
    at_data = plots.limits_at(volume.reshape(-1) if len(inside) == 0 else _nearest(grid, volume, inside))
    picture = plots.heat_map(axes[1], grid, volume, cmap=style.GROUND, **at_data)
    plots.color_bar(picture, axes[1], plots.LOG_VOLUME)
    axes[0].set_title("global distance from the circle")
    axes[1].set_title("the same curves, magnified")
    curves = _curves(found, pair, init)
    for panel in axes:
        for points, _, look in curves:
            panel.plot(*plots.to_numpy(points).T, zorder=4, **look)
        for end, marker in ((found.start[pair], "o"), (found.end[pair], "s")):
            panel.plot(*plots.to_numpy(end), marker, color="white", markeredgecolor="black", markersize=5, zorder=7)
    handles = [Line2D([], [], label=label, **look) for _, label, look in curves]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, handlelength=2.6)
    return figure


def _field(axes: Axes, found: LocalMinima, pair: int, latents: Tensor) -> None:
    grid, distance = found.field(pair)
    # off the data distances grow a hundredfold: contours end at the farthest image
    farthest = float(_nearest(grid, distance, latents).quantile(0.999))
    levels = MaxNLocator(_LEVELS).tick_values(0, farthest)
    colors = {"cmap": style.FIELD, "norm": Normalize(0, farthest)}
    shown = map(plots.to_numpy, (grid.x, grid.y, distance))
    axes.contour(*shown, levels=levels[(levels > 0) & (levels <= farthest)], linewidths=0.7, zorder=1, **colors)
    axes.figure.colorbar(ScalarMappable(**colors), ax=axes, label="distance", fraction=0.046, pad=0.03)
    plots.latent_axes(axes)
    # only as much of the box as the contours need
    near = plots.to_numpy(distance <= farthest)
    for set_limits, values, used in ((axes.set_xlim, grid.x, near.any(0)), (axes.set_ylim, grid.y, near.any(1))):
        shown = plots.to_numpy(values)[used]
        margin = _MARGIN * (shown[-1] - shown[0])
        set_limits(shown[0] - margin, shown[-1] + margin)


def _within(latents: Tensor, grid: LatentGrid) -> Tensor:
    x, y = latents.unbind(-1)
    return latents[(x >= grid.x[0]) & (x <= grid.x[-1]) & (y >= grid.y[0]) & (y <= grid.y[-1])]


def _nearest(grid: LatentGrid, values: Tensor, points: Tensor) -> Tensor:
    """``values (ny, nx)`` at the nodes nearest to ``points (n, 2)``."""
    low = torch.stack([grid.x[0], grid.y[0]])
    cell = torch.stack([grid.x[1], grid.y[1]]) - low
    column, row = ((points - low) / cell).round().long().unbind(-1)
    return values[row.clamp(0, len(grid.y) - 1), column.clamp(0, len(grid.x) - 1)]


def _curves(found: LocalMinima, pair: int, init: str) -> list[tuple[Tensor, str, dict]]:
    """Points, label and look of the curves of a pair."""
    local, best = found.local[init], found.polished
    line = torch.stack([found.start[pair], found.end[pair]])
    lengths = [float(length[pair]) for length in (found.line_length, local.length, best.length)]
    excess = 100 * float(found.excess(init)[pair])
    names = ("straight line", f"local minimum from the {init}", "global path")
    labels = [f"{name}: {length:.1f}" for name, length in zip(names, lengths, strict=True)]
    labels[1] += f" (+{excess:.1f} %)" if np.isfinite(excess) else " (not converged)"
    looks = [
        {"color": _LINE, "linestyle": "--", "linewidth": 1.0},
        {"color": _LOCAL, "linewidth": 1.8},
        {"color": _GLOBAL, "linewidth": 1.8},
    ]
    return list(zip((line, local.points[pair], best.points[pair]), labels, looks, strict=True))


def local_minima(found: LocalMinima, *, by: float = LONGER) -> Figure:
    """B-2: how many pairs have a local minimum that is longer than the global distance by more than any given excess,
    and the largest excesses one by one."""
    figure, axes = plots.new_figure(style.PAGE, 3.1, columns=2, gridspec_kw={"width_ratios": [1, 1.1]})
    _counts(axes[0], found, by)
    _largest(axes[1], found, by)
    return figure


def _percent(values: Tensor) -> np.ndarray:
    """NaN, which stands for a curve that is no local minimum, stays NaN."""
    return 100 * plots.to_numpy(values.double())


def _counts(axes: Axes, found: LocalMinima, by: float) -> None:
    n = len(found.start)
    axes.set(xscale="log", yscale="log", xlim=(_LEAST, _MOST), ylim=(0.7, 1.4 * n))
    for k, init in enumerate(found.local):
        for excess, sure in ((_percent(found.excess(init)), True), (_percent(found.possible_excess(init)), False)):
            x = np.unique(np.concatenate([[_LEAST], excess[(excess > _LEAST) & (excess < _MOST)], [_MOST]]))
            count = (excess > x[:, None]).sum(axis=1)
            label = f"{init}: {int(found.longer(init, by).sum())}"
            # the first line is the widest, so that equal lines can all be seen
            stroke = {"linewidth": 2.6 - 0.8 * k, "label": label} if sure else {"linewidth": 0.9, "linestyle": ":"}
            axes.step(x, count, where="post", color=style.PALETTE[k], zorder=3, **stroke)
    axes.axvline(100 * by, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
    axes.set(xlabel="excess over the global distance [%]", ylabel="number of pairs with a larger excess")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    handles, _ = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], color="0.4", linewidth=0.9, linestyle=":", label="at most"))
    _legend_above(axes, handles, f"pairs beyond {100 * by:g} %, of {n}, by initial curve")


def _legend_above(axes: Axes, handles: list[Line2D], title: str) -> None:
    """A legend outside the axes, so that it covers nothing whatever the data."""
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 4}
    axes.legend(handles=handles, title=title, columnspacing=0.9, handletextpad=0.5, handlelength=1.5, **place)


def _largest(axes: Axes, found: LocalMinima, by: float) -> None:
    begun = [init for init in found.local if init != "best"]  # which is the lower of the two
    sure = np.stack([_percent(found.excess(init)) for init in begun])
    most = np.stack([_percent(found.possible_excess(init)) for init in begun])
    order = np.argsort(-np.nan_to_num(sure, nan=-1).max(axis=0), kind="stable")[:_LARGEST]
    place = np.arange(1, len(order) + 1)
    top = 1.15 * max(float(np.nan_to_num(sure[:, order]).max(initial=0)), 200 * by)
    handles = []
    for k, init in enumerate(begun):
        x, low, high = place + 0.3 * (k - 0.5), sure[k, order], most[k, order]
        bounded = np.isfinite(high)
        color = style.PALETTE[k]
        axes.vlines(x[bounded], low[bounded], np.minimum(high[bounded], 2 * top), color=color, linewidth=1.0)
        stroke = {"marker": style.MARKERS[k], "color": color, "markersize": 4, "linestyle": "none"}
        handles += axes.plot(x[bounded], low[bounded], **stroke, label=init)
        axes.plot(x[~bounded], low[~bounded], **stroke, markerfacecolor="white")
    stroke = {"marker": "o", "color": "0.4", "markersize": 4, "linestyle": "none", "markerfacecolor": "white"}
    handles.append(Line2D([], [], **stroke, label="no upper bound"))
    axes.axhline(100 * by, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
    axes.set(ylim=(-0.04 * top, top), xlim=(0.2, len(order) + 0.8), xticks=[])
    axes.set(xlabel=f"the {len(order)} pairs with the largest excess", ylabel="excess over the global distance [%]")
    _legend_above(axes, handles, "marks: at least, bars: at most")
