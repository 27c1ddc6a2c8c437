"""Panels of notebook 17: what an isometric regulariser does to condition, straight lines and reconstruction."""

import numpy as np
from matplotlib.figure import Figure

from geolib.companion.figures import plots, style
from geolib.companion.studies import summaries
from geolib.companion.studies.generative_models.isometry import SHOWN, Isometry

_DOTS = 1500


def maps(found: Isometry) -> Figure:
    """B-5: the condition number over the latent space at three strengths, on one scale."""
    figure, axes = plots.new_figure(style.PAGE, 2.5, columns=len(SHOWN))
    top = plots.limits_at(found.trained[0.0].kappa_at_data.log10())["vmax"]
    for panel, strength in zip(axes, SHOWN, strict=True):
        one = found.trained[strength]
        picture = plots.heat_map(panel, one.grid, one.kappa.log10(), cmap=style.FIELD, vmin=0.0, vmax=top)
        panel.scatter(
            *plots.to_numpy(one.g.test_latents[:_DOTS]).T, s=0.4, color="white", linewidths=0, rasterized=True
        )
        plots.label_classes(panel, one.g.test_latents, one.g.test_labels)
        panel.set_title("without" if strength == 0 else f"strength {strength:g}")
    for panel in axes[1:]:
        panel.set_ylabel("")
    plots.color_bar(picture, list(axes), r"$\log_{10}\kappa(M_z)$")
    return figure


def strengths(found: Isometry) -> Figure:
    """B-5: mean relative improvement, condition number and reconstruction over the strength."""
    figure, axes = plots.new_figure(style.PAGE, 2.3, columns=3)
    names = [f"{w:g}" for w in found.trained]
    x = np.arange(len(names))
    for kind, label, color, marker in (
        ("without", "no variance", style.PALETTE[0], "o"),
        ("with_sigma", "RBF variance", style.PALETTE[4], "s"),
    ):
        shown = [getattr(one, kind) for one in found.trained.values()]
        means, halves = [100 * s.mean for s in shown], [100 * s.half_width for s in shown]
        axes[0].errorbar(x, means, yerr=halves, fmt=f"{marker}-", color=color, markersize=3.5, linewidth=1, label=label)
    kappas = [summaries.median(one.kappa_at_data) for one in found.trained.values()]
    errors = [one.error_ratio for one in found.trained.values()]
    axes[1].plot(x, kappas, "o-", color=style.PALETTE[0], markersize=3.5, linewidth=1)
    axes[2].plot(x, errors, "o-", color=style.PALETTE[0], markersize=3.5, linewidth=1)
    labels = (
        "mean relative improvement [%]",
        r"median $\kappa(M_z)$ at the data",
        "squared error over that of\n2 components",
    )
    for panel, label in zip(axes, labels, strict=True):
        panel.set(xlabel="strength", ylabel=label, xticks=x, xticklabels=names)
        panel.tick_params(axis="x", labelrotation=45)
    axes[0].set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
