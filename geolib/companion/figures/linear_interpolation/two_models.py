"""Panels of notebook 05: the same pairs in two models."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from geolib import Geodesic
from geolib.companion.figures import plots, style
from geolib.companion.studies.linear_interpolation.rankings import MEASURES, SAMPLE, Ranking
from geolib.companion.studies.linear_interpolation.two_models import NAMES, TwoModels

_SIDE = 28  # pixels of an image
_N_COLORS = 6  # lines of the maps that have a colour of their own; the palette's last two are too pale and too dark
_BAND = "0.88"
_SHARES = np.linspace(0, 1, 20)[:, None]


def pairs(found: TwoModels) -> Figure:
    """MB-5: start images above end images."""
    images, n = found.models[0].data.test_images, len(found.first)
    figure, axes = plots.new_figure(style.PAGE, 2 * style.PAGE / n + 0.45)
    plots.image_grid(axes, torch.cat([images[found.first], images[found.second]]), columns=n)
    axes.set_xticks([_SIDE * (i + 0.5) for i in range(n)], [str(i + 1) for i in range(n)])
    axes.set_yticks([_SIDE / 2, 1.5 * _SIDE], ["start", "end"])
    axes.tick_params(length=0)
    return figure


def improvements(found: TwoModels) -> Figure:
    """MB-6: relative improvements of every pair in both models; comparable pairs stand on a grey band."""
    figure, axes = plots.new_figure(style.PAGE, 2.4)
    comparison = found.comparison
    positions = np.arange(1, len(found.first) + 1)
    for position in positions[plots.to_numpy(comparison.comparable)]:
        axes.axvspan(position - 0.5, position + 0.5, color=_BAND, linewidth=0, zorder=0)
    for side, name, shift, color in zip((comparison.a, comparison.b), NAMES, (-0.2, 0.2), style.PALETTE, strict=False):
        axes.bar(
            positions + shift, 100 * plots.to_numpy(side.improvement), width=0.4, label=name, color=color, linewidth=0
        )
    axes.set(xlabel="pair", ylabel="relative improvement [%]", xticks=positions, xlim=(0.4, len(positions) + 0.6))
    axes.tick_params(axis="x", length=0)
    band = Patch(color=_BAND, label=f"comparable: within {100 * comparison.threshold:g} percentage points")
    figure.legend(handles=[*axes.containers, band], loc="outside upper right", ncols=3)
    return figure


def latent_lines(found: TwoModels, *, resolution: int) -> Figure:
    """MB-7: the numbered pairs in the latent spaces of both models, on one scale; comparable ones in colour.

    Dotted: the shorter curves of those in colour.
    """
    figure, axes = plots.new_figure(style.PAGE, 3.5, columns=2, sharex=True, sharey=True)
    grid, volumes = found.volumes(resolution=resolution)
    limits = plots.limits_at(found.volumes_at_the_data())
    colors = _colors(found)
    for panel, volume, g, curves, name in zip(
        axes, volumes, found.models, (found.comparison.a, found.comparison.b), NAMES, strict=True
    ):
        ground = plots.heat_map(panel, grid, volume, cmap=style.GROUND, **limits)
        plots.scatter_classes(panel, g.test_latents, g.test_labels, size=0)
        _numbered_lines(panel, curves, colors)
        panel.set_title(name)
    axes[1].set_ylabel("")
    plots.color_bar(ground, axes, plots.LOG_VOLUME)
    return figure


def sequence(found: TwoModels, shown: Sequence[int], *, n_images: int = 15) -> Figure:
    """MB-8: pairs along the straight line and along the shorter curve of both models, between the original images."""
    height = 4 * (style.PAGE - 2.4) / n_images + 0.1
    figure, axes = plots.new_figure(
        style.PAGE, height * len(shown) + 0.3, len(shown), 3, squeeze=False, width_ratios=[2, n_images, 2]
    )
    images = found.models[0].data.test_images
    for (start, strips, end), pair in zip(axes, shown, strict=True):
        plots.image_grid(strips, torch.cat(found.strips(pair, n_images)), columns=n_images)
        strips.set_yticks([_SIDE * (row + 0.5) for row in range(4)], _labels(found, pair))
        strips.tick_params(length=0)
        for axis, image, name in (
            (start, images[found.first[pair]], "start"),
            (end, images[found.second[pair]], "end"),
        ):
            plots.image_grid(axis, image[None], columns=1)
            axis.set_title(name)
        start.set_ylabel(f"pair {pair + 1}")
    return figure


def ranking(found: Ranking) -> Figure:
    """How much better the first model's sequences are, pair by pair, and how often two samples of pairs agree."""
    figure, axes = plots.new_figure(style.PAGE, 2.3, columns=3, gridspec_kw={"width_ratios": [1, 1, 0.9]})
    for panel, (name, label) in zip(axes, MEASURES.items(), strict=False):
        better = plots.to_numpy(found.better[name])
        edges = np.linspace(*np.quantile(better, [0.005, 0.995]), 25)
        for values, color, group in (
            (better, "0.75", "all pairs"),
            (better[plots.to_numpy(found.comparable)], style.PALETTE[0], "comparable pairs"),
        ):
            panel.hist(np.clip(values, edges[0], edges[-1]), edges, color=color, label=group, linewidth=0)
        panel.axvline(0, color="0.2", linewidth=0.8)
        panel.set(xlabel=f"{label},\n{NAMES[1]} less {NAMES[0]}")
    axes[0].set_ylabel("pairs")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    for k, name in enumerate(MEASURES):
        for value, color, shift in zip(found.agreement[name], ("0.75", style.PALETTE[0]), (-0.2, 0.2), strict=True):
            axes[2].bar(k + shift, value, width=0.4, color=color, linewidth=0)
    axes[2].set_xticks(range(len(MEASURES)), list(MEASURES))
    axes[2].axhline(50, color="0.2", linewidth=0.8, linestyle=":")
    axes[2].set(ylim=(0, 105), ylabel=f"two samples of {SAMPLE} pairs\nthat agree [%]")
    return figure


