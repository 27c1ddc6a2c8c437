"""Panels of notebook 10: sequences of images, classes that paths cross, and Eq. 4 against Monte Carlo."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from geolib.companion.figures import plots, style
from geolib.companion.models.features import MAPS
from geolib.companion.studies.output_spaces.expectation import SCALES, Expectation
from geolib.companion.studies.output_spaces.feature_maps import LABELS, PATHS, FeatureMaps, Perceptual

_SHOWN = ("line", "geodesic", "probabilities")  # the paper's three sequences, from top to bottom
_LINES = {"line": (":", "0.2"), "geodesic": ("--", style.PALETTE[5]), "probabilities": ("-", style.PALETTE[4])}
_LINES["logits"] = ("-.", style.PALETTE[0])
_SIDE = 28  # pixels of an image
_MOST = 4  # changes of class from which on they are counted together


def sequences(found: FeatureMaps, pair: int, *, n_images: int = 14) -> Figure:
    """MB-3: images along the straight line, the geodesic and the geodesic under logistic regression, with classes."""
    side = (style.PAGE - 1.1) / n_images
    figure, axes = plots.new_figure(style.PAGE, len(_SHOWN) * (side + 0.18) + 0.15, rows=len(_SHOWN))
    for panel, name in zip(axes, _SHOWN, strict=True):
        images, classes = found.strip(name, pair, n_images)
        plots.image_grid(panel, images, columns=n_images)
        panel.set_yticks([_SIDE / 2], [_in_two_lines(LABELS[name])])
        # a class is written where it begins
        begins = [k for k, label in enumerate(classes) if k == 0 or label != classes[k - 1]]
        panel.set_xticks([_SIDE * (k + 0.5) for k in begins], [str(classes[k]) for k in begins])
        panel.tick_params(length=0, pad=1.5)
        for k in begins[1:]:
            panel.axvline(_SIDE * k - 0.5, color=style.PALETTE[1], linewidth=1.2)
    return figure


def classes_crossed(found: FeatureMaps, pair: int) -> Figure:
    """The paths of one pair over the most probable class, and the changes of class along the paths of all pairs."""
    figure, axes = plots.new_figure(style.PAGE, 2.7, columns=2, gridspec_kw={"width_ratios": [1, 1.15]})
    _regions(axes[0], found, pair)
    _counts(axes[1], found)
    return figure


def expectation(found: Expectation) -> Figure:
    """MB-E: the rate of length by Monte Carlo over Eq. 4's, for a feature map that is linear and one that is not."""
    figure, axes = plots.new_figure(style.COLUMN, 2.7)
    scales = np.array(SCALES)
    for name, color, marker in zip(MAPS, (style.PALETTE[4], style.PALETTE[0]), "os", strict=True):
        low, middle, high = np.quantile(plots.to_numpy(found.ratio[name]), [0.1, 0.5, 0.9], axis=-1)
        axes.fill_between(scales, low, high, color=color, alpha=0.2, linewidth=0)
        axes.plot(scales, middle, color=color, marker=marker, markersize=4, label=f"{name}: median, 10 to 90 %")
    axes.axhline(1, color="0.35", linewidth=0.8)
    axes.axvline(1, color="0.35", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="standard deviation, in units of the fitted one")
    axes.set(ylabel="rate of length,\nMonte Carlo / Eq. 4")
    axes.set_xticks(scales, [f"{scale:g}" for scale in scales])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside upper right")
    return figure


def perceptual(found: Perceptual) -> Figure:
    """MB-VGG: images along the straight line, the geodesic and the geodesic under VGG-19, or why that is missing."""
    n_images = len(next(iter(found.strips.values())))
    side = (style.PAGE - 1.1) / n_images
    figure, axes = plots.new_figure(style.PAGE, 3 * (side + 0.06) + 0.15, rows=3)
    for panel, (label, images) in zip(axes, found.strips.items(), strict=False):
        plots.image_grid(panel, images, columns=n_images)
        panel.set_yticks([_SIDE / 2], [_in_two_lines(label)])
        panel.tick_params(length=0)
    if found.missing:
        axes[2].set_axis_off()
        axes[2].text(0.5, 0.5, found.missing, transform=axes[2].transAxes, ha="center", va="center")
    return figure


def _in_two_lines(label: str) -> str:
    return label.replace(" under ", "\nunder ")


def _regions(axes: Axes, found: FeatureMaps, pair: int) -> None:
    labels = np.array(found.logistic.classes)
    colors = ListedColormap([style.PALETTE[k % len(style.PALETTE)] for k in range(len(labels))])
    limits = {"vmin": -0.5, "vmax": len(labels) - 0.5}
    picture = plots.heat_map(axes, found.grid, found.regions.double(), cmap=colors, **limits)
    picture.set(interpolation="nearest", alpha=0.28)
    for name in _SHOWN:
        dashes, color = _LINES[name]
        plots.draw_curves(axes, found.paths[name][[pair]], colors=color, linestyles=dashes, linewidths=1.4)
    ends = plots.to_numpy(found.paths["line"][pair][[0, -1]])
    axes.plot(*ends.T, "o", color="black", markersize=3, zorder=6)
    inside = plots.to_numpy(torch.cat([found.g.test_latents, *(found.paths[name][pair] for name in _SHOWN)]))
    low, high = inside.min(0), inside.max(0)
    middle, half = (low + high) / 2, 0.52 * (high - low).max()
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
    plots.label_classes(axes, found.g.test_latents, found.g.test_labels)


def _counts(axes: Axes, found: FeatureMaps) -> None:
    columns = {LABELS[name]: found.changes[name] for name in PATHS} | {"fewest possible": found.fewest}
    shades = [*(_LINES[name][1] for name in PATHS), "0.75"]
    width = 0.8 / len(columns)
    for k, (label, changes) in enumerate(columns.items()):
        counts = torch.bincount(changes.clamp_max(_MOST), minlength=_MOST + 1)
        places = np.arange(_MOST + 1) + (k - (len(columns) - 1) / 2) * width
        axes.bar(places, plots.to_numpy(counts), width=width, color=shades[k], label=label, linewidth=0)
    axes.set_xticks(range(_MOST + 1), [*map(str, range(_MOST)), f"≥ {_MOST}"])
    axes.set(xlabel="changes of the most probable class", ylabel=f"pairs of {found.n}")
    axes.tick_params(axis="x", length=0)
    axes.figure.legend(loc="outside upper center", ncols=3)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
