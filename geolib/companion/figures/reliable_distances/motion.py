"""Panels of notebook 14: the latent space of human poses, and what a body does along straight lines and geodesics."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from geolib.companion.data.motion import JOINTS, PARENTS, TITLES
from geolib.companion.figures import plots, style
from geolib.companion.studies import evenness, summaries
from geolib.companion.studies.reliable_distances.motion import KINDS, Motion, changes

_CURVES = {
    "line": ("straight line", {"color": style.PALETTE[7], "linewidth": 1.2, "linestyle": (0, (3, 1.2))}),
    "geodesic": ("geodesic", {"color": style.PALETTE[4], "linewidth": 1.4, "linestyle": "-"}),
}
_LEFT, _RIGHT, _TRUNK = style.PALETTE[0], style.PALETTE[1], "0.2"
_SHOWN = 9  # poses in a row
_APART = 0.95  # metres between them
_TURN = math.radians(25)  # of the view from the body's left side, so that both legs and both arms are seen
_REACH = (-1.05, 1.0)  # metres below and above the root


def latent_space(found: Motion) -> Figure:
    """CH-5: the magnification factor with the encoded poses, and a geodesic and its line for each kind of pair."""
    figure, axes = plots.new_figure(style.PAGE, 3.3, columns=2, sharex=True, sharey=True)
    for panel in axes:
        picture = _map(panel, found)
    handles = []
    latents, labels = (plots.to_numpy(x) for x in (found.g.train_latents, found.g.data.train_labels))
    for label, title in enumerate(TITLES):
        marks = {"color": style.PALETTE[(0, 1, 3, 2)[label]], "marker": style.MARKERS[label]}
        axes[0].scatter(*latents[labels == label].T, s=3, linewidths=0, rasterized=True, zorder=3, **marks)
        handles.append(Line2D([], [], linestyle="", markersize=4, label=title, **marks))
    for kind, title in enumerate(KINDS):
        chosen = found.least_even(kind)
        for name, (_, stroke) in _CURVES.items():
            plots.draw_curves(axes[1], getattr(found.curves, name)[chosen : chosen + 1], **_one_color(stroke))
        ends = plots.to_numpy(found.curves.line[chosen][[0, -1]])
        axes[1].scatter(*ends.T, s=14, color="black", marker=style.MARKERS[kind], linewidths=0, zorder=5)
        handles.append(
            Line2D(
                [], [], linestyle="", markersize=4, color="black", marker=style.MARKERS[kind], label=f"pair: {title}"
            )
        )
    handles += [Line2D([], [], label=label, **stroke) for label, stroke in _CURVES.values()]
    axes[1].set_ylabel("")
    axes[0].set_title("encoded poses")
    axes[1].set_title("geodesics and straight lines")
    plots.color_bar(picture, list(axes), plots.LOG_VOLUME)
    figure.legend(handles=handles, loc="outside upper center", ncols=5)
    return figure


def motion(found: Motion) -> Figure:
    """CH-5: poses at equal steps along both curves, with how far the joints move from one to the next."""
    figure, axes = plots.new_figure(style.PAGE, 3.5, rows=2)
    poses = {name: found.poses(name, _SHOWN) for name in _CURVES}
    bodies = {name: [_body(pose, k * _APART) for k, pose in enumerate(own)] for name, own in poses.items()}
    drawn = np.concatenate([segment for row in bodies.values() for body in row for segment in body["segments"]])
    (left, bottom), (right, top) = drawn.min(0), drawn.max(0)
    for panel, (name, (label, _)) in zip(axes, _CURVES.items(), strict=True):
        for body in bodies[name]:
            panel.add_collection(LineCollection(**body))
        for place, change in enumerate(100 * changes(poses[name])):
            panel.text((place + 0.5) * _APART, bottom - 0.06, f"{change:.0f} cm", ha="center", va="top", fontsize=7)
        panel.set(xlim=(left - 0.1, right + 0.1), ylim=(bottom - 0.3, top + 0.05), aspect="equal")
        panel.set_title(label, loc="left")
        panel.axis("off")
    figure.legend(handles=_sides(), loc="outside upper right", ncols=3)
    return figure


def evenly(found: Motion) -> Figure:
    """CH-5: how evenly the pose changes along both curves, for every pair, and step by step for one."""
    figure, axes = plots.new_figure(style.PAGE, 2.5, columns=2)
    for side, (name, (_, stroke)) in zip((-0.18, 0.18), _CURVES.items(), strict=True):
        values = getattr(found.curves, f"{name}_variation")
        rows = [values[found.pairs.kind == kind] for kind in range(len(KINDS))] + [values]
        for place, own in enumerate(rows):
            spread = np.linspace(-0.12, 0.12, len(own))
            dots = {"s": 3, "color": stroke["color"], "alpha": 0.3, "linewidths": 0}
            axes[0].scatter(place + side + spread, plots.to_numpy(own), **dots)
        means, halves = zip(*((summaries.mean(own), float(summaries.half_width(own))) for own in rows), strict=True)
        bars = {"fmt": "o", "color": stroke["color"], "markersize": 4, "capsize": 2.5, "markeredgecolor": "white"}
        axes[0].errorbar(np.arange(len(rows)) + side, means, yerr=halves, zorder=4, markeredgewidth=0.5, **bars)
    axes[0].axhline(evenness.EVEN, color="0.4", linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=0)
    axes[0].set(xticks=range(len(KINDS) + 1), xticklabels=[*KINDS, "all"], xlabel="pairs of poses")
    axes[0].set(ylabel="coefficient of variation\nof the pose's steps", ylim=(-0.005, None))
    for name, (label, stroke) in _CURVES.items():
        steps = 100 * changes(found.poses(name, evenness.STEPS + 1))
        axes[1].plot(np.arange(1, evenness.STEPS + 1), plots.to_numpy(steps), label=label, **stroke)
    axes[1].set(xlabel="step along the curve", ylabel="change of the pose [cm]", xlim=(1, evenness.STEPS))
    axes[1].set_ylim(bottom=0)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def frames(found: Motion) -> Iterator[Figure]:
    """CH-5: the body and its latent at equal steps along both curves."""
    figure, axes = plots.new_figure(5.4, 2.5, columns=3, width_ratios=[1.25, 0.8, 0.8])
    _map(axes[0], found)
    chosen = found.least_even()
    latents = {name: plots.to_numpy(getattr(found.curves, name)[chosen]) for name in _CURVES}
    poses = {name: found.poses(name, evenness.STEPS + 1) for name in _CURVES}
    dots, bodies = {}, {}
    for panel, (name, (label, stroke)) in zip(axes[1:], _CURVES.items(), strict=True):
        plots.draw_curves(axes[0], torch.from_numpy(latents[name]).unsqueeze(0), **_one_color(stroke))
        (dots[name],) = axes[0].plot([], [], marker="o", markersize=5, color=stroke["color"], zorder=6)
        bodies[name] = panel.add_collection(LineCollection(**_body(poses[name][0], 0.0)))
        panel.set(xlim=(-0.75, 0.75), ylim=_REACH, aspect="equal")
        panel.set_title(label, color=stroke["color"])
        panel.axis("off")
    axes[0].set_title("latent space")
    for step in range(evenness.STEPS + 1):
        for name in _CURVES:
            dots[name].set_data(*latents[name][step][:, None])
            bodies[name].set_segments(_body(poses[name][step], 0.0)["segments"])
        yield figure


def _map(panel: Axes, found: Motion) -> AxesImage:
    limits = plots.limits_at(found.log_volume_at_data)
    return plots.heat_map(panel, found.grid, found.log_volume, cmap=style.GROUND, **limits)


def _one_color(stroke: dict) -> dict:
    """A line's style as a collection of lines takes it."""
    return {"colors": [stroke["color"]], "linewidth": stroke["linewidth"], "linestyle": stroke["linestyle"]}


def _body(pose: Tensor, place: float) -> dict[str, list]:
    """Bones of a pose ``(J, 3)`` as segments from the side, looking to the right, with their colours."""
    x, y, z = plots.to_numpy(pose).T
    seen: NDArray = np.stack([math.cos(_TURN) * z + math.sin(_TURN) * x + place, y], axis=-1)
    order = sorted(range(1, len(JOINTS)), key=lambda j: _side(JOINTS[j]) != _RIGHT)  # the right side is behind
    return {
        "segments": [seen[[PARENTS[j], j]] for j in order],
        "colors": [_side(JOINTS[j]) for j in order],
        "linewidths": 1.6,
        "capstyle": "round",
    }


def _side(joint: str) -> str:
    if joint.startswith("lower"):
        return _TRUNK
    return {"l": _LEFT, "r": _RIGHT}.get(joint[0], _TRUNK)


def _sides() -> list[Line2D]:
    sides = ((_LEFT, "left side"), (_RIGHT, "right side"), (_TRUNK, "trunk"))
    return [Line2D([], [], color=color, linewidth=1.6, label=label) for color, label in sides]