def _labels(found: TwoModels, pair: int) -> list[str]:
    labels = []
    for name, side in zip(NAMES, (found.comparison.a, found.comparison.b), strict=True):
        labels += [f"{name}, line", f"{100 * float(side.improvement[pair]):.2f} % shorter"]
    return labels


def _colors(found: TwoModels) -> dict[int, str]:
    """A colour for each comparable pair, as long as there are colours; the most alike come first."""
    comparable = [pair for pair in found.most_alike(_N_COLORS) if bool(found.comparison.comparable[pair])]
    return dict(zip(comparable, style.PALETTE[:_N_COLORS], strict=False))


def _numbered_lines(axes: Axes, curves: Geodesic, colors: dict[int, str]) -> None:
    points = plots.to_numpy(curves.points)
    ends = points[:, [0, -1]]
    plots.draw_curves(axes, ends, colors="0.35", linewidths=0.6, zorder=3)
    for pair, color in colors.items():
        plots.draw_curves(axes, ends[[pair]], colors=color, linewidths=1.6)
        plots.draw_curves(axes, points[[pair]], colors=color, linewidths=1.4, linestyles=":")
    left, right = axes.get_xlim()
    gap = 0.05 * (right - left)
    classes = np.array([text.get_position() for text in axes.texts]).reshape(-1, 2)
    places = _places(ends, list(colors), classes, gap=gap)
    # no number on a coloured line
    along = (1 - _SHARES) * ends[list(colors), None, 0] + _SHARES * ends[list(colors), None, 1]
    taken = np.concatenate([classes, *places.values(), along.reshape(-1, 2)], axis=None).reshape(-1, 2)
    places |= _places(ends, [pair for pair in range(len(ends)) if pair not in colors], taken, gap=gap)
    for pair, place in places.items():
        color = colors.get(pair, "0.35")
        axes.annotate(
            str(pair + 1),
            place,
            color=color,
            fontsize=6,
            ha="center",
            va="center",
            zorder=7,
            bbox={"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": color, "linewidth": 0.6},
        )


def _places(ends: NDArray, pairs: list[int], taken: NDArray, *, gap: float) -> dict[int, NDArray]:
    """Where the lines of ``pairs`` have their numbers: near an end, and apart from each other and from ``taken``.

    Args:
        ends: ``(n, 2, 2)``, start and end of each line.
        pairs: rows of ``ends``.
        taken: ``(k, 2)``, places where something is drawn already.
        gap: numbers so far apart do not touch.
    """
    taken = list(taken)
    places: dict[int, NDArray] = {}
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    for pair in pairs:
        start, end = ends[pair]
        outward = (end - start) / max(np.linalg.norm(end - start), 1e-12)
        # beyond the ends first, then on the line from its ends inwards, then around the ends
        candidates = [end + 0.5 * gap * outward, start - 0.5 * gap * outward]
        candidates += [
            at + share * (other - at) for share in _SHARES[:10] for at, other in ((end, start), (start, end))
        ]
        candidates += [at + reach * gap * turn for reach in (0.7, 1.2) for at in (end, start) for turn in around]
        room = [min((np.linalg.norm(at - other) for other in taken), default=np.inf) for at in candidates]
        places[pair] = candidates[next((i for i, free in enumerate(room) if free >= gap), int(np.argmax(room)))]
        taken.append(places[pair])
    return places
