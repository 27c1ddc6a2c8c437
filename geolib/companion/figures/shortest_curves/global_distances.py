"""The figures of global distances: a field of them with a local minimum in it, and how many minima are not global."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from geolib.companion.figures import style
from geolib.companion.figures import plots
from geolib.companion.studies import summaries
from geolib.companion.studies.shortest_curves.global_distances import LONGER, GlobalityStudy

_LOOKS = (("white", "--"), ("#ffb000", "-"), ("#ff4fd8", "-"))  # told apart on dark maps, and by the colour-blind
_LEVELS = 24
_LEAST, _MOST = 0.01, 30  # per cent; below the curves' tolerance there is no excess to speak of
_LARGEST = 24


def distance_field(
    field: tuple[Tensor, Tensor, Tensor],
    plane: plots.LatentGrid,
    volume: Tensor,
    latents: Tensor,
    labels: Tensor,
    study: GlobalityStudy,
    pair: int,
    *,
    init: str = "line",
) -> Figure:
    """B-2: the distances from a pair's start, as ``geolib.distance_field`` gives them, with the pair's straight line,
    local minimum and global path; the same curves on the logarithmic volume element ``(ny, nx)`` of a smaller plane."""
    figure, axes = plots.new_figure(style.PAGE, 3.45, columns=2)
    _field(axes[0], field, latents)
    plots.scatter_classes(axes[0], latents, labels, size=0.8, alpha=0.3)
    plots.heat_map(axes[1], plane, volume, r"$\log\sqrt{\det M_z}$", cmap="viridis")
    plots.scatter_classes(axes[1], latents, labels, size=1.5, alpha=0.25, legend=False)
    axes[1].set_title("close-up on the volume element")

    curves = _curves(study, pair, init)
    for panel in axes:
        for points, _, (color, dash) in curves:
            line = plots.to_numpy(points).T
            if dash == "-":  # a dark edge: the curves cross bright and dark ground
                panel.plot(*line, color="black", alpha=0.5, linewidth=2.8, zorder=4)
            panel.plot(*line, color=color, linestyle=dash, linewidth=1.6, zorder=4)
        for end, marker in ((study.start[pair], "o"), (study.end[pair], "s")):
            panel.plot(*plots.to_numpy(end), marker, color="white", markeredgecolor="black", markersize=5, zorder=6)
    handles = [
        Line2D([], [], label=label, color=color, linestyle=dash, linewidth=1.8) for _, label, (color, dash) in curves
    ]
    options = {"facecolor": "0.3", "edgecolor": "none", "framealpha": 1, "labelcolor": "white", "handlelength": 2.6}
    figure.legend(handles=handles, loc="outside upper center", ncols=3, **options)
    return figure


def _field(axes: Axes, field: tuple[Tensor, Tensor, Tensor], latents: Tensor) -> None:
    x, y, distance = field
    # off the data distances grow a hundredfold, and would leave no contour for it
    cell = torch.stack([x[1] - x[0], y[1] - y[0]])
    column, row = ((latents - torch.stack([x[0], y[0]])) / cell).round().long().unbind(-1)
    farthest = float(distance[row.clamp(0, len(y) - 1), column.clamp(0, len(x) - 1)].quantile(0.999))
    picture = plots.heat_map(axes, plots.LatentGrid(x, y), distance, "", cmap="mako", colorbar=False, vmax=farthest)
    label = "distance from the circle"
    axes.figure.colorbar(picture, ax=axes, label=label, fraction=0.046, pad=0.03, extend="max")
    levels = np.linspace(0, farthest, _LEVELS + 1)[1:]
    axes.contour(*map(plots.to_numpy, field), levels=levels, colors="white", linewidths=0.5, alpha=0.7)
    axes.set_title("global distance from one point")


def _curves(study: GlobalityStudy, pair: int, init: str) -> list[tuple[Tensor, str, tuple[str, str]]]:
    """What is drawn of a pair: points, how long, and how it looks."""
    local, best = study.local[init], study.polished
    line = torch.stack([study.start[pair], study.end[pair]])
    lengths = [float(length[pair]) for length in (study.line_length, local.length, best.length)]
    excess = 100 * float(study.excess(init)[pair])
    names = ("straight line", f"local minimum from the {init}", "global path")
    labels = [f"{name}: {length:.1f}" for name, length in zip(names, lengths, strict=True)]
    labels[1] += f" (+{excess:.1f} %)"
    return list(zip((line, local.points[pair], best.points[pair]), labels, _LOOKS, strict=True))


def local_minima(study: GlobalityStudy, *, by: float = LONGER) -> Figure:
    """B-2: the share of pairs whose local minimum is longer than the global distance by more than any given excess, and
    the largest excesses one by one."""
    figure, axes = plots.new_figure(style.PAGE, 3.1, columns=2, gridspec_kw={"width_ratios": [1, 1.1]})
    _shares(axes[0], study, by)
    _largest(axes[1], study, by)
    return figure


def _percent(values: Tensor) -> np.ndarray:
    """NaN, which is no local minimum, stays NaN."""
    return 100 * plots.to_numpy(values.double())


def _shares(axes: Axes, study: GlobalityStudy, by: float) -> None:
    axes.set(xscale="log", yscale="log", xlim=(_LEAST, _MOST), ylim=(50 / len(study.start), 130))
    for k, init in enumerate(study.local):
        for excess, sure in ((_percent(study.excess(init)), True), (_percent(study.possible_excess(init)), False)):
            x = np.unique(np.concatenate([[_LEAST], excess[(excess > _LEAST) & (excess < _MOST)], [_MOST]]))
            share = 100 * (excess > x[:, None]).mean(axis=1)
            label = f"{init}: {100 * summaries.share(study.longer(init, by)):.1f} %"
            # wider where it comes first: equal lines are seen all the same
            stroke = {"linewidth": 2.6 - 0.8 * k, "label": label} if sure else {"linewidth": 0.9, "linestyle": ":"}
            axes.step(x, share, where="post", color=f"C{k}", zorder=3, **stroke)
    axes.axvline(100 * by, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
    axes.set(xlabel="excess over the global distance [%]", ylabel="pairs with a larger excess [%]")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    handles, _ = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], color="0.4", linewidth=0.9, linestyle=":", label="at most"))
    _legend_above(axes, handles, f"share beyond {100 * by:g} %, by first guess")


def _legend_above(axes: Axes, handles: list[Line2D], title: str) -> None:
    """Where it covers nothing, whatever the data."""
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 4}
    axes.legend(
        handles=handles, title=title, frameon=False, columnspacing=0.9, handletextpad=0.5, handlelength=1.5, **place
    )


def _largest(axes: Axes, study: GlobalityStudy, by: float) -> None:
    begun = [init for init in study.local if init != "best"]  # which is the lower of the two
    sure = np.stack([_percent(study.excess(init)) for init in begun])
    most = np.stack([_percent(study.possible_excess(init)) for init in begun])
    order = np.argsort(-np.nan_to_num(sure, nan=-1).max(axis=0), kind="stable")[:_LARGEST]
    place = np.arange(1, len(order) + 1)
    top = 1.15 * max(float(np.nan_to_num(sure[:, order]).max(initial=0)), 200 * by)
    handles = []
    for k, init in enumerate(begun):
        x, low, high = place + 0.3 * (k - 0.5), sure[k, order], most[k, order]
        bounded = np.isfinite(high)
        axes.vlines(x[bounded], low[bounded], np.minimum(high[bounded], 2 * top), color=f"C{k}", linewidth=1.0)
        stroke = {"marker": "os"[k], "color": f"C{k}", "markersize": 4, "linestyle": "none"}
        handles += axes.plot(x[bounded], low[bounded], **stroke, label=init)
        axes.plot(x[~bounded], low[~bounded], **stroke, markerfacecolor="white")
    stroke = {"marker": "o", "color": "0.4", "markersize": 4, "linestyle": "none", "markerfacecolor": "white"}
    handles.append(Line2D([], [], **stroke, label="no upper bound"))
    axes.axhline(100 * by, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
    axes.set(ylim=(-0.04 * top, top), xlim=(0.2, len(order) + 0.8), xticks=[])
    axes.set(xlabel=f"the {len(order)} pairs with the largest excess", ylabel="excess over the global distance [%]")
    _legend_above(axes, handles, "marks: at least, bars: at most")
