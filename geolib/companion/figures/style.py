"""The look of every figure: printed sizes, fonts, one palette that is safe for colour-blind readers."""

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.colors import LinearSegmentedColormap

COLUMN = 3.3  # inches: one column of a two-column page
PAGE = 6.8  # both columns
DPI = 200

# Okabe & Ito 2008, in an order that keeps neighbours apart
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# fields: perceptually uniform, readable in grey
FIELD = "viridis"
MAGNITUDE = "magma"
# a field behind lines and labels stays light
GROUND = LinearSegmentedColormap.from_list("ground", ["1.0", "0.55"])
# what matters most is darkest: many thin lines on a light ground, of which a few stand out
LINES = LinearSegmentedColormap.from_list("lines", mpl.colormaps[MAGNITUDE](np.linspace(0.9, 0.05, 256)))
COLOR_MAPS = (FIELD, MAGNITUDE, GROUND, LINES)


def set_style() -> None:
    """Set fonts, sizes and colours for every figure that follows; text is 7 to 9 points at the printed size."""
    sns.set_theme(context="paper", style="ticks", palette=PALETTE)
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
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "image.interpolation": "nearest",
            "pdf.fonttype": 42,  # text stays text
        }
    )
