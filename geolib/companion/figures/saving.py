"""One way to save a figure: PNG, PDF, where it moves a GIF, and a sidecar that says what made it."""

import json
import textwrap
from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.figure import Figure

from geolib.companion.cache import store
from geolib.companion.figures import animation
from geolib.companion.figures.print_check import complaints
from geolib.companion.figures.provenance import Run, show_markdown

_LETTERS_PER_INCH = 22  # at 6 points
_SHOWN = 110  # pixels per inch in a notebook


def save(
    run: Run,
    figure: Figure,
    name: str,
    *,
    caption: str,
    numbers: list[dict[str, Any]] | None = None,
    claims: list[dict[str, Any]] | None = None,
    frames: Iterable[Figure] | None = None,
) -> None:
    """Write ``NN_name.png``, ``.pdf`` and the sidecar ``NN_name.json``; in a notebook, show figure and caption.

    With ``frames`` there is a ``NN_name.gif``, too, which the Makefile has to know of (``ANIMATED``).

    The profile and, where the data are a substitute, the data are named under the figure itself, in its caption and in
    the sidecar. Such a run decides no claim: its verdicts are "not testable here". Pictures carry no time and no
    version, so that the same run gives the same bytes on one machine.

    Args:
        run: from ``provenance.begin``.
        figure: closed afterwards.
        name: what the figure shows; its file's name after the notebook's number.
        caption: what is seen, and from what data.
        numbers: rows of the numbers table, from ``evidence.number``.
        claims: lines of the verdicts, from ``Claim.decide``.
        frames: of the animation, as ``animation.write`` takes them.

    Raises:
        OSError: where the directory cannot be written; whatever was there before is left as it was.
    """
    source = f"Profile: {run.profile}." + (f" Data: {run.notice}." if run.notice else "")
    _name_source(figure, source)
    # laid out once: a second layout starts from the first one's result and can differ from it
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    complained = complaints(figure)  # before the files, which place labels for their own resolution
    stem = f"{run.notebook[:2]}_{name}"
    directory = store.figures_directory()
    for suffix, metadata in (
        (".png", {"Software": None}),
        (".pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
    ):
        with store.replacing(directory / f"{stem}{suffix}") as temporary:
            figure.savefig(temporary, metadata=metadata)
    moving = directory / f"{stem}.gif"
    if frames is not None:
        with store.replacing(moving) as temporary:
            animation.write(temporary, frames, lambda each: _name_source(each, source))
    caption = f"{caption} {source}"
    sidecar = {
        "figure": stem,
        "caption": caption,
        "numbers": numbers or [],
        "claims": [run.judge(claim) for claim in claims or []],
        "print": complained,
        **run.sidecar(),
    }
    # the sidecar last: where it stands, the pictures do too
    store.write_text(directory / f"{stem}.json", json.dumps(sidecar, indent=1, allow_nan=False) + "\n")
    if get_ipython() is not None:
        picture = (directory / f"{stem}.png").read_bytes()  # drawn already
        display(Image(data=picture, format="png", width=round(_SHOWN * figure.get_figwidth())))
        if frames is not None:
            display(Image(data=moving.read_bytes(), format="gif"))
    show_markdown(f"*{caption}*")
    plt.close(figure)


def _name_source(figure: Figure, source: str) -> None:
    if not figure.get_supxlabel():
        wrapped = textwrap.fill(source, int(_LETTERS_PER_INCH * figure.get_figwidth()))
        figure.supxlabel(wrapped, fontsize=6, color="0.35", ha="left", x=0.01)
