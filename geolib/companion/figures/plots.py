"""Maps over the latent plane, curves, strips of images: drawing only."""

import itertools
import math
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from geolib.companion.figures import style
from geolib.companion.figures.streamlines import DirectionField, streamlines
from geolib.companion.models.grid import LatentGrid

LOG_VOLUME, LOG_SIGMA = r"$\log\sqrt{\det M_z}$", r"$\log\,\sum_j\,\sigma_j(z)$"
"""what colour bars say of the metric's magnification factor, and of the summed standard deviation"""


def to_numpy(x: Tensor | ArrayLike) -> NDArray:
    """Any tensor or array as numpy on the CPU."""
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def along(start: Tensor, end: Tensor, n: int) -> Tensor:
    """``n`` points ``(n, d)`` at equal steps on the straight line between two points ``(d,)``."""
    t = torch.linspace(0, 1, n, dtype=start.dtype, device=start.device).unsqueeze(-1)
    return torch.lerp(start, end, t)


def limits_at(values: Tensor, *, share: float = 0.98) -> dict[str, float]:
    """Limits of a colour range that holds a share of ``values``, such as a field's values at the data."""
    shown = values[torch.isfinite(values)].double()
    tail = (1 - share) / 2
    low, high = torch.quantile(shown, torch.tensor([tail, 1 - tail], dtype=shown.dtype, device=shown.device))
    return {"vmin": float(low), "vmax": float(high)}


def heat_map(
    axes: Axes,
    grid: LatentGrid,
    values: Tensor,
    *,
    cmap: str | Colormap = style.FIELD,
    **limits: float,
) -> AxesImage:
    """``values (ny, nx)`` over the latent plane; ``limits`` are ``vmin`` and ``vmax``, e.g. from ``limits_at``."""
    shown = np.ma.masked_invalid(to_numpy(values))
    picture = axes.imshow(shown, origin="lower", extent=grid.extent, cmap=cmap, interpolation="bilinear", **limits)
    latent_axes(axes)
    axes.set(xlim=grid.extent[:2], ylim=grid.extent[2:])
    return picture


def color_bar(picture: ScalarMappable, axes: Axes | Sequence[Axes], label: str, *, location: str = "right") -> Colorbar:
    """A colour bar beside one panel, or one for several that share it; arrows where values go on beyond its ends."""
    values = np.ma.compressed(np.ma.masked_invalid(picture.get_array()))
    low, high = picture.get_clim()
    beyond = (bool(values.min() < low), bool(values.max() > high))
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    figure = axes.figure if isinstance(axes, Axes) else axes[0].figure
    sizes = {"fraction": 0.046, "aspect": 20 if location in ("left", "right") else 30}
    return figure.colorbar(picture, ax=axes, label=label, pad=0.03, extend=extend, location=location, **sizes)


def latent_axes(axes: Axes) -> None:
    """Axis labels and equal scales of the latent plane."""
    axes.set_aspect("equal")
    axes.set(xlabel="$z_1$", ylabel="$z_2$")


def scatter_classes(axes: Axes, latents: Tensor, labels: Tensor, *, size: float = 2.0, alpha: float = 0.6) -> None:
    """Encoded data ``(n, 2)``, one colour and marker per class, with its label at its median."""
    points, classes = to_numpy(latents), to_numpy(labels)
    for index, label in enumerate(np.unique(classes)):
        chosen = points[classes == label]
        turn, place = divmod(index, len(style.PALETTE))
        marks = {"color": style.PALETTE[place], "marker": style.MARKERS[turn], "linewidths": 0}
        axes.scatter(*chosen.T, s=size, alpha=alpha, rasterized=True, zorder=2, **marks)
    label_classes(axes, latents, labels)


def label_classes(axes: Axes, latents: Tensor, labels: Tensor) -> None:
    """The label of every class at the median of its latents ``(n, 2)``, moved where two would overlap.

    The size of the panel and its limits should be set before: they decide what overlaps.
    """
    points, classes = to_numpy(latents).astype(float), to_numpy(labels)
    names = np.unique(classes)
    medians = np.stack([np.median(points[classes == name], axis=0) for name in names])
    (width, height), xlim, ylim = axes.bbox.size * 72 / axes.figure.dpi, axes.get_xlim(), axes.get_ylim()
    per_point = max(abs(xlim[1] - xlim[0]) / width, abs(ylim[1] - ylim[0]) / height)
    for name, place in zip(names, _apart(medians, _LABEL * per_point), strict=True):
        text = axes.text(*place, str(name), weight="bold", color="black", ha="center", va="center", zorder=6)
        text.set_path_effects([patheffects.withStroke(linewidth=2, foreground="white")])


