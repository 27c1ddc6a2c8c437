"""Panels of notebook 13: maps, curves, sequences and evenness of importance-weighted autoencoders."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from geolib.companion.data import robot_arm
from geolib.companion.figures import plots, style
from geolib.companion.studies import summaries
from geolib.companion.studies.evenness import EVEN, STEPS, step_lengths
from geolib.companion.studies.reliable_distances.metrics_for_generative_models import (
    ARM,
    DIGITS,
    PENDULUM,
    STRENGTHS,
    Chen,
    DataSet,
    Distances,
)

_DOTS = 1000
_THIN = 6  # pairs beside the one that is shown
_ROW = 1.6  # arm lengths from one row of poses to the next
_COLORS = {"line": style.PALETTE[7], "geodesic": style.PALETTE[4], "fisher_rao": style.PALETTE[0]}
_DASHES = {"line": "--", "geodesic": "-", "fisher_rao": "-."}
_NAMES = {"geodesic": "geodesic", "euclidean": "Euclidean"}
_LABELS = {"line": "straight line", "geodesic": "geodesic", "fisher_rao": "Fisher-Rao geodesic"}


def pendulum(found: Chen, *, n_images: int = 9) -> Figure:
    """CH-1: the metric with lines and geodesics, images along one of each, and their steps."""
    figure, axes = _beside_a_map(found.sets[PENDULUM])
    _strips(axes["strips"], found.sets[PENDULUM], n_images)
    return figure


def arm(found: Chen, *, n_poses: int = 7) -> Figure:
    """CH-4: the same for the robot arm, as stick figures."""
    one = found.sets[ARM]
    figure, axes = _beside_a_map(one)
    panel = axes["strips"]
    for row, name in enumerate(("line", "geodesic")):
        poses = robot_arm.in_space(one.outputs(name, n_poses))
        for k, pose in enumerate(plots.to_numpy(torch.cat([torch.zeros(n_poses, 1, 2), poses], dim=1))):
            x, y = pose.T + np.array([[1.3 * k], [-_ROW * row]])
            panel.plot(x, y, color=_COLORS[name], linewidth=1, marker="o", markersize=1.2)
    panel.set(yticks=[0, -_ROW], yticklabels=["straight\nline", "geodesic"], xticks=[])
    panel.set_aspect("equal")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    return figure


def digits(found: Chen, *, n_images: int = 14) -> Figure:
    """CH-3: the Euclidean and the Fisher-Rao metric of the digits, curves in both, and images along them."""
    one, other = found.sets[DIGITS], found.fisher_rao
    rows = [["geodesic", "fisher_rao"], ["strips", "strips"]]
    figure, axes = plt.subplot_mosaic(rows, figsize=(style.PAGE, 4.4), height_ratios=[2.2, 1])
    maps = {
        "geodesic": (one.log_volume, one.log_volume_at_data, one.curves.geodesic, "Euclidean distance of pixels"),
        "fisher_rao": (other.log_volume, other.log_volume_at_data, other.geodesic, "Fisher-Rao metric of pixels"),
    }
    for name, (values, at_data, curves, title) in maps.items():
        _map(axes[name], one, values, at_data, {"line": one.curves.line, name: curves})
        axes[name].set_title(title)
        plots.label_classes(axes[name], one.g.test_latents, one.g.data.test_labels)
    axes["fisher_rao"].set_ylabel("")
    _legend(figure, ("line", "geodesic", "fisher_rao"))
    _strips(axes["strips"], one, n_images)
    return figure


def distances(found: Distances) -> Figure:
    """CH-1: geodesic and Euclidean distances of pairs of pendulums over the angle between them."""
    figure, axes = plots.new_figure(style.COLUMN, 1.9, columns=2)
    for panel, name, color in zip(axes, ("geodesic", "euclidean"), (_COLORS["geodesic"], "0.35"), strict=True):
        values = getattr(found, name)
        panel.scatter(plots.to_numpy(found.angle.rad2deg()), plots.to_numpy(values), s=4, color=color, linewidths=0)
        panel.set(xlabel="angle between [deg]", ylabel=f"{_NAMES[name]} distance", xlim=(0, 180), ylim=(0, None))
        panel.set_xticks([0, 90, 180])
    return figure


def evenness(found: Chen) -> Figure:
    """CH-1, CH-3, CH-4: coefficients of variation of the output's steps, pair by pair and their means."""
    figure, axes = plots.new_figure(style.COLUMN, 2.1)
    scatter = np.random.default_rng(0)
    for row, one in enumerate(found.sets.values()):
        for name, shift in (("line", -0.17), ("geodesic", 0.17)):
            values = plots.to_numpy(getattr(one.curves, f"{name}_variation"))
            y = row + shift + scatter.uniform(-0.1, 0.1, len(values))
            axes.scatter(values, y, s=2, color=_COLORS[name], alpha=0.35, linewidths=0, rasterized=True)
            mean, half = one.curves.mean(name)
            axes.errorbar(mean, row + shift, xerr=half, fmt="D", color=_COLORS[name], markersize=4, zorder=5)
    axes.axvline(EVEN, color="0.5", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="coefficient of variation of the output's steps")
    axes.set(yticks=range(len(found.sets)), yticklabels=[name.replace(" ", "\n") for name in found.sets])
    axes.set_ylim(len(found.sets) - 0.5, -0.5)
    _legend(figure, ("line", "geodesic"), linestyle="", marker="D", markersize=4)
    return figure


