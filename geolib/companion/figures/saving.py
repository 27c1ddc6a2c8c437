"""One way to save a figure: PNG, PDF and a sidecar that says what made it."""

import json
from typing import Any

from matplotlib.figure import Figure

from geolib.companion.cache import store
from geolib.companion.figures.provenance import Run


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