_LABEL = 13.0  # points from the middle of one label to that of the next


def _apart(places: NDArray, distance: float) -> NDArray:
    """``places (n, 2)``, of which those nearer to each other than ``distance`` are pushed apart, and no others."""
    places = places.copy()
    for _ in range(200):
        moved = False
        for i, j in itertools.combinations(range(len(places)), 2):
            between = places[j] - places[i]
            gap = float(np.hypot(*between))
            if gap < 0.999 * distance:
                # two at one place part in a direction of their own
                angle = math.atan2(*between[::-1]) if gap > 1e-6 * distance else i + 2.0 * j
                push = (distance - gap) / 2 * np.array([math.cos(angle), math.sin(angle)])
                places[i], places[j], moved = places[i] - push, places[j] + push, True
        if not moved:
            break
    return places


def draw_streamlines(
    axes: Axes, grid: LatentGrid, directions: Tensor, *, color: str = "white", lines_across: int = 28
) -> None:
    """Streamlines of eigenvectors ``(ny, nx, 2)``."""
    x, y = (to_numpy(t).astype(float) for t in (grid.x, grid.y))
    field = DirectionField(x, y, to_numpy(directions).astype(float))
    lines = streamlines(field, spacing=(x[-1] - x[0]) / lines_across)
    axes.add_collection(LineCollection(lines, colors=color, linewidths=0.55, alpha=0.9, zorder=3))


def draw_segments(
    axes: Axes, start: Tensor, end: Tensor, values: Tensor, *, cmap: str | Colormap, width: float = 0.8
) -> LineCollection:
    """Straight lines between ``(n, 2)`` and ``(n, 2)``, coloured by ``values (n,)``, the largest on top."""
    ends = np.stack([to_numpy(start), to_numpy(end)], axis=1)
    shown = to_numpy(values)
    order = np.argsort(shown)
    lines = LineCollection(ends[order], array=shown[order], cmap=cmap, linewidths=width, zorder=3)
    # a few large values would leave the rest in one colour
    lines.set_clim(0, max(float(np.quantile(shown, 0.99)), 1e-6))
    axes.add_collection(lines)
    return lines


def draw_curves(axes: Axes, points: Tensor, *, colors: Sequence | None = None, **style: object) -> None:
    """Curves ``(n, N, 2)``."""
    axes.add_collection(LineCollection(list(to_numpy(points)), colors=colors, **{"zorder": 4, **style}))


def intervals(axes: Axes, names: Sequence[str], means: Sequence[float], halves: Sequence[float]) -> None:
    """Means with intervals to either side, one name per row from the top down."""
    y = np.arange(len(names))
    axes.errorbar(means, y, xerr=halves, fmt="o", color=style.PALETTE[0], markersize=4, linewidth=1)
    axes.set(yticks=y, yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="x", color="0.9", linewidth=0.5)


def image_grid(axes: Axes, images: Tensor, *, columns: int, shape: tuple[int, int] = (28, 28)) -> None:
    """Images ``(n, D)`` in [0, 1], in rows of ``columns``."""
    rows = to_numpy(images).reshape(-1, columns, *shape)
    axes.imshow(np.vstack([np.hstack(row) for row in rows]), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    sns.despine(ax=axes, left=True, bottom=True)


def decoded_grid(axes: Axes, grid: LatentGrid, mean: Callable[[Tensor], Tensor]) -> None:
    """The decoded images at the points of a grid, each where its latent is."""
    with torch.no_grad():
        # the first row of a picture is its top, that of a grid its bottom
        image_grid(axes, mean(grid.points.flip(0).reshape(-1, 2)), columns=len(grid.x))
    axes.images[0].set_extent(grid.extent)
    latent_axes(axes)


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: object
) -> tuple[plt.Figure, object]:
    """``plt.subplots`` with the size in inches."""
    return plt.subplots(rows, columns, figsize=(width, height), **options)