def smoothing(found: Chen) -> Figure:
    """CH-2: evenness and length of geodesics of the smoothed metric, and what the metric spans, over lambda."""
    figure, axes = plots.new_figure(style.PAGE, 2.2, columns=3)
    x = np.arange(len(STRENGTHS))
    for (name, one), color, marker in zip(found.sets.items(), style.PALETTE, style.MARKERS, strict=False):
        for panel, values in zip(
            axes,
            (
                [each.variation for each in one.smoothings],
                [100 * each.longer for each in one.smoothings],
                [torch.tensor([each.spread]) for each in one.smoothings],
            ),
            strict=True,
        ):
            means = [summaries.mean(each) for each in values]
            halves = [float(summaries.half_width(each)) for each in values]
            errors = None if panel is axes[2] else halves
            panel.errorbar(x, means, yerr=errors, color=color, marker=marker, markersize=3.5, linewidth=1, label=name)
    labels = (
        "coefficient of variation\nof the output's steps",
        "length beyond that\nof geodesics [%]",
        "decades spanned by\n$\\sqrt{\\det\\,\\hat G}$ at the data",
    )
    for panel, label in zip(axes, labels, strict=True):
        panel.set(xlabel=r"$\lambda$ over the median $s^2$", ylabel=label, ylim=(0, None))
        panel.set_xticks(x, [f"{strength:g}" for strength in STRENGTHS])
    axes[0].axhline(EVEN, color="0.5", linewidth=0.8, linestyle=":")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure


def _beside_a_map(one: DataSet) -> tuple[Figure, dict[str, Axes]]:
    """A figure with the map on the left, room for sequences at the top right, and the steps below."""
    rows = [["map", "strips"], ["map", "steps"]]
    figure, axes = plt.subplot_mosaic(rows, figsize=(style.PAGE, 2.9), width_ratios=[1, 1.3], height_ratios=[1, 1.15])
    curves = {"line": one.curves.line, "geodesic": one.curves.geodesic}
    _map(axes["map"], one, one.log_volume, one.log_volume_at_data, curves)
    plots.label_classes(axes["map"], one.g.test_latents, one.g.data.test_labels)
    for name in ("line", "geodesic"):
        steps = step_lengths(one.g.model.mean, getattr(one.curves, name)[one.shown].to(one.g.test_latents)).cpu()
        t = (np.arange(STEPS) + 0.5) / STEPS
        axes["steps"].plot(
            t, plots.to_numpy(steps / steps.mean()), color=_COLORS[name], linestyle=_DASHES[name], linewidth=1.4
        )
    axes["steps"].set(
        xlabel="parameter of the curve", ylabel="output's step\nover the mean", xlim=(0, 1), ylim=(0, None)
    )
    _legend(figure, ("line", "geodesic"))
    return figure, axes


def _map(axes: Axes, one: DataSet, values: Tensor, at_data: Tensor, curves: dict[str, Tensor]) -> None:
    picture = plots.heat_map(axes, one.grid, values, cmap=style.GROUND, **plots.limits_at(at_data))
    dots = plots.to_numpy(one.g.test_latents[:_DOTS]).T
    axes.scatter(*dots, s=0.6, color="0.35", linewidths=0, rasterized=True)
    for name, points in curves.items():
        looks = {"colors": _COLORS[name], "linestyles": _DASHES[name]}
        plots.draw_curves(axes, points[:_THIN], linewidths=0.6, **looks)
        plots.draw_curves(axes, points[[one.shown]], linewidths=1.8, zorder=5, **looks)
    plots.color_bar(picture, axes, plots.LOG_VOLUME)


def _strips(axes: Axes, one: DataSet, n_images: int) -> None:
    rows, columns = one.g.data.shape
    images = torch.cat([one.outputs(name, n_images) for name in ("line", "geodesic")])
    plots.image_grid(axes, images, columns=n_images, shape=(rows, columns))
    axes.set_yticks([rows / 2, 1.5 * rows], ["straight\nline", "geodesic"])
    axes.tick_params(length=0)


def _legend(figure: Figure, names: tuple[str, ...], **looks: object) -> None:
    handles = [
        Line2D([], [], **{"color": _COLORS[name], "linestyle": _DASHES[name], "linewidth": 1.4, **looks})
        for name in names
    ]
    figure.legend(handles, [_LABELS[name] for name in names], loc="outside upper center", ncols=len(names))
