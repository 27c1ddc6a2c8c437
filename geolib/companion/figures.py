"""One style, one way to save a figure: PNG, PDF and a sidecar that says what made it."""

import json
import math
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from geolib.companion import store
from geolib.companion.provenance import Run

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


def number(
    key: str, quantity: str, value: float | str, *, unit: str = "", paper: float | str | None = None, note: str = ""
) -> dict[str, Any]:
    """One row of the numbers table.

    Args:
        key: the figure or claim, as in ``figures/README.md``, e.g. ``"MB-2"``.
        quantity: what is counted or measured.
        value: this run's.
        unit: e.g. ``"%"``.
        paper: what the paper reports, or None where it gives no number.
        note: where and why this run differs from the paper, or what limits the value.
    """
    if isinstance(value, float) and not math.isfinite(value):
        value = None  # JSON has no NaN; the table shows a dash
    return {"id": key, "quantity": quantity, "value": value, "unit": unit, "paper": paper, "note": note}


def save(run: Run, figure: Figure, name: str, *, caption: str, numbers: list[dict[str, Any]] | None = None) -> Figure:
    """Write ``NN_name.png``, ``.pdf`` and the sidecar ``NN_name.json`` into the figures' directory.

    A substitute data set is named under the figure itself, in its caption and in the sidecar. PNG and PDF carry no
    time and no version, so that the same run gives the same bytes on one machine.

    Raises:
        OSError: where the directory cannot be written; whatever was there before is left as it was.
    """
    notice = run.data.notice if run.data is not None else ""
    if notice and not figure.get_supxlabel():
        figure.supxlabel(f"Data: {notice}", fontsize=6, color="0.35", ha="left", x=0.01)
    # laid out once: a second layout starts from the first one's result and can differ from it
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    stem = f"{run.notebook[:2]}_{name}"
    directory = store.figures_directory()
    for suffix, metadata in (
        (".png", {"Software": None}),
        (".pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
    ):
        with store.replacing(directory / f"{stem}{suffix}") as temporary:
            figure.savefig(temporary, metadata=metadata)
    sidecar = {
        "figure": stem,
        "caption": f"{caption} Data: {notice}." if notice else caption,
        "numbers": numbers or [],
        **run.sidecar(),
    }
    # the sidecar last: where it stands, the pictures do too
    store.write_text(directory / f"{stem}.json", json.dumps(sidecar, indent=1, allow_nan=False) + "\n")
    return figure
