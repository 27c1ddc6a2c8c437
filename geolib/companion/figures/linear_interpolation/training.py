"""Panels of notebook 01: training curves and the latent space."""

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


def training_curves(histories: dict[str, list[dict]]) -> Figure:
    """Negative evidence lower bounds, up to their constant, over epochs; one panel a model."""
    figure, axes = plots.new_figure(style.PAGE, 2.2, columns=len(histories), sharey=True)
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
    figure, axes = plots.new_figure(style.PAGE, 3.4, columns=2)
    grid = plots.LatentGrid.around(latents, resolution=side, margin=0)
    plots.scatter_classes(axes[0], latents, labels, size=3)
    plots.latent_axes(axes[0])
    axes[0].set(xlim=grid.extent[:2], ylim=grid.extent[2:])
    # the first row of a picture is its top, that of a grid its bottom
    plots.image_grid(axes[1], mean(grid.points.flip(0).reshape(-1, 2)), columns=side)
    axes[1].set_title("decoded mean on a grid")
    return figure
