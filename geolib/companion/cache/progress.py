"""What a long computation is doing: a line for the process that runs the notebook, or a progress bar for a person.

``make figures`` names a file in ``$GEOLIB_PROGRESS`` and shows what it holds. What is said there does not pass through
the notebook, so that no executed notebook stores it. Without that variable a person looks at the notebook itself: bars
are drawn there, and ``say`` does nothing.
"""

import contextlib
import os
import sys
from pathlib import Path

from tqdm.std import tqdm

VARIABLE = "GEOLIB_PROGRESS"


def say(text: str) -> None:
    """Replace the line that is shown by ``text``; the empty one means that there is nothing to say."""
    if not os.environ.get(VARIABLE):
        return
    path = Path(os.environ[VARIABLE])
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a computation does not fail because nobody can be told of it
        beside.write_text(" ".join(text.split()), encoding="utf-8")
        os.replace(beside, path)


class _Said:
    """A stream whose lines are said. tqdm ends a bar with an empty line, which takes the last one away."""

    def write(self, text: str) -> None:
        say(text)

    def flush(self) -> None:
        """A line is written at once."""


def bar(*, total: int | None, description: str, unit: str, initial: int = 0, unit_scale: bool = False) -> tqdm:
    """A tqdm bar for a person, or a line for the process that runs the notebook.

    Args:
        total: how many steps there are; None where nobody knows.
        description: what is done, e.g. ``"VAE"``.
        unit: what is counted, e.g. ``" epochs"``, with the space that belongs between the number and the unit.
        initial: steps that were done before.
        unit_scale: whether numbers are shortened, as in 1.2M.
    """
    options = {"total": total, "desc": description, "unit": unit, "initial": initial, "unit_scale": unit_scale}
    if not os.environ.get(VARIABLE):
        return tqdm(**options, mininterval=1, file=sys.stdout)
    of = "{desc}: {n_fmt} of {total_fmt}" if total is not None else "{desc}: {n_fmt}"
    return tqdm(**options, mininterval=0.2, file=_Said(), bar_format=f"{of}{{unit}}{{postfix}}")
