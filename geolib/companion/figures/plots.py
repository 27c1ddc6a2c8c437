"""Maps over the latent plane, curves, strips of images: drawing only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from geolib.companion.figures.streamlines import DirectionField, streamlines


@dataclass(frozen=True)
class LatentGrid:
    """A regular grid over a rectangle of the latent plane."""

    x: Tensor
    """(nx,)"""
    y: Tensor
    """(ny,)"""

    @classmethod
    def around(cls, latents: Tensor, *, resolution: int, margin: float = 0.15) -> "LatentGrid":
        """A square grid that covers latents ``(n, 2)`` with a margin, as a share of their range."""
        low, high = latents.amin(0), latents.amax(0)
        centre, half = (low + high) / 2, float((high - low).max()) / 2 * (1 + 2 * margin)
        x, y = (torch.linspace(float(c) - half, float(c) + half, resolution) for c in centre)
        return cls(x.to(latents), y.to(latents))

    @property
    def points(self) -> Tensor:
        """``(ny, nx, 2)``"""
        y, x = torch.meshgrid(self.y, self.x, indexing="ij")
        return torch.stack([x, y], dim=-1)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """left, right, bottom, top, half a cell beyond the outermost points"""
        half = float(self.x[1] - self.x[0]) / 2
        return float(self.x[0]) - half, float(self.x[-1]) + half, float(self.y[0]) - half, float(self.y[-1]) + half


def to_numpy(x: Tensor | ArrayLike) -> NDArray:
    """Any tensor or array as numpy on the CPU."""
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def along(start: Tensor, end: Tensor, n: int) -> Tensor:
    """``n`` points ``(n, d)`` at equal steps on the straight line between two points ``(d,)``."""
    t = torch.linspace(0, 1, n, dtype=start.dtype, device=start.device).unsqueeze(-1)
    return torch.lerp(start, end, t)


def heat_map(
    axes: Axes,
    grid: LatentGrid,
    values: Tensor,
    label: str,
    *,
    cmap: str | Colormap = "mako",
    colorbar: bool = True,
    **limits: float,
) -> AxesImage:
    """``values (ny, nx)`` over the latent plane, with a labelled colour bar."""
    shown = np.ma.masked_invalid(to_numpy(values))
    picture = axes.imshow(shown, origin="lower", extent=grid.extent, cmap=cmap, interpolation="bilinear", **limits)
    if colorbar:
        axes.figure.colorbar(picture, ax=axes, label=label, fraction=0.046, pad=0.03)
    latent_axes(axes)
    axes.set(xlim=grid.extent[:2], ylim=grid.extent[2:])
    return picture


def latent_axes(axes: Axes) -> None:
    """Axis labels and equal scales of the latent plane."""
    axes.set_aspect("equal")
    axes.set(xlabel="$z_1$", ylabel="$z_2$")


def scatter_classes(
    axes: Axes, latents: Tensor, labels: Tensor, *, size: float = 2.0, alpha: float = 0.5, legend: bool = True
) -> None:
    """Encoded data ``(n, 2)``, one colour a class."""
    points, classes = to_numpy(latents), to_numpy(labels)
    colors = sns.color_palette("bright")
    for color, digit in zip(colors, np.unique(classes), strict=False):
        chosen = points[classes == digit]
        axes.scatter(
            *chosen.T,
            s=size,
            alpha=alpha,
            color=color,
            linewidths=0,
            label=str(digit),
            rasterized=True,
            zorder=2,
        )
    if legend:
        axes.legend(
            title="digit", loc="upper right", markerscale=3, handletextpad=0.1, borderpad=0.3, framealpha=0.85
        ).set_zorder(5)


def draw_streamlines(
    axes: Axes, grid: LatentGrid, directions: Tensor, *, color: str = "white", lines_across: int = 28
) -> None:
    """Streamlines of eigenvectors ``(ny, nx, 2)``."""
    x, y = (to_numpy(t).astype(float) for t in (grid.x, grid.y))
    field = DirectionField(x, y, to_numpy(directions).astype(float))
    lines = streamlines(field, spacing=(x[-1] - x[0]) / lines_across)
    axes.add_collection(LineCollection(lines, colors=color, linewidths=0.55, alpha=0.9, zorder=3))


def draw_segments(axes: Axes, start: Tensor, end: Tensor, values: Tensor, label: str, *, cmap: str = "rocket") -> None:
    """Straight lines between ``(n, 2)`` and ``(n, 2)``, coloured by ``values (n,)``."""
    ends = np.stack([to_numpy(start), to_numpy(end)], axis=1)
    shown = to_numpy(values)
    order = np.argsort(shown)  # the largest on top
    lines = LineCollection(ends[order], array=shown[order], cmap=cmap, linewidths=0.8, zorder=3)
    # a few large values would leave the rest black
    lines.set_clim(0, max(float(np.quantile(shown, 0.99)), 1e-6))
    axes.add_collection(lines)
    axes.figure.colorbar(lines, ax=axes, label=label, fraction=0.046, pad=0.03, extend="max")


def draw_curves(axes: Axes, points: Tensor, *, colors: Sequence | None = None, **style: object) -> None:
    """Curves ``(n, N, 2)``."""
    axes.add_collection(LineCollection(list(to_numpy(points)), colors=colors, **{"zorder": 4, **style}))


def image_grid(axes: Axes, images: Tensor, *, columns: int, shape: tuple[int, int] = (28, 28)) -> None:
    """Images ``(n, D)`` in [0, 1], in rows of ``columns``."""
    rows = to_numpy(images).reshape(-1, columns, *shape)
    axes.imshow(np.vstack([np.hstack(row) for row in rows]), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    sns.despine(ax=axes, left=True, bottom=True)


def histogram(axes: Axes, values: Tensor, *, mean: float, interval: tuple[float, float], bins: int = 60) -> None:
    """Relative improvements ``(n,)`` in per cent, their mean and its confidence interval."""
    sns.histplot(100 * to_numpy(values), bins=bins, ax=axes, color="C0", edgecolor="white", linewidth=0.3)
    axes.axvspan(*(100 * i for i in interval), color="C1", alpha=0.3, linewidth=0)
    axes.axvline(100 * mean, color="C1", linewidth=1.2, label=f"mean {100 * mean:.2f} %")
    axes.set(xlabel="relative length improvement [%]", ylabel="number of pairs")
    axes.legend(loc="upper right")


def variance_map(
    axes: Axes,
    grid: LatentGrid,
    std: Callable[[Tensor], Tensor],
    *,
    cmap: str | Colormap = "viridis",
    colorbar: bool = True,
    **limits: float,
) -> AxesImage:
    r"""The logarithm of the summed standard deviation, :math:`\log \sum_j \sigma_j(z)`."""
    with torch.no_grad():
        total = std(grid.points.reshape(-1, 2)).sum(-1).log().reshape(grid.points.shape[:2])
    return heat_map(axes, grid, total, r"$\log \sum_j \sigma_j(z)$", cmap=cmap, colorbar=colorbar, **limits)


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: object
) -> tuple[plt.Figure, object]:
    """``plt.subplots`` with the size in inches."""
    return plt.subplots(rows, columns, figsize=(width, height), **options)
