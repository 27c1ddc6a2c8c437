"""Panels of notebook 05: the same pairs in two models."""

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


def pairs(first: Tensor, second: Tensor) -> Figure:
    """MB-5: start images above end images."""
    n = len(first)
    figure, axes = plots.new_figure(style.PAGE, 2.2 * style.PAGE / n + 0.25)
    plots.image_grid(axes, torch.cat([first, second]), columns=n)
    side = 28
    axes.set_xticks([side * (i + 0.5) for i in range(n)], [str(i + 1) for i in range(n)])
    axes.set_yticks([side / 2, 1.5 * side], ["start", "end"])
    axes.tick_params(length=0)
    return figure


def comparison_bars(comparison: ModelComparison) -> Figure:
    """MB-6: relative improvements of every pair in both models; comparable pairs are marked."""
    figure, axes = plots.new_figure(style.PAGE, 2.4)
    a, b = (100 * plots.to_numpy(side.improvement) for side in (comparison.a, comparison.b))
    positions = range(1, len(a) + 1)
    axes.bar([p - 0.2 for p in positions], a, width=0.4, label="VAE1", color="C0")
    axes.bar([p + 0.2 for p in positions], b, width=0.4, label="VAE2", color="C1")
    marked = [p for p, alike in zip(positions, comparison.comparable.tolist(), strict=True) if alike]
    heights = [max(a[p - 1], b[p - 1]) for p in marked]
    label = f"comparable, within {100 * comparison.threshold:g} points"
    axes.plot(marked, [h + 0.03 * max(a.max(), b.max()) for h in heights], "v", color="0.2", markersize=4, label=label)
    axes.set(xlabel="pair", ylabel="relative improvement [%]", xticks=list(positions), xlim=(0.3, len(a) + 0.7))
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.18), frameon=False)
    return figure


def two_spaces(
    grids: Sequence[plots.LatentGrid],
    volumes: Sequence[Tensor],
    spaces: Sequence[Generator],
    comparison: ModelComparison,
) -> Figure:
    """MB-7: the same pairs in the latent spaces of both models, one colour a pair."""
    figure, axes = plots.new_figure(style.PAGE, 3.1, columns=2)
    for panel, grid, volume, g, found, title in zip(
        axes, grids, volumes, spaces, (comparison.a, comparison.b), ("VAE1", "VAE2"), strict=True
    ):
        plots.heat_map(panel, grid, volume, r"$\log\sqrt{\det M_z}$", cmap="gray")
        plots.scatter_classes(panel, g.test_latents, g.test_labels, size=0.8, alpha=0.3, legend=panel is axes[0])
        colors = sns.color_palette("husl", len(found.points))
        plots.draw_curves(panel, found.points[:, [0, -1]], colors=colors, linewidths=1.4)
        plots.draw_curves(panel, found.points, colors=colors, linewidths=1.2, linestyles=":")
        panel.set_title(title)
    return figure


def sequence(
    means: Sequence[Map], comparison: ModelComparison, pair: int, first: Tensor, second: Tensor, *, n_images: int = 12
) -> Figure:
    """MB-8: one pair along the straight line in both models, the original images in between."""
    rows = []
    for mean, found in zip(means, (comparison.a, comparison.b), strict=True):
        ends = found.points[pair][[0, -1]]
        rows.append(mean(plots.along(ends[0], ends[1], n_images)).cpu())
    middle = torch.ones_like(rows[0])
    middle[0], middle[-1] = first.cpu(), second.cpu()
    figure, axes = plots.new_figure(style.PAGE, 3 * style.PAGE / n_images + 0.1)
    plots.image_grid(axes, torch.cat([rows[0], middle, rows[1]]), columns=n_images)
    side = 28
    shares = [f"{100 * float(found.improvement[pair]):.1f} %" for found in (comparison.a, comparison.b)]
    labels = [f"VAE1\n({shares[0]})", "original\nimages", f"VAE2\n({shares[1]})"]
    axes.set_yticks([side * (i + 0.5) for i in range(3)], labels)
    axes.tick_params(length=0)
    return figure
