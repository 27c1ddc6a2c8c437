"""The look of every figure: sizes, fonts, palette."""

import matplotlib as mpl
import seaborn as sns

COLUMN = 3.4  # inches: one column of a two-column page
PAGE = 7.0  # both columns
DPI = 200


def set_style() -> None:
    """The look of every figure; legible at the printed width."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind")
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": DPI,
            "figure.constrained_layout.use": True,
            "font.size": 8,
            "axes.titlesize": 8.5,
            "axes.labelsize": 8,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7,
            "legend.title_fontsize": 7,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "image.interpolation": "nearest",
            "pdf.fonttype": 42,  # text stays text
        }
    )
