"""The papers' figures, put together from plots."""

from collections.abc import Callable, Sequence

import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from geolib import Geodesic
from geolib.companion import figures, plots
from geolib.companion.generators import Generator
from geolib.evaluation import ModelComparison, RelativeImprovement

Map = Callable[[Tensor], Tensor]


def _along(start: Tensor, end: Tensor, n: int) -> Tensor:
    t = torch.linspace(0, 1, n, dtype=start.dtype, device=start.device).unsqueeze(-1)
    return torch.lerp(start, end, t)


def tour(grid: plots.LatentGrid, volume: Tensor, g: Generator, curve: Geodesic, *, n_images: int = 8) -> Figure:
    """A geodesic and its straight line on the volume map, and the images along both."""
    start, end = curve.points[0], curve.points[-1]
    figure, axes = plots.new_figure(figures.PAGE, 2.9, columns=2, gridspec_kw={"width_ratios": [1, 1.25]})
    plots.heat_map(axes[0], grid, volume, r"$\log\sqrt{\det M_z}$", cmap="viridis")
    plots.scatter_classes(axes[0], g.test_latents, g.test_labels, size=1.0, alpha=0.35)
    line = torch.stack([start, end]).unsqueeze(0)
    plots.draw_curves(axes[0], line, colors="white", linestyles="--", linewidths=1.4)
    plots.draw_curves(axes[0], curve.points.unsqueeze(0), colors="white", linewidths=1.8)
    t = torch.linspace(0, 1, n_images, dtype=start.dtype, device=start.device)
    rows = torch.stack([g.vae.mean(_along(start, end, n_images)), g.vae.mean(curve.curve(t))])
    plots.image_grid(axes[1], rows.reshape(2 * n_images, -1), columns=n_images)
    axes[1].set_title("straight line (top) and geodesic (bottom)")
    return figure


def training_curves(histories: dict[str, list[dict]]) -> Figure:
    """Negative evidence lower bounds, up to their constant, over epochs; one panel a model."""
    figure, axes = plots.new_figure(figures.PAGE, 2.2, columns=len(histories), sharey=True)
    for panel, (label, history) in zip(axes, histories.items(), strict=True):
        entries = [entry for entry in history if entry["phase"] == "elbo"]
        epochs = [entry["epoch"] for entry in entries]
        panel.plot(epochs, [entry["training"] for entry in entries], ":", color="C0", label="training")
        panel.plot(epochs, [entry["validation"] for entry in entries], "-", color="C0", label="validation")
        panel.set(title=label, xlabel="epoch")
    axes[0].set_ylabel("negative ELBO − const. [nats / image]")
    axes[0].legend()
    return figure


def latent_space(latents: Tensor, labels: Tensor, mean: Map, *, side: int = 12) -> Figure:
    """Encoded digits, and decoded images on a regular grid over the same rectangle."""
    figure, axes = plots.new_figure(figures.PAGE, 3.4, columns=2)
    grid = plots.LatentGrid.around(latents, resolution=side, margin=0)
    plots.scatter_classes(axes[0], latents, labels, size=3)
    plots.latent_axes(axes[0])
    axes[0].set(xlim=grid.extent[:2], ylim=grid.extent[2:])
    # the first row of a picture is its top, that of a grid its bottom
    plots.image_grid(axes[1], mean(grid.points.flip(0).reshape(-1, 2)), columns=side)
    axes[1].set_title("decoded mean on a grid")
    return figure


def variance_maps(grid: plots.LatentGrid, network: Map, g: Generator) -> Figure:
    """The decoder's own variance and the RBF variance, with the data they were fitted to."""
    figure, axes = plots.new_figure(figures.PAGE, 3.0, columns=2)
    for panel, std, title in ((axes[0], network, "variance network"), (axes[1], g.rbf, "RBF precision")):
        plots.variance_map(panel, grid, std)
        plots.scatter_classes(panel, g.test_latents, g.test_labels, size=0.8, alpha=0.35, legend=panel is axes[0])
        panel.set_title(title)
    return figure


def condition_maps(grid: plots.LatentGrid, kappa: Tensor, v_min: Tensor, v_max: Tensor, g: Generator) -> Figure:
    """MB-1: condition number, encoded digits, streamlines of the minimal (left) and maximal (right) eigenvectors."""
    figure, axes = plots.new_figure(figures.PAGE, 3.5, columns=2, sharex=True, sharey=True)
    log_kappa = kappa.log10()
    for panel, directions, title in (
        (axes[0], v_min, "minimal eigenvectors"),
        (axes[1], v_max, "maximal eigenvectors"),
    ):
        picture = plots.heat_map(panel, grid, log_kappa, "", cmap="mako", colorbar=False)
        plots.scatter_classes(panel, g.test_latents, g.test_labels, size=1.2, legend=panel is axes[1])
        plots.draw_streamlines(panel, grid, directions)
        panel.set_title(title)
    axes[1].set_ylabel("")
    label = r"$\log_{10}$ condition number $\lambda_{\max}/\lambda_{\min}$"
    figure.colorbar(picture, ax=axes, label=label, fraction=0.024, pad=0.02)
    return figure


def improvements(grid: plots.LatentGrid, volume: Tensor, g: Generator, mc: RelativeImprovement) -> Figure:
    """MB-2: sampled lines on the volume map, coloured by relative improvement, and their histogram."""
    figure, axes = plots.new_figure(figures.PAGE, 3.0, columns=2, gridspec_kw={"width_ratios": [1.9, 1]})
    plots.heat_map(axes[0], grid, volume, r"$\log\sqrt{\det M_z}$", cmap="viridis")
    plots.scatter_classes(axes[0], g.test_latents, g.test_labels, size=0.8, alpha=0.35)
    plots.draw_segments(axes[0], mc.start, mc.end, mc.improvement, "relative improvement", cmap="rocket")
    plots.histogram(axes[1], mc.improvement, mean=mc.mean, interval=mc.interval)
    return figure


def pairs(first: Tensor, second: Tensor) -> Figure:
    """MB-5: start images above end images."""
    n = len(first)
    figure, axes = plots.new_figure(figures.PAGE, 2.2 * figures.PAGE / n + 0.25)
    plots.image_grid(axes, torch.cat([first, second]), columns=n)
    side = 28
    axes.set_xticks([side * (i + 0.5) for i in range(n)], [str(i + 1) for i in range(n)])
    axes.set_yticks([side / 2, 1.5 * side], ["start", "end"])
    axes.tick_params(length=0)
    return figure


def comparison_bars(comparison: ModelComparison) -> Figure:
    """MB-6: relative improvements of every pair in both models; comparable pairs are marked."""
    figure, axes = plots.new_figure(figures.PAGE, 2.4)
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
    figure, axes = plots.new_figure(figures.PAGE, 3.1, columns=2)
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
        rows.append(mean(_along(ends[0], ends[1], n_images)).cpu())
    middle = torch.ones_like(rows[0])
    middle[0], middle[-1] = first.cpu(), second.cpu()
    figure, axes = plots.new_figure(figures.PAGE, 3 * figures.PAGE / n_images + 0.1)
    plots.image_grid(axes, torch.cat([rows[0], middle, rows[1]]), columns=n_images)
    side = 28
    shares = [f"{100 * float(found.improvement[pair]):.1f} %" for found in (comparison.a, comparison.b)]
    labels = [f"VAE1\n({shares[0]})", "original\nimages", f"VAE2\n({shares[1]})"]
    axes.set_yticks([side * (i + 0.5) for i in range(3)], labels)
    axes.tick_params(length=0)
    return figure
