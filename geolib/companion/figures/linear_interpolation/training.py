"""Panels of notebook 01: training curves and the latent space."""

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from geolib.companion.figures import plots, style
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies.linear_interpolation.training import Training


def training_curves(found: Training) -> Figure:
    """Losses over epochs, on logarithmic scales; one panel per model."""
    figure, axes = plots.new_figure(style.PAGE, 2.2, columns=len(found.trained), sharex=True, sharey=True)
    for panel, (label, trained) in zip(axes, found.trained.items(), strict=True):
        entries = [entry for entry in trained.history if entry["phase"] == "elbo"]
        epochs = [entry["epoch"] for entry in entries]
        for loss, color, line in (("training", style.PALETTE[4], ":"), ("validation", style.PALETTE[0], "-")):
            panel.plot(epochs, [entry[loss] for entry in entries], line, color=color, label=loss)
        panel.set(title=f"{label}, {found.sizes[label]:,} parameters", xlabel="epoch", xscale="log", yscale="log")
    # the range is less than a decade: label its round values, not its powers of ten
    axes[0].yaxis.set(major_locator=LogLocator(subs=(1, 2, 3, 4, 6, 8)), minor_locator=NullLocator())
    for axis in (axes[0].xaxis, axes[0].yaxis):
        axis.set(major_formatter=StrMethodFormatter("{x:g}"), minor_formatter=NullFormatter())
    axes[0].set_ylabel("loss [nats per image]")
    axes[-1].legend()  # beside the curves, which fall
    return figure


def latent_space(found: Training, *, side: int = 12) -> Figure:
    """Encoded digits, and decoded images on a regular grid over the same rectangle."""
    figure, axes = plots.new_figure(style.PAGE, 3.4, columns=2)
    grid = LatentGrid.around(found.latents, resolution=side, margin=0)
    plots.scatter_classes(axes[0], found.latents, found.labels, size=3)
    plots.decoded_grid(axes[1], grid, found.vae.mean)
    for panel, title in zip(axes, ("encoded test digits", "decoded mean"), strict=True):
        plots.latent_axes(panel)
        panel.set(xlim=grid.extent[:2], ylim=grid.extent[2:], title=title)
    axes[1].set(xticks=axes[0].get_xticks(), yticks=axes[0].get_yticks())
    axes[1].set(xlim=grid.extent[:2], ylim=grid.extent[2:])
    return figure
